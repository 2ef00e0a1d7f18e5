"""Journals for tests: a store in memory that forgets what was not committed, and executors that fail or take long."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio

from trio_cancel import Credentials
from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.rows import Begun, Changes, SessionRow, Tables, spread
from trio_cancel._journal.store import Account
from trio_cancel.journal import JournalContents

ACCOUNT = Account("ws://localhost", Credentials("the-token-of-the-journal", "the-secret-of-the-journal"))


class MemoryStore:
    """Holds what was committed, and nothing else: what a disk has after a power failure.

    Attributes:
        commits: the changes of each transaction.
        failure: what the next commits raise instead.
    """

    def __init__(self, begun: Begun | None = None) -> None:
        self.begun = begun or Begun(session=1, number=1, attempt=0)
        self.commits: list[Changes] = []
        self.failure: Exception | None = None
        self.closed = False

    def open(self, path: str | os.PathLike[str], account: Account, prefix: str, now: int) -> MemoryStore:
        return self

    def commit(self, changes: Changes) -> None:
        if self.failure is not None:
            raise self.failure
        self.commits.append(changes)

    async def commit_in_loop(self, _: Changes, /) -> int | None:
        raise trio.WouldBlock

    def close(self) -> None:
        self.closed = True

    @property
    def changes(self) -> Changes:
        """Everything that was committed."""
        changes = Changes()
        for later in self.commits:
            changes = changes.before(later)
        return changes

    @property
    def intended(self) -> set[str]:
        """The orders whose intents are durable."""
        return {key for changes in self.commits for _, _, _, key, _ in changes.intents}

    def contents(self) -> JournalContents:
        """What a reader would find."""
        changes = self.changes
        session = SessionRow(self.begun.session, "id", self.begun.attempt, 0, changes.alive or 0, changes.closed)
        holds, releases, intents = list(changes.holds), list(changes.releases), list(changes.intents)
        tried = spread(changes.answers, changes.attempts, changes.outcomes)
        placed = list(changes.placed)
        return contents_of(Tables(ACCOUNT.url, [session], holds, releases, intents, *tried, placed=placed))


class Executor:
    """Runs what blocks in the event loop, after ``seconds``; counts. For mock clocks, which threads would upset."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls = 0

    async def __call__(self, function: Callable[..., Any], *args: object) -> Any:
        self.calls += 1
        if self.seconds:
            await trio.sleep(self.seconds)
        else:
            await trio.lowlevel.checkpoint()
        return function(*args)
