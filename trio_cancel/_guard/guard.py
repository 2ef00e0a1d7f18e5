"""The guard's tasks.

One looks at the database again and again, and owns the view. One asks for the guard's part of shared rates. There is
one for each account, which keeps a WebSocket open, and one for each take-over. None of them waits for another. A
journal is taken over only while its account's WebSocket is connected: another guard may reach a venue that this one
cannot reach.
"""

from __future__ import annotations

import os
import secrets
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from trio_cancel._client import TradingWS, open_trading_ws
from trio_cancel._engine.rate import pacer_of
from trio_cancel._engine.shared_rate import SharedLimit
from trio_cancel._guard.database import GuardDatabase, GuardPools, Owner, SpareConnections
from trio_cancel._guard.take_over import Taken, address_of, see_to
from trio_cancel._guard.view import Seen, View
from trio_cancel._journal.address import Server
from trio_cancel._journal.database import explained
from trio_cancel._journal.lease import steady
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.postgres import GUARD, PostgresStore
from trio_cancel._journal.store import Account, JournalStore, StoreFailed
from trio_cancel._journal.stores import LEASE
from trio_cancel._session.lookups import OpensLookup
from trio_cancel._session.session import SessionState
from trio_cancel._trio.background import open_background
from trio_cancel._values.boundary import Boundary, describe, ends_program, goes_on_from_call
from trio_cancel._values.errors import JournalError, TradingError
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Notifier, Observer, logger
from trio_cancel._values.report import CancelReport

LOOK = 0.1
"""Seconds between two looks."""
BEAT = 0.5
"""Seconds between two beats; sessions consider a guard dead after 5 s without one."""
TOGETHER = 8
"""How many take-overs happen at the same time, at most."""
AWAY = 10.0
"""Seconds without a successful look after which ``wait_until_seen_to`` gives up."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to reach the venue."""

OnTaken = Callable[[str, CancelReport], object]
_T = TypeVar("_T")


class NotTaken(Exception):
    """The journal has changed since it was seen."""


@attrs.define(eq=False)
class _Served:
    """An account that this guard has credentials for.

    Attributes:
        limit: the guard's part of the account's shared rate, if there is one.
        ws: its session, while it is connected.
        tried: whether an attempt to connect has ended.
    """

    account: Account
    limit: SharedLimit = attrs.field(factory=lambda: SharedLimit(trio.current_time(), guard=True))
    ws: TradingWS | None = None
    tried: bool = False


@attrs.define(eq=False)
class GuardTasks:
    """What runs behind ``open_guard``.

    Attributes:
        unserved: the journals without credentials, in the order in which they were seen.
        fatal: KeyboardInterrupt or SystemExit, if one of them is to end the program.
    """

    _server: Server
    _database: GuardDatabase
    _spare: SpareConnections
    _thread: trio.CapacityLimiter
    _credentials: Sequence[Credentials]
    _ssl_context: ssl.SSLContext | None
    _lookup: OpensLookup | None
    _observer: Observer | None
    _on_taken: OnTaken | None
    unserved: dict[str, None] = attrs.field(factory=dict, init=False)
    fatal: BaseException | None = attrs.field(default=None, init=False)
    _notify: Notifier | None = attrs.field(init=False)
    _figures: tuple[int, int, int] | None = attrs.field(default=None, init=False)  # the observer was told these
    _view: View = attrs.field(factory=View, init=False)
    _accounts: dict[int, _Served | None] = attrs.field(factory=dict, init=False)
    _owners: dict[int, Owner] = attrs.field(factory=dict, init=False)  # as of the last look
    _busy: set[int] = attrs.field(factory=set, init=False)  # the journals that are being taken over
    # When a session was first seen to have ended, by journal and session.
    _ended: dict[tuple[int, int], float] = attrs.field(factory=dict, init=False)
    _places: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(TOGETHER), init=False)
    _failing: tuple[float, StoreFailed] | None = attrs.field(default=None, init=False)  # since when, and why

    def __attrs_post_init__(self) -> None:
        self._notify = None if self._observer is None else Notifier(self._observer)

    async def run(self, nursery: trio.Nursery) -> None:
        """Look again and again, and start take-overs in the nursery."""
        beaten_at = float("-inf")
        while True:
            began = steady()
            self._spare.tidy()
            beat = began - beaten_at >= BEAT
            connected = [number for number, served in self._accounts.items() if served is not None and served.ws]
            try:
                rows, owners = await self._run_sync(partial(self._database.look, connected, beat=beat))
            except StoreFailed as error:
                self._view.blind()
                if self._failing is None:
                    self._failing = began, error
                    self._figures = None
                    if self._notify is not None:
                        self._notify("guard_blind", error)
                    logger.error("the guard cannot see the database %s (%s)", self._server.shown, error)
                await trio.sleep(BEAT)
                continue
            if self._failing is not None:
                self._failing = None
                logger.warning("the guard sees the database %s again", self._server.shown)
            if beat:
                beaten_at = began
            self._view.saw(rows, began, steady())
            self._owners = owners
            self._note_accounts(nursery, rows)
            self._notify_figures()
            for seen in self._view.due():
                served = self._accounts[seen.account]
                if served is not None and served.ws is not None and seen.id not in self._busy:
                    self._busy.add(seen.id)
                    nursery.start_soon(self._take, seen, served.account, served.ws)
            await trio.sleep(LOOK)

    async def keep_pace(self, pools: GuardPools) -> None:
        """Ask for starts where sessions share their account's rate. No pool may delay the looks at the database."""
        thread = trio.CapacityLimiter(1)
        away = False
        while True:
            for number, owner in self._owners.items():
                served = self._accounts.get(number)
                if served is None or owner.rate is None:
                    continue
                limit, now = served.limit, trio.current_time()
                if limit.exchange_at > now:
                    continue
                try:
                    answer = await self._run_sync(pools.ask, number, limit.ask(now), limiter=thread)
                except StoreFailed as error:
                    answer = None
                    if not away:
                        away = True
                        logger.warning(
                            "the shared pace in %s does not answer the guard (%s); it goes on with its part",
                            self._server.shown,
                            error,
                        )
                if answer is None:
                    limit.failed(trio.current_time())
                else:
                    away = False
                    limit.answered(answer, now, trio.current_time())
            shares = any(owner.rate is not None for owner in self._owners.values())
            await trio.sleep(LOOK if shares else BEAT)

    def _notify_figures(self) -> None:
        if self._notify is None:
            return
        states = Counter(seen.state for seen in self._view.journals)
        unserved = sum(not self._is_served(seen) for seen in self._view.journals)
        figures = states["live"], states["left"], unserved
        if figures != self._figures:
            self._figures = figures
            self._notify("guard_looked", *figures)

    def check_sight(self) -> None:
        """Raise JournalError if the database has not answered for ``AWAY`` seconds."""
        if self._failing is not None and steady() - self._failing[0] >= AWAY:
            raise JournalError(
                f"The database {self._server.shown} has not answered for {AWAY:.0f} s ({self._failing[1]}); check the "
                "server and the way to it."
            )

    def has_seen_all(self) -> bool:
        """Return True if no take-over is under way, and each journal that can be served is alive or was dealt with."""
        return (
            not self._busy
            and all(served is None or served.tried for served in self._accounts.values())
            and self._view.is_decided(self._is_served)
        )

    def _is_served(self, seen: Seen) -> bool:
        served = self._accounts[seen.account]
        return served is not None and served.ws is not None

    def without_venue(self) -> tuple[str, ...]:
        """Return the journals that have credentials here, but whose venue cannot be reached now."""
        return tuple(
            seen.name
            for seen in self._view.journals
            if (served := self._accounts[seen.account]) is not None and served.tried and served.ws is None
        )

    def _note_accounts(self, nursery: trio.Nursery, rows: list[Seen]) -> None:
        """Serve accounts that are new, and keep to a rate that sessions share, as of the look that shows it."""
        for number, owner in self._owners.items():
            if number not in self._accounts:
                accounts = (Account(owner.url, one) for one in self._credentials)
                mine = [one for one in accounts if one.fingerprint(self._database.salt) == owner.fingerprint]
                self._accounts[number] = _Served(mine[0]) if mine else None
                if (served := self._accounts[number]) is not None:
                    nursery.start_soon(self._serve, served)
            served = self._accounts[number]
            if served is not None and owner.rate is not None:
                served.limit.apply(owner.rate, trio.current_time())
        for seen in rows:
            if self._accounts[seen.account] is None and seen.name not in self.unserved:
                self.unserved[seen.name] = None
                logger.error(
                    "the guard has no credentials for the journal %s of an account at %s: nobody cancels for it here",
                    seen.name,
                    self._owners[seen.account].url,
                )

    async def _serve(self, served: _Served) -> None:
        """Keep a session at the venue open for an account."""
        pause = FIRST_PAUSE
        url = served.account.url
        while True:
            try:
                async with open_trading_ws(
                    url,
                    credentials=served.account.credentials,
                    ssl_context=self._ssl_context,
                    pacer=pacer_of(served.limit),
                    lookup=self._lookup,
                    observer=self._observer,
                ) as ws:
                    served.ws, served.tried, pause = ws, True, FIRST_PAUSE
                    try:
                        while ws.state is not SessionState.FAILED:  # noqa: ASYNC110 - there is no event for it
                            await trio.sleep(BEAT)
                        failure = ws.failure
                    finally:
                        served.ws = None
            except TradingError as error:
                failure = error
            served.tried = True
            logger.error("the guard cannot reach the venue %s: %s", url, failure)
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _take(self, seen: Seen, account: Account, ws: TradingWS) -> None:
        # Whatever goes wrong with one journal must not keep the guard from the others.
        boundary = Boundary()
        try:
            with boundary:
                async with self._places:
                    self._report(seen, await self._take_over(seen, account, ws))
        finally:
            self._busy.discard(seen.id)
        if (fatal := ends_program(boundary.error)) is not None:
            self.fatal = fatal
            raise fatal
        if boundary.error is not None and not isinstance(boundary.error, NotTaken):
            why = describe(boundary.error)
            logger.error("the guard could not deal with the journal %s, and tries again: %s", seen.name, why)
            self._view.asked(seen.id, steady(), again=True)

    async def _take_over(self, seen: Seen, account: Account, ws: TradingWS) -> Taken:
        address = address_of(self._server, seen.name)
        server = attrs.evolve(
            self._server, name=seen.name, shown=f"{self._server.shown.partition('?')[0]}?journal={seen.name}"
        )

        def take(_: object, __: Account, prefix: str, now: int) -> JournalStore:
            known = self._database.connection.known  # so that an old primary that has come back is not used
            with explained(server), self._spare.using(known) as connection:
                store = PostgresStore.take_over(connection, server, seen.id, seen.epoch, seen.beat, prefix, now, LEASE)
            if store is None:
                raise NotTaken
            return store

        async def others(names: list[str]) -> set[str]:
            return await self._run_sync(self._database.names_of_others, seen.account, seen.id, names)

        async def ended() -> set[int]:
            now = steady()
            sessions = await self._run_sync(self._database.ended_sessions, seen.id)
            settle = ws._session.timings.settle
            return {number for number in sessions if now - self._ended.setdefault((seen.id, number), now) >= settle}

        prefix = f"{GUARD}{self._database.number}-{secrets.token_hex(8)}"
        async with open_journal(address, account, prefix, time.time, open_store=take, warns=False) as journal:
            taken = await see_to(journal, ws, time.time(), others=others, ended=ended)
        if journal.left:
            # At once: the journal has been released by now, and the next look must not find it due.
            self._view.asked(seen.id, steady(), again=taken.again)
        else:
            self._ended = {key: at for key, at in self._ended.items() if key[0] != seen.id}
        return taken

    def _report(self, seen: Seen, taken: Taken) -> None:
        left = len(taken.report.left)
        logger.warning(
            "the guard took over the journal %s: %d of %d orders are off the book%s",
            seen.name,
            len(taken.report.outcomes) - left,
            len(taken.report.outcomes),
            "" if not left else "; the rest is tried again later" if taken.again else "; THE REST IS NOT TRIED AGAIN",
        )
        if self._notify is not None:
            self._notify("guard_took_over", seen.name, taken.report)
        if self._on_taken is not None:
            try:
                self._on_taken(seen.name, taken.report)
            except BaseException as error:  # noqa: ASYNC103 - whatever its class, the take-over is done
                if goes_on_from_call(error) or ends_program(error):
                    raise
                logger.error("on_taken failed: %s", describe(error))

    async def _run_sync(
        self, function: Callable[..., _T], *args: object, limiter: trio.CapacityLimiter | None = None
    ) -> _T:
        limiter = limiter or self._thread
        try:
            return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)
        except RuntimeError as error:
            raise StoreFailed(f"no thread can be started: {error}") from error


@asynccontextmanager
async def guarding(
    server: Server,
    credentials: Sequence[Credentials],
    ssl_context: ssl.SSLContext | None,
    lookup: OpensLookup | None,
    observer: Observer | None,
    on_taken: OnTaken | None,
) -> AsyncGenerator[GuardTasks]:
    """Run a guard's tasks beside a block."""
    limiter = trio.CapacityLimiter(1)
    name = f"{os.uname().nodename if hasattr(os, 'uname') else 'guard'}:{os.getpid()}"
    database = await trio.to_thread.run_sync(GuardDatabase, server, name, limiter=limiter)
    pools = GuardPools(server, database)
    spare = SpareConnections(server)
    tasks = GuardTasks(server, database, spare, limiter, credentials, ssl_context, lookup, observer, on_taken)
    try:
        async with open_background() as nursery:
            try:
                nursery.start_soon(tasks.run, nursery)
                nursery.start_soon(tasks.keep_pace, pools)
                yield tasks
            finally:
                nursery.cancel_scope.cancel()
    finally:
        pools.close()
        spare.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(database.close, limiter=limiter)
        if tasks.fatal is not None:
            raise tasks.fatal  # as it was raised: in a group its exit code would be lost
