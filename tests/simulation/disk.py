"""What a journal is on in a simulation: a store that holds what was committed, and an executor without threads."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import Callable
from typing import Any

import trio

from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.rows import Begun, Changes, SessionRow, Tables, spread
from trio_cancel._journal.store import Account
from trio_cancel.journal import JournalContents

from .record import Recorder, Stamp
from .scopes import DiskPlan

URL = "ws://127.0.0.1:9"


class Disk:
    """Holds what was committed by any session, and nothing else.

    Attributes:
        committed: when each intent and hold, by its number, was committed the first time.
    """

    def __init__(self, plan: DiskPlan, recorder: Recorder, rng: random.Random) -> None:
        self.plan = plan
        self.committed: dict[int, Stamp] = {}
        self.commits = 0
        self.failed = 0
        self._recorder = recorder
        self.rng = rng
        self._sessions: list[SessionRow] = []
        self._changes = Changes()

    def begin(self, process: Process, prefix: str, now: int) -> DiskStore:
        """Begin a session."""
        changes = self._changes
        number = max((row[0] for rows in (changes.holds, changes.intents) for row in rows), default=0) + 1
        attempt = max((row[0] for rows in (changes.attempts, changes.answers) for row in rows), default=0)
        self._sessions.append(SessionRow(len(self._sessions) + 1, prefix, attempt, now, now, None))
        return DiskStore(process, Begun(len(self._sessions), number, attempt))

    def commit(self, session: int, changes: Changes) -> None:
        """Make changes durable, or fail; a failure may come after they are."""
        now, plan, rng = trio.current_time(), self.plan, self.rng
        fails = any(begin <= now < end for begin, end in plan.failures) or rng.random() < plan.chance
        if not fails or rng.random() < 0.2:
            stamp = self._recorder.stamp()
            for number in [hold[0] for hold in changes.holds] + [intent[0] for intent in changes.intents]:
                self.committed.setdefault(number, stamp)
            row = self._sessions[session - 1]
            row = row._replace(alive=changes.alive or row.alive, closed=changes.closed or row.closed)
            self._sessions[session - 1] = row
            self._changes.before(changes)
            self.commits += 1
        if fails:
            self.failed += 1
            raise rng.choice((sqlite3.OperationalError("disk I/O error"), OSError(errno.ENOSPC, "No space left")))

    def contents(self) -> JournalContents:
        """Return what a reader would find."""
        changes = self._changes
        rows: tuple[list[Any], ...] = (changes.holds, changes.releases, changes.intents, changes.placed)
        holds, releases, intents, placed = (sorted({row[0]: row for row in each}.values()) for each in rows)
        tried = spread(changes.answers, changes.attempts, changes.outcomes)
        return contents_of(Tables(URL, list(self._sessions), holds, releases, intents, *tried, placed=placed))


class Process:
    """What a process has of a disk, until it dies; what it commits then is lost."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.dead = False

    def open(self, path: str | os.PathLike[str], account: Account, prefix: str, now: int) -> DiskStore:
        """Begin a session; stands for ``Store.open``."""
        if self.dead:
            return DiskStore(self, Begun(0, 1, 0))
        return self.disk.begin(self, prefix, now)

    async def run_sync(self, function: Callable[..., Any], *args: object) -> Any:
        """Stand for the thread of a journal: take time before and after what it runs."""
        plan, rng = self.disk.plan, self.disk.rng
        seconds = rng.uniform(*plan.seconds)
        before = seconds * rng.random()
        if self.dead:
            await trio.lowlevel.checkpoint()
            return function(*args)
        wakes = trio.current_time() + before
        for begin, end in plan.stalls:
            if begin <= wakes < end:
                wakes = end
        await trio.sleep_until(wakes)
        failure: Exception | None = None
        result = None
        try:
            result = function(*args)
        except (sqlite3.Error, OSError) as error:
            failure = error
        await trio.sleep(seconds - before)
        if failure is not None:
            raise failure
        return result


class DiskStore:
    """One session's journal; stands for ``Store``."""

    def __init__(self, process: Process, begun: Begun) -> None:
        self.begun = begun
        self.closed = False
        self._process = process

    def commit(self, changes: Changes) -> None:
        """Make changes durable, unless the process is dead."""
        if not self._process.dead:
            self._process.disk.commit(self.begun.session, changes)

    async def commit_in_loop(self, _: Changes, /) -> None:
        """Refuse; a disk is waited for in a thread."""
        raise trio.WouldBlock

    def close(self) -> None:
        """Let go of it."""
        self.closed = True
