"""Connections over time: open one, serve it, replace it, until the session ends or cannot go on.

Its tasks are drawn in ``guides/architecture.md``. They are not inside the scopes around the body: a scope that fires
around ``open_trading_ws`` cancels the body only, and its clean-up code can still use the connection. Only
:meth:`Session.close` ends the tasks. Orders under way belong to the engine; the connections task owns ``state``.

Nothing that these tasks raise reaches the body, whatever its class: what happens to a connection ends that connection
(``_session.connection``), and what a spawned task raises is logged. If the timer fails, no deadline would be kept any
more, so everything concludes with what is known and the session has failed. KeyboardInterrupt and SystemExit ask for
the end of the program: they cancel the body and propagate from it, while the tasks go on for its clean-up.
"""

from __future__ import annotations

import enum
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVarTuple

import trio

from trio_cancel._engine.engine import Engine
from trio_cancel._engine.rate import Pacer
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._session.connection import Connection, ConnectOptions, probe
from trio_cancel._session.lookups import Lookups
from trio_cancel._trio.background import open_background
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.signals import is_interrupt
from trio_cancel._values.boundary import Boundary, describe, ends_program
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConnectionLost, HandshakeFailed, SessionClosed, TradingError
from trio_cancel._values.models import TOKEN_FIELDS, Credentials
from trio_cancel._values.observer import Notifier, Observer, logger
from trio_cancel._values.order_state import OrderLookup
from trio_cancel._values.timings import Timings
from trio_cancel._venue.codec import Signer

BACKOFF_FIRST, BACKOFF_MOST = 0.1, 10.0
"""Seconds (before jitter) until the first and the last repeated attempt to connect."""
HURRY = 1.0
"""Seconds between two attempts to connect that are not delayed because orders wait for their last chance."""
HEALTHY_AFTER = 5.0
"""Seconds after which a connection counts as healthy, so that the next attempt comes quickly."""
RETRY_AFTER_MOST = 60.0
"""Seconds for which the venue's Retry-After is honoured at most."""
EARLY_FIRST, EARLY_MOST = 2.0, 10.0
"""Seconds after which a first and a later attempt ignores it while an order waits: such an attempt may help, and
without it the order would be given up."""

if TYPE_CHECKING:
    from trio_cancel._journal.journal import Journal

_Args = TypeVarTuple("_Args")


class SessionState(enum.StrEnum):
    """The state of a session.

    ``connecting``: its first connection is being opened.
    ``connected``: there is a connection.
    ``reconnecting``: the connection is lost and another is being opened; cancels wait for it.
    ``failed``: no connection will be opened any more; ``ws.failure`` says why.
    ``closed``: its block has ended.
    """

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"
    CLOSED = "closed"


class Ending(Protocol):
    """An order scope, as the session sees it."""

    def end(self) -> trio.Event:
        """Cancel what it holds as if its block exited now; the event is set when that is done."""

    def cut_off(self) -> None:
        """Cancel its block: what it holds is for others to cancel now."""


class Session:
    """The tasks behind one ``open_trading_ws`` block, and what they share."""

    def __init__(
        self,
        options: ConnectOptions,
        credentials: Credentials,
        environment: Environment,
        *,
        pacer: Pacer | None,
        observer: Observer | None,
        clock: VenueClock,
        id_prefix: str,
        journal: Journal | None,
        token_field: str = TOKEN_FIELDS[0],
        lookup: OrderLookup | None = None,
        look_up_closed: bool = False,
    ) -> None:
        self.state: SessionState = SessionState.CONNECTING
        self.scopes: dict[Ending, None] = {}  # those that are open; the order of a set would not be repeatable
        self.ending: bool = False  # the block has ended: no more scopes are opened
        self.told_taken_over: bool = False  # an exception has told the program that its journal was taken over
        self.failure: TradingError | None = None
        self.interruption: BaseException | None = None  # KeyboardInterrupt or SystemExit, which should end the block
        self._options = options
        self._environment = environment
        self.timings: Timings = environment.timings
        self.wall: Callable[[], float] = environment.wall  # returns our Unix seconds
        self.journal = journal
        self._connection: Connection | None = None
        self._connections = 0
        self._opened_at = 0.0
        self._first = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._ended = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._block: trio.Nursery
        self._early = EARLY_FIRST
        self._hurried_at = -math.inf
        self._notify = None if observer is None else Notifier(observer, self.hand_on)
        self.engine: Engine = Engine(
            sign=Signer(credentials, token_field).encode,
            id_prefix=id_prefix,
            pacer=pacer,
            notify=self._notify,
            jitter=environment.jitter,
            clock=clock,
            journal=journal,
            lookups=lookup is not None,
            look_up_closed=look_up_closed,
            suspended=environment.suspended,
        )
        self.lookups: Lookups | None = None if lookup is None else Lookups(lookup, self.engine, self.hand_on)

    # For the block

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks and wait for the first connection.

        Raises:
            HandshakeFailed: the first connection failed; nothing is tried again.
        """
        self._block = nursery
        nursery.start_soon(self._tasks)
        await self._first.wait()
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """End every task, after an orderly close as far as the peer takes part, within 2 s. Never cancelled.

        Order scopes that are still open (another task's, or with a lost end) are ended first, within their grace.
        """
        self.ending = True
        with trio.CancelScope(shield=True):
            try:
                waits: list[trio.Event] = []
                for scope in list(self.scopes):
                    with Boundary() as boundary:
                        waits.append(scope.end())
                    self._log_failure("an order scope could not be ended", boundary.error)
                for done in waits:
                    await done.wait()
            finally:
                self.engine.stop(SessionClosed("the session's block has ended"))
                while self.engine.stop_some():
                    await trio.lowlevel.cancel_shielded_checkpoint()
            if self.state is not SessionState.FAILED:
                self.state = SessionState.CLOSED
            if self._connection is not None:
                await self._connection.close()
            self.kill()
            await self._ended.wait()
            self.state = SessionState.CLOSED

    def journal_failed(self) -> bool:
        """True if there is a journal and it cannot record everything now."""
        return self.journal is not None and self.journal.failed

    def write_now(self) -> None:
        """Have what is queued written, at once if that is possible without waiting."""
        if self._connection is None:
            self.engine.wakeup.ring()
        else:
            self._connection.write_now()

    def kill(self) -> None:
        """End every task at once."""
        self._scope.cancel()

    def spawn(self, task: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> bool:
        """Run a task beside the session's own, outside the block's scopes, to its end or the session's.

        Whatever it raises is logged. Returns False if the session's tasks have been ended, so that it does not run.
        """
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called or self._scope.cancel_called:
            return False
        nursery.start_soon(self._protected, task, *args)
        return True

    @trio.lowlevel.enable_ki_protection
    def hand_on(self, error: BaseException) -> None:
        """Let a KeyboardInterrupt or SystemExit from one of the session's tasks end the block and propagate from it."""
        if self.interruption is None and not self._ended.is_set():
            self.interruption = error
            self._block.cancel_scope.cancel()

    async def take_in(self) -> None:
        """Return once what is in the socket has been taken in, so that a deadline can be judged."""
        if self._connection is not None:
            await self._connection.take_in()

    def check_open(self) -> None:
        """Raise SessionClosed if the block has ended."""
        if self.state is SessionState.CLOSED:
            raise SessionClosed("This session is closed: its block has ended. Open a new one with open_trading_ws().")

    async def ping(self) -> float:
        """Send a ping; return the seconds until its pong. The caller bounds it."""
        connection = self._connection
        if connection is None:
            raise trio.BrokenResourceError("there is no connection now")
        return await connection.link.ping()

    # Tasks

    @trio.lowlevel.enable_ki_protection
    async def _tasks(self) -> None:
        boundary = Boundary()
        try:
            with boundary, self._scope:
                async with trio.open_nursery() as self._nursery:
                    nursery = self._nursery
                    nursery.start_soon(self._timer_task)
                    nursery.start_soon(self._probe_task)
                    if self.lookups is not None:
                        nursery.start_soon(self.lookups.run)
                    if self.journal is not None and self.journal.has_lease:
                        nursery.start_soon(self._taken_over_task, self.journal)
                    nursery.start_soon(self._connections_task)
        finally:
            if boundary.error is not None and not self._log_failure("the session's tasks failed", boundary.error):
                self._fail(ConnectionLost(f"the session's tasks failed ({describe(boundary.error)})"))
                while self.engine.stop_some():  # there is no timer any more that would continue with it
                    pass
            self._ended.set()

    @trio.lowlevel.enable_ki_protection
    async def _protected(self, task: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
        with Boundary() as boundary:
            await task(*args)
        self._log_failure("a task of the session failed", boundary.error)

    def _log_failure(self, what: str, error: BaseException | None) -> bool:
        """Log what ended at a boundary; return True if it was passed on instead, or there was nothing."""
        if error is None:
            return True
        if (fatal := ends_program(error)) is not None:
            self.hand_on(fatal)
            return True
        logger.error("%s: %s", what, describe(error))
        return False

    @trio.lowlevel.enable_ki_protection
    async def _timer_task(self) -> None:
        alarm = self.engine.alarm
        while True:
            await alarm.wait()
            now = trio.current_time()
            await self.take_in()  # an answer that is in the socket is not missing
            alarm.clear()
            with Boundary() as boundary:
                alarm.set(self.engine.expire(now))
            if boundary.error is not None:
                if not self._log_failure("the session's timer failed", boundary.error):
                    self._fail(ConnectionLost(f"the session's timer failed ({describe(boundary.error)})"))
                alarm.set(now + 1)

    @trio.lowlevel.enable_ki_protection
    async def _taken_over_task(self, journal: Journal) -> None:
        """End the blocks that place orders once the journal was taken over; the engine does the rest."""
        await journal.over.wait()
        self.engine.wakeup.ring()
        for scope in list(self.scopes):
            with Boundary() as boundary:
                scope.cut_off()
            self._log_failure("the block of an order scope could not be cancelled", boundary.error)

    @trio.lowlevel.enable_ki_protection
    async def _connections_task(self) -> None:
        tries = 0
        while True:
            with Boundary() as boundary:
                retry_after = await self._serve_one()
                if self.failure is not None:
                    return
                if self._opened_at and trio.current_time() - self._opened_at >= HEALTHY_AFTER:
                    tries = 0
                self._opened_at = 0.0
                self.state = SessionState.RECONNECTING
                spread = self._environment.jitter.uniform(0.5, 1.0)
                await self._pause(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(tries, 10)) * spread, retry_after)
                tries += 1
            if boundary.error is not None:
                self._log_failure("the session's connections task failed", boundary.error)
                # As soon as after any other failure: what ends the block needs a connection for its scopes.
                await trio.sleep(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(tries, 10)))
                tries += 1

    async def _pause(self, backoff: float, retry_after: float | None) -> None:
        """Wait before the next attempt to connect: for the backoff, and as the venue asked unless an order waits."""
        began = trio.current_time()
        until = began + backoff
        if retry_after is None:
            self._early = EARLY_FIRST
        else:
            until = max(until, began + min(retry_after, RETRY_AFTER_MOST))
            early = max(began + backoff, began + self._early)
            engine = self.engine
            while trio.current_time() < until and not engine.waiting:
                with trio.move_on_at(until):
                    await self.engine.wakeup.wait()
            if early < until:
                if trio.current_time() < until:  # an order waits
                    self._early = min(EARLY_MOST, 2 * self._early)
                until = early
        while (now := trio.current_time()) < until:
            at = until
            if retry_after is None and self.engine.last_chance:
                at = min(until, max(self._hurried_at + HURRY, began + BACKOFF_FIRST / 2))  # never without a pause
                if at <= now:
                    self._hurried_at = now
                    break
            with trio.move_on_at(at):
                await self.engine.wakeup.wait()

    async def _serve_one(self) -> float | None:
        """Open a connection and serve it to its end; return how long the venue asks us to wait, if it does."""
        number = self._connections + 1
        connection = Connection(number, self.engine, self._environment, self.journal)
        cause: BaseException | None = None
        try:
            cause = await connection.serve(self._options, self._opened)
        except HandshakeFailed as error:
            self._refused(error)
            return error.retry_after
        finally:
            self._connection = None
            if cause is not None:
                logger.warning("connection %d ended: %s", number, cause)
            if self._notify is not None and self._connections == number:
                # Also when the session ends: an observer that counts open connections must get back to its first value.
                self._notify("connection_lost", number, cause)
        if (fatal := ends_program(cause)) is not None:
            self.hand_on(fatal)
        if not self._first.is_set():
            failed = HandshakeFailed(f"The connection to {self._options.endpoint.origin} ended at once: {cause}.")
            failed.__cause__ = cause
            self._fail(failed)
        return None

    def _refused(self, error: HandshakeFailed) -> None:
        """Take note of an attempt to connect that failed.

        The first one fails fast. Later only the venue's own verdict on us, status 401, is final: a certificate may be
        that of a captive portal or a half-updated load balancer, and a 403 a firewall's temporary ban.
        """
        if (fatal := ends_program(error)) is not None:
            self.hand_on(fatal)
        if not self._connections or error.status == 401:
            self._fail(error)
            return
        if error.retry_after is not None and error.retry_after > RETRY_AFTER_MOST:
            logger.warning("no connection: %s The session waits %g s at most.", error, RETRY_AFTER_MOST)
        else:
            logger.warning("no connection: %s", error)
        self.engine.connection_refused(error)
        if self._notify is not None:
            self._notify("connection_failed", error)

    def _opened(self, connection: Connection) -> None:
        self._connection = connection
        self._connections = connection.number
        self._opened_at = trio.current_time()
        self.engine.saw_clock(connection.link.offset, trio.current_time())
        self.state = SessionState.CONNECTED
        logger.info("connection %d to %s is open", connection.number, self._options.endpoint.origin)
        if self._notify is not None:
            self._notify("connection_opened", connection.number)
        self.engine.connection_up(trio.current_time())
        self._first.set()

    # The venue's clock

    @property
    def clock(self) -> OffsetInterval | None:
        """The bounds of the venue's clock minus ours, as far as they are known now."""
        self.engine.clock.check(trio.current_time())
        return self.engine.clock.interval

    @trio.lowlevel.enable_ki_protection
    async def _probe_task(self) -> None:
        """Look at the venue's clock when asked to, by a connection that serves no other purpose."""
        while True:
            await self.engine.clock.wanted.wait()
            try:
                with Boundary() as boundary:
                    seen = await probe(self._options, self._environment)
                    self.engine.saw_clock(seen, trio.current_time())
                self._log_failure("the venue's clock could not be checked", boundary.error)
            finally:
                self.engine.probed(trio.current_time())

    def _fail(self, error: TradingError) -> None:
        self.failure = error
        self.state = SessionState.FAILED
        logger.error("the session has failed: %s", error)
        if self._notify is not None:
            self._notify("connection_failed", error)
        self.engine.stop(error)
        self._first.set()
        if self._connection is not None:
            self._connection.end(error)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def run_session(session: Session) -> AsyncGenerator[Session]:
    """Run the session's tasks around a block, whose exception propagates unchanged, in no group."""
    interrupted = False
    async with open_background() as nursery:
        try:
            await session.start(nursery)
            yield session
        except BaseException as error:
            interrupted = is_interrupt(error)
            raise
        finally:
            try:
                await session.close()  # noqa: ASYNC102 - it shields itself, and ends by itself
            except KeyboardInterrupt:
                if not interrupted:
                    raise
                # The second one only speeds up the end: what is raised with the first may say which orders are left.
            finally:
                session.kill()
                if session.interruption is not None:
                    raise session.interruption
