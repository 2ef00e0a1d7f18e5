"""One order's cancel while it is under way: its state, attempts and clock, and what they add up to (sans-I/O).

Only this module assigns an order's state. The drawing shows the steps that an order may take, :class:`State` has them
as a table, and any other step raises :class:`IllegalStep`. That is a bug of ours. It stops at the boundary of the task
in which it happens, and ends the connection or the session, so that the order still gets a true outcome::

                   ┌─────────────── not written after all ──────────────┐
                   │                                                    ▼
    QUEUED ──► ADMITTED ──────► IN_FLIGHT ──── no good answer ──► RETRYING ──► ADMITTED
       │           │             │  ▲  ▲                           │  │ ▲
       │           │             │  │  └── refused, or caller left ─┘  │ │
       │           │             ▼  │                                 ▼ │
       │           └──────────► LOOKED_UP ◄── late answer, no good ───┘ │
       │           │             │   └─────────── seen on the book ─────┘
       ▼           ▼             ▼
    SETTLED ◄── from every state; nothing leads out of it

An order in flight may enter that state again, and so may an order that waits for its next attempt.

An :class:`OrderCancel` belongs to the engine from the moment it is handed in until it settles. Whoever waits for it has
made it with the send side of a memory channel that has room for it, or with something that accepts it in the same way
(a batch, which keeps its outcome at once). It is sent there once, settled.

Its clock (``give_up_after``) runs from the first write. While the order is held back the clock stops, except while the
venue shows no sign of life: see ``_engine.silence``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Protocol

import attrs
import msgspec
import trio

from trio_cancel._engine.lookup_progress import LookupProgress
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Attempt, NotSent, Outcome, Rejected, Unknown, VenueReply


@attrs.frozen
class RetryPolicy:
    """How long and how often an order is tried."""

    reply_timeout: float = 12.0  # seconds after its write from which an attempt counts as unanswered
    give_up_after: float = 30.0  # seconds after the first write until the last attempt is given up
    retry: bool = True  # whether there may be more than one attempt


class IllegalStep(AssertionError):
    """An order was about to take a step that :class:`State` does not list: a bug in this library."""


class State(enum.Enum):
    """The state of an order's cancel.

    Attributes:
        leads_to: the states that may follow, the usual one first.
    """

    leads_to: tuple[State, ...]

    QUEUED = enum.auto()
    """Not yet admitted by window and pace."""
    ADMITTED = enum.auto()
    """Admitted; about to be signed and written."""
    IN_FLIGHT = enum.auto()
    """Written; an answer can come."""
    RETRYING = enum.auto()
    """Waits for its next attempt."""
    LOOKED_UP = enum.auto()
    """Would have ended as Unknown or NotFound; is being looked up."""
    SETTLED = enum.auto()


_QUEUED, _ADMITTED, _IN_FLIGHT, _RETRYING, _LOOKED_UP, _SETTLED = State

# (A tuple is searched by identity first; the hash of a member would be a call of Python code.)
_QUEUED.leads_to = (_ADMITTED, _SETTLED)
_ADMITTED.leads_to = (_IN_FLIGHT, _RETRYING, _SETTLED, _LOOKED_UP)
_IN_FLIGHT.leads_to = (_SETTLED, _RETRYING, _LOOKED_UP, _IN_FLIGHT)
_RETRYING.leads_to = (_ADMITTED, _SETTLED, _IN_FLIGHT, _LOOKED_UP, _RETRYING)
_LOOKED_UP.leads_to = (_SETTLED, _RETRYING)
_SETTLED.leads_to = ()


class LiveAttempt(msgspec.Struct, eq=False, gc=False):
    """One attempt on one connection.

    The garbage collector does not visit it: thousands come and go each second, and would keep it running. So the cycle
    with its order must be broken.
    """

    order: OrderCancel  # removed once the order has settled, or forgotten the attempt
    request_id: str
    connection: int
    written: float  # trio's clock
    written_at: float  # Unix seconds
    deadline: float  # trio's clock from which it counts as unanswered
    answered_at: float | None = None  # Unix seconds; None while no answer has come
    status: int | None = None  # of the answer
    may_have_applied: bool = False  # its answer says nothing about the order, which may have been applied


class SettledTo(Protocol):
    """Where a settled order is sent: the send side of a memory channel with room for it, or something similar."""

    def send_nowait(self, order: OrderCancel, /) -> None:
        """Take it, without waiting."""


class OrderCancel(msgspec.Struct, eq=False):
    """One order's cancel until it settles. Read its state anywhere; only this module assigns it."""

    request: CancelRequest
    policy: RetryPolicy
    settled_to: SettledTo
    priority: bool = False  # a single cancel, which overtakes those of bulk ones
    place: int = 0  # its place among the orders of its bulk
    held_since: float = -math.inf  # trio's clock when it was handed in; later, since when the pace has held it back
    handed_in: float | None = None  # trio's clock when it was handed in; None as long as `held_since` says so
    state: State = _QUEUED
    outcome: Outcome | None = None
    # (Not one tuple: most orders have one attempt, and a tuple for each would make the collector run more often.)
    latest: LiveAttempt | None = None  # its last attempt that was written
    earlier: tuple[LiveAttempt, ...] = ()  # those before it, oldest first
    error: VenueReply | None = None  # the venue's last error
    doubt: BaseException | None = None  # why an attempt left the order unknown
    abandoned: bool = False  # the caller has left: no further attempt
    signed_again: bool = False  # its signature was refused, and it is signed anew after a check of the venue's clock
    refused_for_good: bool = False  # no further attempt, only answers to earlier ones
    retries: int = 0  # how many answers that say nothing have led to another attempt
    running_from: float | None = None  # trio's clock since which its time runs; None while its clock is stopped
    time_spent: float = 0.0  # seconds for which it has run before
    not_before: float = -math.inf  # trio's clock before which its next attempt must not be written
    intent: int = 0  # its number in the journal, once it has one
    unrecorded: bool = False  # it may be written although the journal could not record its intent first
    lookup: LookupProgress | None = None  # its lookups
    learned: CancelRequest | None = None  # the venue's id, if it was canceled by external id and an answer named it

    # Its steps

    def _step(self, to: State) -> None:
        if to not in self.state.leads_to:
            raise IllegalStep(f"{self.request}: {self.state.name} does not lead to {to.name}")
        self.state = to

    def admit(self) -> None:
        """Admit it, so that it can be signed."""
        self._step(_ADMITTED)

    def write(self, flight: LiveAttempt) -> None:
        """Note an attempt that is being written."""
        if self.state is not _ADMITTED:
            raise IllegalStep(f"{self.request}: {self.state.name} is not to be written")
        self.state = _IN_FLIGHT
        if self.latest is not None:
            self.earlier = (*self.earlier, self.latest)
        self.latest = flight

    def not_written(self, flight: LiveAttempt) -> None:
        """Forget an attempt that the socket never accepted; another step must follow."""
        del flight.order
        left = [each for each in self.flights if each is not flight]
        self.latest = left.pop() if left else None
        self.earlier = tuple(left)

    def wait_for_answer(self) -> None:
        """Let it wait only for the answers to its attempts."""
        if self.latest is None:
            raise IllegalStep(f"{self.request}: it was never written, so that no answer can come")
        self._step(_IN_FLIGHT)

    def retry(self, at: float) -> None:
        """Let it wait for its next attempt, not before ``at``."""
        self._step(_RETRYING)
        self.not_before = at

    def look_up(self) -> None:
        """Let it be looked up."""
        self._step(_LOOKED_UP)

    def settle(self, outcome: Outcome) -> None:
        """End it; :meth:`deliver` must follow once everything is noted."""
        if self.state is _SETTLED:
            raise IllegalStep(f"{self.request}: an order settles once")
        self.state = _SETTLED
        self.outcome = outcome

    def deliver(self) -> None:
        """Send it to whoever waits for it, once it has settled; never blocks, even if nobody is waiting any more."""
        try:
            self.settled_to.send_nowait(self)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # the one that waited has left

    @property
    def may_retry(self) -> bool:
        """True if another attempt may follow."""
        return self.policy.retry and not self.abandoned and not self.refused_for_good

    @property
    def flights(self) -> tuple[LiveAttempt, ...]:
        """Its attempts that were written, oldest first."""
        latest = self.latest
        return () if latest is None else (*self.earlier, latest) if self.earlier else (latest,)

    @property
    def result(self) -> Outcome:
        """The outcome of an order that has settled."""
        assert self.outcome is not None
        return self.outcome

    def spent(self, now: float, silent_since: float) -> float:
        """Return the seconds of ``give_up_after`` that are used up.

        Args:
            now: trio's clock.
            silent_since: since when the venue has shown no sign of life; inf if it is alive.
        """
        since = max(silent_since, self.held_since)
        if self.running_from is not None:
            since = min(since, self.running_from)
        spent = self.time_spent + max(0.0, now - since)
        if self.handed_in is not None:
            # Pauses that a pace has made are in no sum; if the venue was silent in them, they count.
            spent = max(spent, now - max(silent_since, self.handed_in))
        return spent

    def hold(self, running_until: float) -> None:
        """Stop the clock: since ``running_until`` only the pace has held it back."""
        if self.running_from is not None:
            until = max(running_until, self.running_from)
            self.time_spent += until - self.running_from
            self.running_from = None
            if self.handed_in is None:
                self.handed_in = self.held_since
            self.held_since = until

    def may_have_applied_but(self, flight: LiveAttempt | None) -> bool:
        """Return True if an attempt other than ``flight`` is unanswered, or has an answer that says nothing."""
        return any(f is not flight and (f.answered_at is None or f.may_have_applied) for f in self.flights)

    def attempts(self) -> tuple[Attempt, ...]:
        """Return the attempts that were written, as values."""
        return tuple(Attempt(f.request_id, f.written_at, f.answered_at, f.status) for f in self.flights)

    def conclude(self, cause: BaseException | None, clock: OffsetInterval | None, *, final: bool = True) -> Outcome:
        """Return what the attempts add up to if nothing more comes.

        After an attempt that was unanswered, or whose answer says nothing about the order (5xx, unreadable, a refusal
        that is not listed), it is Unknown; otherwise a refusal makes it Rejected; otherwise nothing was written.
        """
        lookup = self.lookup
        if lookup is not None and self.state is State.LOOKED_UP:
            return msgspec.structs.replace(lookup.outcome, attempts=self.attempts(), final=final)
        seen = None if lookup is None else lookup.outcome.seen
        if self.latest is not None and self.may_have_applied_but(None):
            return Unknown(
                self.request,
                self.attempts(),
                error=self.error,
                after_unanswered=True,
                seen=seen,
                cause=self.doubt or cause or NoReply(f"no answer within {self.policy.reply_timeout:g} s"),
                final=final,
            )
        if lookup is not None:
            # It was looked up because an answer left it open; a later attempt that was refused settles nothing.
            return msgspec.structs.replace(lookup.outcome, attempts=self.attempts(), error=self.error, final=final)
        if self.error is not None:
            late = clock if self.error.refuses_signature and clock is not None and clock.excludes_zero else None
            return Rejected(self.request, self.attempts(), error=self.error, clock=late, final=final)
        cause = cause or NotWritten(f"it could not be written within {self.policy.give_up_after:g} s")
        return NotSent(self.request, self.attempts(), cause=cause, final=final)


def admit_all(orders: Iterable[OrderCancel]) -> None:
    """Admit new orders, in one call for many."""
    for order in orders:
        if order.state is not _QUEUED:
            raise IllegalStep(f"{order.request}: {order.state.name} is not new")
        order.state = _ADMITTED
