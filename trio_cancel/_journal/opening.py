"""Open a journal for a session, and close it: :class:`Journal`'s task runs around a block.

The task runs in a shielded scope and under KeyboardInterrupt protection, so that it outlives whatever ends the block,
and writes what the block's clean-up records. What it has not written ``journal_closing`` seconds later
(:class:`Timings`) is given up.

A thread cannot be ended while it waits for a disk that does not answer. It is left behind. When the disk answers, it
closes the file and frees the lock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from trio_cancel._journal.address import shown
from trio_cancel._journal.journal import Journal, RunSync, log
from trio_cancel._journal.lease import steady
from trio_cancel._journal.left import LeftBehind, names_of
from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.rows import Begun, Changes, micros
from trio_cancel._journal.store import FORKED, Account, JournalStore, StoreFailed
from trio_cancel._journal.stores import LEASE
from trio_cancel._journal.stores import open_store as open_any
from trio_cancel._trio.background import open_background
from trio_cancel._values.errors import JournalError
from trio_cancel._values.observer import logger
from trio_cancel._values.timings import Timings

AT_WORK = 0.5
"""Seconds that a cancelled opening waits for its thread, so that nothing stays open if the disk answers."""

_T = TypeVar("_T")


class _Thread:
    def __init__(self) -> None:
        # A limiter of its own: a program that keeps trio's usual threads busy must not hold up its cancels.
        self._limiter = trio.CapacityLimiter(1)
        self._process = os.getpid()

    async def __call__(self, function: Callable[..., _T], *args: object) -> _T:
        if self._process != os.getpid():  # trio's threads are not here, and the journal is the parent's
            raise StoreFailed(FORKED)
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._limiter)


OpenStore = Callable[[str | os.PathLike[str], Account, str, int], JournalStore]


class _Custody:
    """A store that is closed in any case, by whoever uses it last.

    ``open``, ``commit`` and ``close`` run in threads, one at a time, and may be left behind there. ``commit_in_loop``
    runs in the event loop, and has ended before the store is abandoned.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._store: JournalStore | None = None
        self._begun: Begun | None = None
        self.left: LeftBehind = LeftBehind()
        self._unused: Changes | None = None  # what ends a session that was never used
        self._busy = False
        self._abandoned = False

    @property
    def begun(self) -> Begun:
        """Where this session continues."""
        assert self._begun is not None
        return self._begun

    def expect(self) -> None:
        """Note that a thread is about to open the store."""
        self._busy = True

    def open(
        self, open_store: OpenStore, path: str | os.PathLike[str], account: Account, prefix: str, now: int
    ) -> None:
        """Open the store, and keep it if it is still needed."""
        try:
            store = open_store(path, account, prefix, now)
            begun = store.begun
            with self._guard:
                self._store, self._begun, self._unused = store, begun, Changes(closed=now)
            if begun.left is not None:  # here, in the thread: there may be many
                self.left = LeftBehind(contents_of(begun.left).left)
        finally:
            self._leave()

    def commit(self, changes: Changes) -> int | None:
        """Commit; see ``JournalStore``."""
        with self._guard:
            store = self._store
            self._busy, self._unused = True, None
        try:
            if store is None or self._abandoned:
                raise StoreFailed("it was given up")
            return store.commit(changes)
        finally:
            self._leave()

    async def commit_in_loop(self, changes: Changes) -> int | None:
        """Commit; see ``JournalStore``."""
        with self._guard:
            store = self._store
            if store is None or self._busy:
                raise trio.WouldBlock
            self._busy, self._unused = True, None
        try:
            return await store.commit_in_loop(changes)
        finally:
            self._busy = False

    def close(self) -> None:
        """Close; see ``JournalStore``."""
        with self._guard:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def abandon(self, run: Callable[[Callable[[], None]], None]) -> None:
        """Have the store closed, by the thread that uses it or by ``run``."""
        with self._guard:
            self._abandoned = True
            idle = self._store is not None and not self._busy
            self._busy = self._busy or idle
        if idle:
            run(self._close_late)

    async def wait(self, seconds: float) -> None:
        """Wait for a thread that is at work, so many seconds at most."""
        with trio.move_on_after(seconds):
            while self._busy:  # noqa: ASYNC110 - a thread ends it, which may be late by an hour
                await trio.sleep(0.01)

    def _leave(self) -> None:
        with self._guard:
            self._busy = abandoned = self._abandoned
        if abandoned:
            self._close_late()

    def _close_late(self) -> None:
        try:
            try:
                if self._store is not None and self._unused is not None:
                    self._store.commit(self._unused)
            finally:
                self.close()
        except Exception as error:  # nobody else would learn of it
            log(logging.ERROR, "a journal could not be closed: %s", error)
        finally:
            self._busy = False


def _in_background(function: Callable[[], None]) -> None:
    """Run a function that may block in a thread that nobody waits for."""
    try:
        trio.lowlevel.start_thread_soon(function, lambda _: None)
    except RuntimeError:  # no further thread can be started
        function()


def _here(function: Callable[[], None]) -> None:
    function()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_journal(
    path: str | os.PathLike[str],
    account: Account,
    prefix: str,
    wall: Callable[[], float],
    *,
    run_sync: RunSync | None = None,
    open_store: OpenStore | None = None,
    lease: float = LEASE,
    clock: Callable[[], float] = steady,
    warns: bool = True,
    timings: Timings = Timings(),  # noqa: B008 - it is frozen
) -> AsyncGenerator[Journal]:
    """Open a journal for one session, as an async context manager; the block's exception comes out unchanged.

    Leaving it takes at most ``timings.journal_closing`` seconds.

    Args:
        path: its address; see ``_journal.stores``.
        account: the account that it belongs to.
        prefix: how the session's request ids begin.
        wall: returns Unix seconds.
        run_sync: runs what blocks; if None, a thread does.
        open_store: opens the store; if None, the address decides.
        lease: seconds, for a journal in a database.
        clock: returns the seconds of the clock that leases are measured on.
        warns: log what was left in it; not needed by those who open it to resume.
        timings: how long opening and closing it may take.

    Raises:
        JournalError: on entering, if it cannot be used, or could not be opened in time.

    Cancelled: while entering, within ``AT_WORK`` seconds; a thread that is at work then closes what it opens.
    """
    if open_store is None:
        open_store = partial(open_any, lease=lease)
    in_background = _here
    if run_sync is None:
        run_sync, in_background = _Thread(), _in_background
    custody = _Custody()
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        custody.expect()
        try:
            with trio.move_on_after(timings.journal_opening) as opening:
                await run_sync(custody.open, open_store, path, account, prefix, micros(wall()))
        except RuntimeError as error:
            # Nothing is to be canceled yet that opening the file here could hold up; each commit tries a thread again.
            logger.warning("no thread can be started (%s): the journal is opened in the event loop", error)
            custody.open(open_store, path, account, prefix, micros(wall()))
        except (trio.Cancelled, KeyboardInterrupt):
            custody.abandon(in_background)
            with trio.CancelScope(shield=True):
                await custody.wait(AT_WORK)
            raise
        if opening.cancelled_caught:
            raise JournalError(
                f"The journal {shown(path)} could not be opened within {timings.journal_opening:g} s; check the disk "
                "or the database that it is on, or name another one."
            )
        journal = Journal(shown(path), custody, run_sync, wall, prefix, custody.left, clock)
        if journal.left and warns:
            _warn_of_left(journal)
        scope = trio.CancelScope(shield=True)

        @trio.lowlevel.enable_ki_protection
        async def write() -> None:
            with scope:
                await journal.run()

        async with open_background() as nursery:
            interrupts: list[KeyboardInterrupt] = []
            try:
                nursery.start_soon(write)
                yield journal
            finally:
                journal.close()
                with trio.move_on_after(timings.journal_closing, shield=True) as closing:
                    while not journal.ended.is_set() and len(interrupts) < 2:  # only a second Ctrl-C ends this early
                        try:
                            await journal.ended.wait()
                        except KeyboardInterrupt as interrupt:
                            interrupts.append(interrupt)
                scope.cancel()
                with trio.CancelScope(shield=True):
                    while not journal.ended.is_set():
                        try:
                            await journal.ended.wait()
                        except KeyboardInterrupt as interrupt:
                            interrupts.append(interrupt)
                if closing.cancelled_caught:
                    text = "the journal %s could not be closed within %g s"
                    log(logging.ERROR, text, journal.path, timings.journal_closing)
                if interrupts:
                    raise interrupts[0]
    finally:
        custody.abandon(in_background)


def _warn_of_left(journal: Journal) -> None:
    left = journal.left.orders
    count = "1 order was" if len(left) == 1 else f"{len(left)} orders were"
    text = (
        "%s left behind in the journal %s by a session before this one, and may be on the book: %s. "
        "await ws.resume() cancels what is in ws.left_behind; without a program, trio-cancel resume does"
    )
    log(logging.WARNING, text, count, journal.path, names_of(left))
