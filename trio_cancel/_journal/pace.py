"""The pool of an account's rate in a database, and the task in which a session asks it for its part.

A grant does not wait for the disk, so a piece may be granted twice after a fail-over. Nothing waits for the task
either: while the database does not answer, the session goes on with its part (``_engine.shared_rate``).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, LiteralString

import psycopg
import trio

from trio_cancel._engine.rate import Pacer
from trio_cancel._engine.shared_rate import Ask, Grant, Pool, SharedLimit, grant
from trio_cancel._journal.address import Server
from trio_cancel._journal.database import (
    STANDS_STILL,
    CommitInDoubt,
    DatabaseConnection,
    Reconnecting,
    explained,
)
from trio_cancel._journal.store import StoreFailed
from trio_cancel._trio.background import open_background
from trio_cancel._values.errors import JournalError
from trio_cancel._values.observer import logger

WITHIN = 2.0
"""Seconds that an ask may take."""
LEAVING = 0.5
"""Seconds that the end of a session waits until it has said that it needs nothing more."""
OPENING = 20.0
"""Seconds that the beginning may take."""
_BRIEF: LiteralString = "set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '250', true)"
_POOL: LiteralString = """
SELECT rate, burst, full_at, guard_at, others_at, asked_at, since FROM trio_cancel.pace WHERE account = %s FOR UPDATE
"""
_MEMBERS: LiteralString = """
SELECT extract(epoch FROM clock_timestamp())::double precision,
       (SELECT jsonb_object_agg(member, seen) FROM trio_cancel.pace_member WHERE account = %s)
"""
_GRANTED: LiteralString = """
WITH member AS (
    INSERT INTO trio_cancel.pace_member (account, member, name, seen)
    VALUES (%(account)s, %(member)s, %(name)s, %(asked_at)s)
    ON CONFLICT (account, member) DO UPDATE SET seen = excluded.seen
)
UPDATE trio_cancel.pace SET full_at = %(full_at)s, guard_at = %(guard_at)s, others_at = %(others_at)s,
                            asked_at = %(asked_at)s, since = %(since)s
WHERE account = %(account)s
"""


def begin(cursor: psycopg.Cursor[Any]) -> None:
    """Begin a transaction that waits neither for the disk nor long for a lock, and lets nobody wait long for it."""
    cursor.execute(f"SELECT {_BRIEF}, {STANDS_STILL}", {"idle": "1000"})


def exchange(
    cursor: psycopg.Cursor[Any], account: int, member: str, name: str, ask: Ask, *, guard: bool
) -> Grant | None:
    """Ask an account's pool for a member, which has the journal ``name``; return None if the account has no pool.

    This is done in the cursor's transaction, which has to be committed.
    """
    row = cursor.execute(_POOL, (account,)).fetchone()
    if row is None:
        return None
    # Once the row is locked, so that the times of those who ask are in the order in which they are served.
    others = cursor.execute(_MEMBERS, (account,)).fetchone()
    assert others is not None
    now, seen = others
    pool, answer = grant(Pool(*row), seen or {}, member, ask, now, guard=guard)
    values = {"account": account, "member": member, "name": name, "full_at": pool.full_at, "guard_at": pool.guard_at}
    cursor.execute(_GRANTED, values | {"others_at": pool.others_at, "asked_at": pool.asked_at, "since": pool.since})
    return answer


class _Member:
    """A session's connection to its pool; one thread uses it at a time."""

    def __init__(self, server: Server, pacer: Pacer) -> None:
        self._server = server
        self._pacer = pacer
        self._turn = threading.Lock()
        self._closed = False
        self._connection = Reconnecting(server, WITHIN)
        self._account = 0
        self._member = secrets.token_hex(8)

    def join(self) -> Grant:
        """Become a member; the session that had the same journal before no longer is one.

        Raises:
            JournalError: the database cannot be used.
        """
        with self._its_turn(), explained(self._server), self._connected().transaction() as cursor:
            query = "SELECT account FROM trio_cancel.journal WHERE name = %s"
            row = cursor.execute(query, (self._server.name,)).fetchone()
            if row is None:
                raise JournalError(f"The journal {self._server.shown} is not there any more.")
            self._account = row[0]
            self._set(cursor)
            cursor.execute(
                "DELETE FROM trio_cancel.pace_member "
                "WHERE account = %s AND (name = %s OR seen < extract(epoch FROM clock_timestamp()) - 86400)",
                (self._account, self._server.name),
            )
            return self._exchange(cursor, Ask(1, waits=False))

    def _exchange(self, cursor: psycopg.Cursor[Any], ask: Ask) -> Grant:
        name = self._server.name
        answer = exchange(cursor, self._account, self._member, name, ask, guard=False)
        if answer is None:  # the pool was lost in a fail-over
            self._set(cursor)
            answer = exchange(cursor, self._account, self._member, name, ask, guard=False)
            assert answer is not None
        return answer

    def _set(self, cursor: psycopg.Cursor[Any]) -> None:
        pacer = self._pacer
        query = "SELECT rate, burst FROM trio_cancel.pace WHERE account = %s"
        before = cursor.execute(query, (self._account,)).fetchone()
        cursor.execute(
            "INSERT INTO trio_cancel.pace (account, rate, burst) VALUES (%s, %s, %s) "
            "ON CONFLICT (account) DO UPDATE SET rate = excluded.rate, burst = excluded.burst",
            (self._account, float(pacer.rate), pacer.burst),
        )
        if before is not None and before != (pacer.rate, pacer.burst):
            logger.warning(
                "the shared pace of this account was rate=%g, burst=%d, and is rate=%g, burst=%d from now on, for all "
                "of its sessions",
                *before,
                pacer.rate,
                pacer.burst,
            )

    def ask(self, ask: Ask) -> Grant:
        """Ask the pool, or raise StoreFailed if it does not answer."""
        with self._its_turn():
            try:
                with self._connected().transaction(write=False) as cursor:
                    begin(cursor)
                    return self._exchange(cursor, ask)
            except (psycopg.Error, CommitInDoubt, OSError) as error:
                raise self._connection.failed(error) from error

    def leave(self) -> None:
        """End the membership, and the connection."""
        with self._its_turn(), suppress(psycopg.Error, CommitInDoubt, StoreFailed, OSError):
            try:
                with self._connected().transaction(write=False) as cursor:
                    begin(cursor)
                    query = "DELETE FROM trio_cancel.pace_member WHERE account = %s AND member = %s"
                    cursor.execute(query, (self._account, self._member))
            finally:
                self._closed = True

    def abandon(self) -> None:
        """Have the connection closed, by the thread that is using it if there is one; never waits."""
        self._closed = True
        if self._turn.acquire(blocking=False):
            try:
                self._connection.drop()
            finally:
                self._turn.release()

    @contextmanager
    def _its_turn(self) -> Generator[None]:
        with self._turn:
            try:
                yield
            finally:
                if self._closed:
                    self._connection.drop()

    def _connected(self) -> DatabaseConnection:
        if self._closed:
            raise StoreFailed("its session has ended")
        return self._connection.get()


async def _ask_on(limit: SharedLimit, member: _Member, limiter: trio.CapacityLimiter, shown: str) -> None:
    """Ask again and again until cancelled."""
    away = False
    while True:
        with trio.move_on_at(limit.exchange_at):
            await limit.wakeup.wait()
        await trio.sleep_until(min(limit.exchange_at, trio.current_time() + 1))
        asked_at = trio.current_time()
        if asked_at < limit.exchange_at:
            continue
        ask = limit.ask(asked_at)
        try:
            answer = await trio.to_thread.run_sync(member.ask, ask, abandon_on_cancel=True, limiter=limiter)
        except (StoreFailed, RuntimeError) as error:  # RuntimeError: no thread can be started
            limit.failed(trio.current_time())
            if not away:
                logger.warning(
                    "the shared pace in %s does not answer (%s); this session goes on with its part", shown, error
                )
            away = True
        else:
            limit.answered(answer, asked_at, trio.current_time())
            if away:
                logger.warning("the shared pace in %s answers again", shown)
            away = False


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_shared(server: Server, pacer: Pacer) -> AsyncGenerator[SharedLimit]:
    """Share an account's rate for a session whose journal is open; its block's exception propagates unchanged.

    Raises:
        JournalError: on entering, if the database cannot be used.

    Cancelled: while entering, nothing stays open. In the block it goes on until the block has ended.
    """
    member = _Member(server, pacer)
    limiter = trio.CapacityLimiter(1)
    try:
        with trio.move_on_after(OPENING) as opening:
            answer = await trio.to_thread.run_sync(member.join, abandon_on_cancel=True, limiter=limiter)
        if opening.cancelled_caught:
            raise JournalError(f"The shared pace in {server.shown} could not be asked within {OPENING:g} s.")
        now = trio.current_time()
        limit = SharedLimit(now)
        limit.answered(answer, now, now)
        scope = trio.CancelScope(shield=True)

        @trio.lowlevel.enable_ki_protection
        async def run() -> None:
            with scope:
                await _ask_on(limit, member, limiter, server.shown)

        try:
            async with open_background() as nursery:
                try:
                    nursery.start_soon(run)
                    yield limit
                finally:
                    scope.cancel()
        finally:
            with trio.move_on_after(LEAVING, shield=True), suppress(RuntimeError):
                await trio.to_thread.run_sync(member.leave, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
    finally:
        member.abandon()
