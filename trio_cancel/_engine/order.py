"""One order's cancel while it is under way: its attempts, its clock, and what they add up to (pure).

A :class:`OrderCancel` belongs to the engine from the moment it is handed in until it settles; whoever waits for it
learns the outcome through :meth:`OrderCancel.deliver`, which only delivers what has been settled before.

Its clock (``give_up_after``) runs from the first write on. While it is held back it stands still, but for the time in
which the venue gives no sign of life: see ``_engine.silence``.
"""

from __future__ import annotations

import enum
import math

import attrs
import msgspec

from trio_cancel._engine.looking import Looking
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Attempt, NotSent, Outcome, Rejected, Unknown, VenueReply


@attrs.frozen
class RetryPolicy:
    """How long and how often an order is tried.

    Attributes:
        reply_timeout: seconds after its write from which an attempt counts as unanswered.
        give_up_after: seconds after the first write until the last attempt is given up.
        retry: whether there is more than one attempt.
    """

    reply_timeout: float = 12.0
    give_up_after: float = 30.0
    retry: bool = True


class State(enum.Enum):
    """Where an order's cancel stands."""

    QUEUED = enum.auto()
    """Not yet let through by window and pace."""
    ADMITTED = enum.auto()
    """Let through; about to be signed and written."""
    IN_FLIGHT = enum.auto()
    """Written; an answer can come."""
    RETRYING = enum.auto()
    """Waits for its next attempt."""
    LOOKED_UP = enum.auto()
    """Would have ended without the truth; is being looked up."""
    SETTLED = enum.auto()


_QUEUED = State.QUEUED
_LONG_AGO = -math.inf


class LiveAttempt:
    """One attempt on one connection."""

    __slots__ = (
        "answered_at",
        "connection",
        "deadline",
        "may_have_applied",
        "pending",
        "request_id",
        "status",
        "written",
        "written_at",
    )

    def __init__(
        self, pending: OrderCancel, request_id: str, connection: int, written: float, written_at: float, deadline: float
    ) -> None:
        self.pending: OrderCancel = pending
        self.request_id: str = request_id
        self.connection: int = connection
        self.written: float = written  # trio's clock
        self.written_at: float = written_at  # Unix seconds
        self.deadline: float = deadline  # trio's clock
        self.answered_at: float | None = None
        self.status: int | None = None
        self.may_have_applied: bool = False  # its answer says nothing of the order: it may have been applied


class OrderCancel:
    """One order's cancel until it settles.

    All is set at once, in slots: both making one and reading it are twice as fast so as with defaults in the class.

    Attributes:
        request: the order.
        terms: how long and how often it is tried.
        priority: a single cancel, which overtakes those of bulk ones.
        state: where it stands.
        outcome: what became of it, once it has settled.
        flights: its attempts that were written, oldest first.
        error: the venue's last error.
        doubt: why an attempt left the order unknown.
        abandoned: the caller has left: no further attempt.
        looked_again: its signature was refused, and the venue's clock looked at again before it is signed anew.
        refused_for_good: refused for good: no further attempt, only answers to earlier ones.
        retries: how many answers that say nothing have led to another attempt.
        running_from: trio's clock since which its time runs; None while it stands still.
        time_spent: seconds that it has run before.
        not_before: trio's clock before which its next attempt must not be written.
        held_since: trio's clock when it was handed in; later, since when the pace has held its next attempt back.
        handed_in: trio's clock when it was handed in; None as long as ``held_since`` says so.
        intent: its number in the journal, once it has one.
        looking: its lookups; None if there was none.
        learned: the venue's id of the order, where it was canceled by external id and an answer named it.
    """

    __slots__ = (
        "abandoned",
        "doubt",
        "error",
        "flights",
        "handed_in",
        "held_since",
        "intent",
        "learned",
        "looked_again",
        "looking",
        "not_before",
        "outcome",
        "priority",
        "refused_for_good",
        "request",
        "retries",
        "running_from",
        "state",
        "terms",
        "time_spent",
    )

    def __init__(self, request: CancelRequest, terms: RetryPolicy) -> None:
        self.request: CancelRequest = request
        self.terms: RetryPolicy = terms
        self.priority: bool = False
        self.state: State = _QUEUED
        self.outcome: Outcome | None = None
        self.flights: tuple[LiveAttempt, ...] = ()
        self.error: VenueReply | None = None
        self.doubt: BaseException | None = None
        self.abandoned: bool = False
        self.looked_again: bool = False
        self.refused_for_good: bool = False
        self.retries: int = 0
        self.running_from: float | None = None
        self.time_spent: float = 0.0
        self.not_before: float = _LONG_AGO
        self.held_since: float = _LONG_AGO
        self.handed_in: float | None = None
        self.intent: int = 0
        self.looking: Looking | None = None
        self.learned: CancelRequest | None = None

    def deliver(self) -> None:
        """Hand ``self.outcome`` to whoever waits; never raises, never blocks."""
        raise AssertionError("each kind of OrderCancel delivers in its own way")

    def spent(self, now: float, silent_since: float) -> float:
        """Return the seconds of ``give_up_after`` that are used up.

        Args:
            now: trio's clock.
            silent_since: since when the venue has given no sign of life; inf if it lives.
        """
        since = max(silent_since, self.held_since)
        if self.running_from is not None:
            since = min(since, self.running_from)
        spent = self.time_spent + max(0.0, now - since)
        if self.handed_in is not None:
            # The pauses that a pace has made stand in no sum; where the venue was silent in them, they count.
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

        After an attempt that was unanswered, or whose answer says nothing of the order (5xx, one that cannot be read, a
        refusal that is not listed), it is Unknown; else a refusal makes it Rejected; else nothing was written.
        """
        looking = self.looking
        if looking is not None and self.state is State.LOOKED_UP:
            return msgspec.structs.replace(looking.outcome, attempts=self.attempts(), final=final)
        seen = None if looking is None else looking.outcome.seen
        if self.flights and self.may_have_applied_but(None):
            return Unknown(
                self.request,
                self.attempts(),
                error=self.error,
                after_unanswered=True,
                seen=seen,
                cause=self.doubt or cause or NoReply(f"no answer within {self.terms.reply_timeout:g} s"),
                final=final,
            )
        if looking is not None:
            # It was looked up because an answer had left it open; a later attempt that was refused closes nothing.
            return msgspec.structs.replace(looking.outcome, attempts=self.attempts(), error=self.error, final=final)
        if self.error is not None:
            late = clock if self.error.refuses_signature and clock is not None and clock.excludes_zero else None
            return Rejected(self.request, self.attempts(), error=self.error, clock=late, final=final)
        cause = cause or NotWritten(f"it could not be written within {self.terms.give_up_after:g} s")
        return NotSent(self.request, self.attempts(), cause=cause, final=final)
