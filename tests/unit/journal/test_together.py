"""What the threads of many sessions commit at the same time, on the connection that they share. No server is needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from trio_cancel._journal.address import server_of
from trio_cancel._journal.postgres import TOGETHER, _Entry, _Shared
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.store import StoreFailed

MANY = TOGETHER + 50


class Counted:
    """A lock that counts who takes it."""

    def __init__(self) -> None:
        self.taken = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Together(_Shared):
    """Commits to nowhere: the first commit waits until it may go on, and each may fail."""

    def __init__(self) -> None:
        server = server_of("postgresql://db/trading?journal=a")
        assert server is not None
        super().__init__(server)
        self.counted = Counted()
        self._turn: Any = self.counted
        self.go_on = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        self.errors: list[BaseException | None] = []

    def _commit(self, some: Sequence[_Entry], seconds: float) -> None:
        self.sizes.append(len(some))
        self.entered.set()
        assert self.go_on.wait(30)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        for entry in some:
            entry.guards = entry.journal


class Session(threading.Thread):
    """A session's thread."""

    def __init__(self, shared: Together, number: int) -> None:
        super().__init__(daemon=True)
        self.shared = shared
        self.entry = _Entry(number, 1, Changes())
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.shared.commit(self.entry, 5.0)
        except BaseException as error:  # noqa: ASYNC103 - a thread's: the test looks at it
            self.error = error


def all_at_once(shared: Together, count: int) -> list[Session]:
    """One commits, the others come up meanwhile; then it goes on."""
    first = Session(shared, 0)
    assert shared.entered.wait(30)
    others = [Session(shared, number) for number in range(1, count)]
    while len(shared._waiting) < count - 1:
        threading.Event().wait(0.001)
    shared.go_on.set()
    for session in (first, *others):
        session.join(30)
        assert not session.is_alive()
    return [first, *others]


def test_whoever_was_committed_by_another_waits_for_no_turn() -> None:
    """Otherwise a thousand sessions are told one after the other, and their leases run out over it."""
    shared = Together()
    sessions = all_at_once(shared, MANY)
    assert shared.sizes == [1, TOGETHER, MANY - 1 - TOGETHER]
    assert shared.counted.taken == 3
    assert [session.error for session in sessions] == [None] * MANY
    assert [session.entry.guards for session in sessions] == list(range(MANY))


def test_one_after_the_other_each_commits_by_itself() -> None:
    shared = Together()
    shared.go_on.set()
    for number in range(3):
        shared.commit(_Entry(number, 1, Changes()), 5.0)
    assert shared.sizes == [1, 1, 1]


def test_what_fails_is_told_to_all_and_the_next_ones_go_on() -> None:
    shared = Together()
    shared.errors = [None, psycopg.OperationalError("it is lost"), None]
    sessions = all_at_once(shared, MANY)
    failed = [session for session in sessions if session.error is not None]
    assert len(failed) == TOGETHER
    assert all(isinstance(session.error, StoreFailed) for session in failed)


def test_what_nobody_expected_makes_nobody_believe_that_it_is_recorded() -> None:
    shared = Together()
    shared.errors = [None, RuntimeError("a defect"), None]
    sessions = all_at_once(shared, MANY)
    errors = [session.error for session in sessions if session.error is not None]
    assert len(errors) == TOGETHER
    assert sorted(type(error).__name__ for error in errors) == ["RuntimeError", *["StoreFailed"] * (TOGETHER - 1)]
    shared.commit(_Entry(7, 1, Changes()), 5.0)
