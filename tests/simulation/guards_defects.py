"""Faults of journals that others can take over, put back one at a time, to see that the checker of guards catches them.

DEFECTS.md beside this says which seed catches which. Each has to be caught by the invariant that it violates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any

import attrs

from trio_cancel._engine.engine import Engine
from trio_cancel._guard import guard as guard_module
from trio_cancel._guard import take_over
from trio_cancel._guard.view import Seen, View
from trio_cancel._journal import postgres
from trio_cancel._journal.database import DatabaseConnection
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.lease import Lease, LeaseState, steady
from trio_cancel._journal.postgres import _Entry, _Shared
from trio_cancel._journal.postgres_rows import left_of

from .defects import Defect, Patch, swap

_TAKE = "UPDATE trio_cancel.journal SET epoch = epoch + 1"


@attrs.frozen
class GuardDefect(Defect):
    """A defect, and the invariant that it violates."""

    by: tuple[str, ...] = ()


class _Blind:
    """A cursor whose take-over compares the epoch only."""

    def __init__(self, cursor: Any, early: Any = None) -> None:
        self.cursor = cursor
        self.early = early

    @property
    def connection(self) -> Any:
        return self.cursor.connection

    def execute(self, query: str, values: Any = None) -> Any:
        if query.startswith(_TAKE):
            query, values = query.replace(" AND beat = %s", ""), values[:3]
        return self.cursor.execute(query, values)


def take_over_in_one_statement() -> Generator[None]:
    """A take-over reads what is left by the snapshot from before it waited for the journal's row (trap 1)."""
    # Two more nets are under it: the beat that each commit raises, and a hold that has to be durable while it is sure.
    take: Any = postgres._take

    def take_and_read(cursor: Any, row: Any, *args: Any) -> Any:
        return take(_Blind(cursor, (left_of(cursor, row.id),)), row, *args)

    def left_before(cursor: Any, journal: int) -> Any:
        return cursor.early[0] if isinstance(cursor, _Blind) and cursor.early else left_of(cursor, journal)

    def is_not_over(journal: Journal) -> bool:
        return journal.lease is not LeaseState.TAKEN_OVER

    with (
        swap(postgres, "_take", take_and_read),
        swap(postgres, "left_of", left_before),
        swap(Journal, "_is_sure", is_not_over),
    ):
        yield


def commit_believed() -> Generator[None]:
    """A commit counts though the server warns that it may not be replicated (trap 2)."""

    def believe(connection: DatabaseConnection) -> None:
        connection._warnings.clear()

    with swap(DatabaseConnection, "_check", believe):
        yield


def beats_not_synchronous() -> Generator[None]:
    """A beat does not wait for the second server, so that an old primary takes it (trap 4)."""
    statement_of = postgres.statement_of

    def statement_of_beat(some: Sequence[_Entry], lock: str) -> Any:
        query, values = statement_of(some, lock)
        if not any(len(entry.changes) for entry in some):
            query = query.replace("ELSE 'on'", "ELSE 'local'")
        return query, values

    with swap(postgres, "statement_of", statement_of_beat):
        yield


def fence_not_looked_at() -> Generator[None]:
    """Nobody looks whether the epoch was still there when rows were written: a pipeline has no row count (trap 6)."""

    def committed(self: _Shared, some: Sequence[_Entry], rows: Iterable[tuple[Any, ...]]) -> None:
        before(self, some, rows)
        for entry in some:
            entry.error = None

    before = _Shared._committed
    with swap(_Shared, "_committed", committed):
        yield


def no_new_count_after_blindness() -> Generator[None]:
    """A guard goes on counting over a time in which it could not look."""
    saw = View.saw

    def saw_on(self: View, rows: Iterable[Seen], began: float, ended: float) -> None:
        if self._last is not None:
            self._last = ended  # as if it had looked just now
        saw(self, rows, began, ended)

    with swap(View, "blind", lambda view: None), swap(View, "saw", saw_on):
        yield


def not_found_released() -> Generator[None]:
    """A guard counts what is not found as gone, whether its session has ended or not."""
    see_to = take_over.see_to

    async def everything() -> set[int]:
        return set(range(10_000))

    async def see_to_it(
        journal: Any, ws: Any, now: float, *, others: Callable[[list[str]], Awaitable[set[str]]], ended: Any
    ) -> Any:
        return await see_to(journal, ws, now, others=others, ended=everything)

    with swap(guard_module, "see_to", see_to_it):
        yield


def beats_of_another_task() -> Generator[None]:
    """Another task than the one that commits tells the lease of a beat: it counts from when it has heard of it."""

    def confirmed_now(self: Lease, sent_at: float) -> None:
        self._confirmed_at = max(self._confirmed_at, steady())

    with swap(Lease, "confirmed", confirmed_now):
        yield


def beat_not_compared() -> Generator[None]:
    """A take-over does not compare the beat, so that one that has come meanwhile does not count."""
    take: Any = postgres._take

    def take_blindly(cursor: Any, row: Any, *args: Any) -> Any:
        return take(_Blind(cursor), row, *args)

    with swap(postgres, "_take", take_blindly):
        yield


def drain_by_name_after_a_take_over() -> Generator[None]:
    """A session that was taken over cancels by external id, which may name its successor's order."""
    with swap(Engine, "_why_not_ours", lambda engine, pending: None):
        yield


_DEFECTS: tuple[tuple[Patch, tuple[str, ...]], ...] = (
    (take_over_in_one_statement, ("G1",)),
    (commit_believed, ("G1", "G5")),
    (beats_not_synchronous, ("G5",)),
    (fence_not_looked_at, ("G1", "G9")),
    (no_new_count_after_blindness, ("G4",)),
    (not_found_released, ("G7",)),
    (beats_of_another_task, ("G5",)),
    (beat_not_compared, ("G4",)),
    (drain_by_name_after_a_take_over, ("G8",)),
)
GUARD_DEFECTS = {patch.__name__: GuardDefect(patch.__name__, patch, by) for patch, by in _DEFECTS}
