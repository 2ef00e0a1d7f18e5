"""Open a journal for a session, and close it: :class:`Journal`'s task runs around a block.

It runs in a shielded scope and under KeyboardInterrupt protection, so that it outlives whatever ends the block, and
writes what the block's clean-up has brought up. What it has not written ``CLOSING`` seconds later is given up.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from trio_cancel._journal.journal import Journal, RunSync
from trio_cancel._journal.rows import micros
from trio_cancel._journal.store import Account, JournalStore, Store
from trio_cancel._net.endpoint import Endpoint
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import logger

CLOSING = 5.0
"""Seconds that the end of the block waits for the last transaction."""

_T = TypeVar("_T")


class _Thread:
    def __init__(self) -> None:
        # A limiter of its own: a program that keeps trio's usual threads busy must not hold up its cancels.
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, function: Callable[..., _T], *args: object) -> _T:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._limiter)


OpenStore = Callable[[str | os.PathLike[str], Account, str, int], JournalStore]


class MovedJournal(os.PathLike[str]):
    """The path of a journal whose venue is reached at another url now."""

    def __init__(self, path: str | os.PathLike[str], url: str) -> None:
        self.path = os.fspath(path)
        self.url = url

    def __fspath__(self) -> str:
        return self.path


@asynccontextmanager
async def open_journal(
    path: str | os.PathLike[str],
    account: Account,
    prefix: str,
    wall: Callable[[], float],
    *,
    run_sync: RunSync | None = None,
    open_store: OpenStore = Store.open,
) -> AsyncGenerator[Journal]:
    """Open a journal for one session, as an async context manager; its block's exception comes out as it is.

    Args:
        path: of the file.
        account: whose it is.
        prefix: what the session's request ids begin with.
        wall: returns Unix seconds.
        run_sync: runs what blocks; a thread if None.
        open_store: opens the file.

    Raises:
        JournalError: on entering, if it cannot be used.
    """
    run_sync = run_sync or _Thread()
    store: JournalStore | None = None
    with trio.CancelScope(shield=True):  # a file that a thread has opened must not be lost
        try:
            store = await run_sync(open_store, path, account, prefix, micros(wall()))
        except RuntimeError as error:
            # Nothing is to be canceled yet that opening the file here could hold up; each commit tries a thread again.
            logger.warning("no thread can be started (%s): the journal is opened in the event loop", error)
            store = open_store(path, account, prefix, micros(wall()))
    assert store is not None
    journal = Journal(os.fspath(path), store, run_sync, wall, prefix)
    scope = trio.CancelScope(shield=True)
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def write() -> None:
        with scope:
            await journal.run()

    try:
        nursery.start_soon(write)
        yield journal
    finally:
        # Not `async with`: the nursery would wrap the block's exception in a group. Its task has ended by then, so that
        # leaving it neither waits nor can be cancelled.
        try:
            journal.close()
            with trio.move_on_after(CLOSING, shield=True) as closing:
                await journal.ended.wait()
            if closing.cancelled_caught:
                logger.error("the journal %s could not be closed within %g s", journal.path, CLOSING)
        finally:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await journal.ended.wait()
            await manager.__aexit__(None, None, None)  # noqa: ASYNC102 - its task has ended


def opener(
    path: str | os.PathLike[str], endpoint: Endpoint, credentials: Credentials
) -> Callable[[str, Callable[[], float]], AbstractAsyncContextManager[Journal]]:
    """Return what opens the journal at ``path`` for a session of this account."""
    account = Account(path.url, credentials) if isinstance(path, MovedJournal) else Account.of(endpoint, credentials)
    return partial(open_journal, path, account)
