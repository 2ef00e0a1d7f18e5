"""What a journal says about each order, and which orders a dead process left."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Literal

import attrs

from trio_cancel._journal.rows import AttemptRow, SessionRow, Tables, request_of, seconds
from trio_cancel._journal.stores import read_tables
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest, canonical_id
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Canceled, NotFound, Unknown
from trio_cancel._venue.verdict import closed_as

DISMISSED = "dismissed"
"""The kind of an entry that is not a cancel: it says that an order which was left stays as it is."""
_OFF_BOOK = (Canceled.kind, AlreadyClosed.kind)


@attrs.frozen
class JournalHold:
    """An order in a scope. Times are Unix seconds.

    Attributes:
        number: its number among the holds and cancels of this journal, from 1.
        session: the session whose scope it was.
        held_at: when it was added.
        released_at: when it was discarded or found off the book; None if it never was.
        placed_at: when its scope was told that the venue has it; None if it was never told.
        order_id: the venue's id for it, if its scope was told; None for one that was added by that id.
        clock: the bounds of the venue's clock minus ours at that time; None if nothing was known.
    """

    number: int
    session: int
    held_at: float
    released_at: float | None = None
    placed_at: float | None = None
    order_id: str | None = None
    clock: OffsetInterval | None = None


@attrs.frozen
class JournalCancel:
    """One cancel of an order, from its intent to its outcome. Times are Unix seconds.

    Attributes:
        number: its number among the holds and cancels of this journal, from 1.
        session: the session that canceled.
        intended_at: when the intent was recorded; its first byte was written after that was durable.
        attempts: the requests that are known to have been written. After a crash, there may have been others.
        connections: for each attempt, the number of the connection that carried it, counted by its session from 1.
        kind: the kind of its outcome (``"canceled"``, …); None if its process is working on it, or died;
            ``"dismissed"`` if nothing was canceled, because the order was dismissed with ``ws.dismiss(…)``.
        settled_at: when it had its outcome; None if it has none.
        error_code: the venue's code, if it refused with one.
    """

    number: int
    session: int
    intended_at: float
    attempts: tuple[Attempt, ...] = ()
    kind: str | None = None
    settled_at: float | None = None
    error_code: int | None = None
    connections: tuple[int, ...] = ()

    @property
    def closed_as(self) -> Literal["canceled", "executed"] | None:
        """``"canceled"`` or ``"executed"`` for an order that was closed before, if the venue says which; else None."""
        return closed_as(self.error_code) if self.kind == AlreadyClosed.kind else None


@attrs.frozen
class JournalOrder:
    """Everything that a journal knows about one order.

    Attributes:
        request: the order, as it was named.
        holds: when it was in a scope, oldest first.
        cancels: its cancels, oldest first.
        open_holds: the holds that nothing has ended.
        unsettled: True if a cancel of it has no outcome or ended as Unknown, and no later cancel found out more.
        known_at: for an order that is left: until when (Unix seconds) its session certainly meant this order by its id.
            If a later session began at an earlier time, because the clock was set back, it is that time.
        meant: the venue's id of the order that the unsettled cancel meant, if it is known besides the name.
    """

    request: CancelRequest
    holds: tuple[JournalHold, ...]
    cancels: tuple[JournalCancel, ...]
    open_holds: tuple[JournalHold, ...]
    unsettled: bool
    known_at: float = attrs.field(eq=False)
    meant: str | None = None

    @property
    def held(self) -> bool:
        """True if a scope held it, and nothing has said since then that it is off the book."""
        return bool(self.open_holds)

    @property
    def left(self) -> bool:
        """True if it may be on the book, and a process that was to cancel it has died."""
        return self.held or self.unsettled


@attrs.frozen
class JournalSession:
    """One ``open_trading_ws`` block that wrote the journal. Times are Unix seconds.

    Attributes:
        number: its number among the sessions of this journal, from 1.
        opened_at: when it began.
        alive_at: when it last gave a sign of life.
        closed_at: when it ended in an orderly way; None if it is alive, or died.
    """

    number: int
    opened_at: float
    alive_at: float
    closed_at: float | None


@attrs.frozen
class JournalContents:
    """What a journal says at one moment.

    Attributes:
        url: the venue's url.
        sessions: the sessions that wrote it, oldest first.
        orders: the orders in it, in the order in which they first came up.
    """

    url: str
    sessions: tuple[JournalSession, ...]
    orders: tuple[JournalOrder, ...]

    @property
    def left(self) -> tuple[JournalOrder, ...]:
        """The orders that were left held or unsettled; while a session writes the journal, its own are among them."""
        return tuple(order for order in self.orders if order.left)


def read_journal(path: str | os.PathLike[str]) -> JournalContents:
    """Read a journal, also while a session is writing it. It blocks for as long as reading takes.

    If SQLite cannot read a file in its place, as on a read-only mount, a copy in a temporary directory is read. If the
    last session did not end in an orderly way and the ``-wal`` of the file is missing, a warning is logged.

    Args:
        path: what ``open_trading_ws(journal=…)`` was given.

    Raises:
        JournalError: there is none, it is damaged or newer than this library, or neither it nor a copy in a temporary
            directory can be read. It was not changed.
    """
    return contents_of(read_tables(path))


@attrs.define(eq=False)
class _Story:
    """One order while its rows are put together; holds and cancels by their numbers."""

    request: CancelRequest  # as it was named first
    first: float = math.inf  # the least of the numbers
    holds: dict[int, JournalHold] = attrs.field(factory=dict)
    cancels: dict[int, JournalCancel] = attrs.field(factory=dict)


def contents_of(tables: Tables) -> JournalContents:
    """Put a journal's rows together."""
    released = dict(tables.releases)
    outcomes = {intent: (kind, settled, code) for intent, kind, settled, code in tables.outcomes}
    attempts: dict[int, list[AttemptRow]] = {}
    for row in tables.attempts:
        attempts.setdefault(row[1], []).append(row)
    sessions = {row.number: row for row in tables.sessions}
    alive = {row.number: max(row.alive, row.closed or 0) for row in tables.sessions}
    placed = {hold: (told, order_id) for hold, told, order_id in tables.placed}
    stories: dict[tuple[int, str], _Story] = {}

    def story_of(number: int, session: int, external: int, key: str, at: int) -> _Story:
        alive[session] = max(alive.get(session, 0), at)
        name = (external, key if external else canonical_id(key))
        story = stories.get(name)
        if story is None:
            story = stories[name] = _Story(request_of(external, key))
        if number < story.first:
            story.first, story.request = number, request_of(external, key)
        return story

    for number, session, external, key, at, low, high in tables.holds:
        placed_at, order_id = placed.get(number, (None, None))
        story_of(number, session, external, key, at).holds[number] = JournalHold(
            number,
            session,
            at / 1e6,
            seconds(released.get(number)),
            placed_at=seconds(placed_at),
            order_id=order_id,
            clock=None if low is None or high is None else OffsetInterval(low / 1000, high / 1000),
        )
    for number, session, external, key, at in tables.intents:
        kind, settled, code = outcomes.get(number, (None, None, None))
        written = attempts.get(number, ())
        tried, connections = _attempts(written, sessions.get(session)), tuple(row[2] for row in written)
        story_of(number, session, external, key, at).cancels[number] = JournalCancel(
            number, session, at / 1e6, tried, kind, seconds(settled), code, connections
        )
        alive[session] = max(alive[session], settled or 0)
    closed: dict[
        CancelRequest, int
    ] = {}  # what a cancel by the venue's id found off the book, with the last one's number
    told: dict[CancelRequest, int] = {}  # the same, and what the venue said that it does not know
    for story in stories.values():
        request = story.request
        for number, cancel in () if request.id is None else story.cancels.items():
            if cancel.kind in _OFF_BOOK:
                closed[request] = number
            if cancel.kind in (*_OFF_BOOK, NotFound.kind):
                told[request] = number
    caps = _caps(tables.sessions)
    lives = {number: at / 1e6 for number, at in alive.items()}
    # Until when each session surely meant what it wrote: its last sign of life, or an earlier beginning of a later one.
    known = {number: min(at, caps.get(number, math.inf)) for number, at in lives.items()}
    return JournalContents(
        tables.url,
        tuple(JournalSession(s.number, s.opened / 1e6, lives[s.number], seconds(s.closed)) for s in tables.sessions),
        tuple(_order(story, known, closed, told) for story in sorted(stories.values(), key=lambda story: story.first)),
    )


def _caps(sessions: list[SessionRow]) -> dict[int, float]:
    """Return, for each session, the earliest time at which a later one began: its own stamps cannot be younger."""
    caps, earliest = {}, math.inf
    for session in reversed(sessions):
        caps[session.number] = earliest
        earliest = min(earliest, session.opened / 1e6)
    return caps


def _attempts(rows: Iterable[AttemptRow], session: SessionRow | None) -> tuple[Attempt, ...]:
    prefix, first = ("?", 0) if session is None else (session.prefix, session.first_attempt)
    return tuple(
        Attempt(f"{prefix}-{number - first}", written / 1e6, seconds(answered), status)
        for number, _, _, written, answered, status in rows
    )


def _order(
    story: _Story, known: dict[int, float], closed: dict[CancelRequest, int], told: dict[CancelRequest, int]
) -> JournalOrder:
    """Put one order together; the arguments are as in :func:`contents_of`."""
    request = story.request
    unsettled: JournalCancel | None = None
    for cancel in story.cancels.values():
        if cancel.kind is None or cancel.kind == Unknown.kind:
            unsettled = cancel
        elif cancel.kind in (*_OFF_BOOK, NotFound.kind, DISMISSED):
            # A refusal, or a cancel that was not sent, does not say what an earlier one did.
            unsettled = None
    # A yes for an external id may be about an older order of that name. Only its session knew, and released the hold.
    held = [hold for hold in story.holds.values() if hold.released_at is None and not _is_closed(request, hold, closed)]
    meant = None
    if unsettled is not None:
        # It meant the order that was held under the name then: that of the last hold before it.
        before = [hold for number, hold in story.holds.items() if number < unsettled.number]
        named = order_of(request, before[-1]) if before else None
        if named is not None and (named in closed or told.get(named, 0) > unsettled.number):
            unsettled = None
        elif request.id is None and named is not None:
            meant = named.id
    # A scope means this very order for as long as its session lives; a mere cancel meant it when it was made. If the
    # venue's id is known as well, the age of the name does not matter.
    by_name = [hold for hold in held if hold.order_id is None] or held
    return JournalOrder(
        request,
        tuple(story.holds.values()),
        tuple(story.cancels.values()),
        open_holds=tuple(held),
        unsettled=unsettled is not None,
        known_at=max(
            [
                0.0 if unsettled is None else min(unsettled.intended_at, known[unsettled.session]),
                *(known[hold.session] for hold in by_name),
            ]
        ),
        meant=meant,
    )


def _is_closed(request: CancelRequest, hold: JournalHold, closed: dict[CancelRequest, int]) -> bool:
    """Return True if a cancel by the venue's id has found the order of a hold off the book."""
    named = order_of(request, hold)
    # An order that was added by the venue's id after that is canceled again all the same.
    return named is not None and named in closed and (request.id is None or hold.number < closed[named])


def order_of(request: CancelRequest, hold: JournalHold) -> CancelRequest | None:
    """Return the order that a hold means by the venue's id, if that is known."""
    if request.id is not None:
        return request
    return None if hold.order_id is None else request_of(0, hold.order_id)
