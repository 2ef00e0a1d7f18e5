"""What a guard knows of the journals in a database, and which of them it may take over (sans-I/O).

The guard looks at all journals again and again. A journal is *due*, that is, it may be taken over, as this table says:

========  =================================================================  ==========================================
state     due                                                                what restarts the wait
========  =================================================================  ==========================================
``free``  never                                                              (nothing)
``live``  once the same epoch and the same beat were seen for a whole lease  another epoch or beat; a blind gap
``left``  at once; if this guard has tried it, when its pause is over        a session that lived in between
========  =================================================================  ==========================================

A blind gap is a time in which the guard could not look, or did not look often enough: perhaps nobody could reach the
database then, so that no session could give a sign of life. So all waits restart after a failed look, and after two
looks that are more than ``GAP`` of the journal's lease apart: an outage of the database costs no session its journal.

All times are seconds of one clock that goes on while the machine is suspended (``_journal.lease.steady``). What a look
returns was true at some time between its start and its end. A wait counts from the end of the first look that saw a
beat to the start of the last one, so that it is never too short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs

GAP = 0.25
"""The part of a journal's lease for which a guard may be blind. A session beats three times per lease, so that it is
heard within its lease in spite of such a gap."""
FIRST_PAUSE = 1.0
"""Seconds until a journal with something left is tried again; each pause is twice as long as the one before."""
LONGEST_PAUSE = 300.0
"""Seconds."""
LIVED = 2.0
"""Seconds for which an epoch must be seen alive before its journal is tried without a pause again; a take-over is
shorter."""


@attrs.frozen
class Seen:
    """A journal as it was seen.

    Attributes:
        id: its number in the database.
        name: its name there.
        account: the number of its account.
        epoch: of the session that has it, or had it last.
        beat: counts the session's signs of life.
        lease: seconds.
        state: ``free``, ``live`` or ``left``.
    """

    id: int
    name: str
    account: int
    epoch: int
    beat: int
    lease: float
    state: str


@attrs.define(eq=False)
class _Watched:
    seen: Seen
    since: float  # the end of the first look that saw this epoch and beat, without a blind gap after it
    epoch_since: float  # the same, of this epoch
    looked: float  # the begin of the last look
    heard: bool = False  # a beat was seen


@attrs.frozen
class _Pause:
    until: float
    seconds: float


class View:
    """A guard's view of a database. One task owns it."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._pauses: dict[int, _Pause] = {}
        self._last: float | None = None  # the end of the last look

    def blind(self) -> None:
        """Note that a look has failed: all waits restart."""
        self._last = None

    def saw(self, rows: Iterable[Seen], began: float, ended: float) -> None:
        """Note what a look has returned.

        Args:
            rows: all journals that are not free.
            began: when the look began.
            ended: when it had ended.
        """
        gap = math.inf if self._last is None else ended - self._last
        self._last = ended
        watched: dict[int, _Watched] = {}
        for row in rows:
            before = self._watched.get(row.id)
            if before is None or before.seen.epoch != row.epoch:
                watched[row.id] = _Watched(row, ended, ended, began)
                continue
            same = before.seen.beat == row.beat and before.seen.state == row.state
            since = before.since if same and gap <= GAP * row.lease else ended
            heard = before.heard or before.seen.beat != row.beat
            watched[row.id] = _Watched(row, since, before.epoch_since, began, heard)
            if row.state == "live" and heard and ended - before.epoch_since >= LIVED:
                self._pauses.pop(row.id, None)
        for journal in self._pauses.keys() - watched.keys():
            del self._pauses[journal]
        self._watched = watched

    def due(self) -> list[Seen]:
        """Return the journals that may be taken over, as of the last look."""
        return [watched.seen for watched in self._watched.values() if self._is_due(watched)]

    def _is_due(self, watched: _Watched) -> bool:
        if self._last is None:
            return False
        if watched.seen.state == "live":
            return watched.looked - watched.since >= watched.seen.lease
        pause = self._pauses.get(watched.seen.id)
        return watched.seen.state == "left" and (pause is None or watched.looked >= pause.until)

    def asked(self, journal: int, now: float, *, again: bool) -> None:
        """Note that a journal was taken over and dealt with, and that something is left in it.

        Args:
            journal: its number.
            now: when that ended.
            again: whether it must be tried again; if not, that happens only after another session has had it.
        """
        before = self._pauses.get(journal)
        seconds = FIRST_PAUSE if before is None else min(LONGEST_PAUSE, 2 * before.seconds)
        self._pauses[journal] = _Pause(now + seconds if again else math.inf, seconds)

    def is_decided(self, counts: Callable[[Seen], bool]) -> bool:
        """Return True if no journal for which ``counts`` returns True is due, and each live one was seen to beat."""
        return self._last is not None and not any(
            (self._is_due(watched) or (watched.seen.state == "live" and not watched.heard)) and counts(watched.seen)
            for watched in self._watched.values()
        )

    @property
    def journals(self) -> tuple[Seen, ...]:
        """What the last look has returned."""
        return tuple(watched.seen for watched in self._watched.values())
