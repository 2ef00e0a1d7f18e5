"""Runs one scenario with guards: bots and guards are the library's own, each in a process of its own.

The library's ``open_trading_ws`` and ``open_guard`` run whole, with journal, lease, database connection, view and
take-over. Made here are the network to the venue, the database below its driver, the clocks, and chance.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import math
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import attrs
import psycopg
import trio

from trio_cancel import CancelRequest, JournalError, SessionClosed, TradingWS, _client, open_trading_ws
from trio_cancel._engine.order import OrderCancel
from trio_cancel._guard import guard as guard_module
from trio_cancel._guard.opening import open_guard
from trio_cancel._journal import database, lease, postgres
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.lease import LeaseState
from trio_cancel._net import stream as _transport
from trio_cancel._trio.environment import Environment
from trio_cancel._values.errors import TradingError
from trio_cancel._values.report import CancelReport, TakenOver
from trio_cancel.sandbox import NoSuchOrder, Order, Sandbox, open_sandbox

from .engine import SimulatedClock, Steps, logging_kept, run_deterministically, watched
from .guards import END, HEALED, BotPlan, GuardPlan, GuardScenario, Sleep, Then, Trade
from .guards_database import URL, Cluster, Raw, Row, Server, Write
from .guards_process import CURRENT, Lock, Process, Threads, drive, stoppable, wait
from .harness import CREDENTIALS
from .record import Recorder
from .stream import Road, Wire, wrapped

EPOCH = 1_700_000_000.0
"""Unix seconds at which runs begin."""
ADDRESS = "postgresql://{who}:a-password-of-the-simulation@{servers}/trading"


@attrs.define(eq=False)
class Held:
    """An order whose ``add`` has returned.

    Attributes:
        id: the venue's for it.
        let_go: when the bot first did something by which it is held no more; None if it did not.
        kept: it was discarded.
        sent: it was placed.
    """

    bot: Bot
    request: CancelRequest
    id: str
    added: float
    let_go: float | None = None
    kept: bool = False
    sent: bool = False


@attrs.define(eq=False)
class Bot:
    """One process with a session.

    Attributes:
        error: what came out of it.
        over: when it noticed that its journal was taken over.
        dead: it was killed.
        gone: it did not hold anything any more when the run was over.
    """

    plan: BotPlan
    process: Process
    journal: str
    ws: TradingWS | None = None
    epoch: int = 0
    error: BaseException | None = None
    entered: float | None = None
    leaving: float | None = None
    left: float | None = None
    over: float | None = None
    dead: bool = False
    gone: bool = False
    slept: bool = False
    told: list[CancelReport] = attrs.field(factory=list)


@attrs.frozen
class Taking:
    """A journal got another epoch.

    Attributes:
        locked: when the taker had locked the journal's row, and nothing could stop it any more; its commit may come
            much later.
        was: how the lease of the session stood that had it, when the epoch began; None if that has ended.
        beaten: when its last beat was.
        here: it had run and had a way to the database for two leases before the row was locked.
        live: it was not let go of.
    """

    at: float
    journal: str
    epoch: int
    by: str
    locked: float
    was: LeaseState | None
    beaten: float
    here: bool
    lease: float
    live: bool


@attrs.define(eq=False)
class GuardRun:
    """Everything about one run.

    Attributes:
        away: from when to when the database was away for all, where that was longer than a second.
    """

    plan: GuardScenario
    logged: list[tuple[int, str]] = attrs.field(factory=list)
    bots: list[Bot] = attrs.field(factory=list)
    held: list[Held] = attrs.field(factory=list)
    takings: list[Taking] = attrs.field(factory=list)
    read: dict[tuple[str, int], set[str]] = attrs.field(factory=dict)
    reports: list[tuple[float, str, CancelReport]] = attrs.field(factory=list)
    faults: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)
    orders: dict[str, Order] = attrs.field(factory=dict)
    canceled_by: dict[str, tuple[str, float]] = attrs.field(factory=dict)
    owners: dict[str, Bot] = attrs.field(factory=dict)
    left: dict[str, set[str]] = attrs.field(factory=dict)
    away: list[tuple[float, float]] = attrs.field(factory=list)
    states: dict[str, str] = attrs.field(factory=dict)
    names: dict[str, str] = attrs.field(factory=dict)
    rows: str = ""
    lost_by_failover: bool = False
    looked: float = 0.0
    steps: int = 0

    def trace(self) -> list[str]:
        """Return everything that two runs of one seed must agree on, as lines."""
        lines = [f"{level} {text}" for level, text in self.logged]
        lines += [str(each) for each in self.takings]
        lines += [f"{key} {sorted(keys)}" for key, keys in self.read.items()]
        lines += [f"{at:.6f} {name} {report!r}" for at, name, report in self.reports]
        lines += [f"{each.request} {each.id} {each.added:.6f} {each.let_go} {each.sent}" for each in self.held]
        lines += [f"{each.process.name} {each.epoch} {each.error!r} {each.over} {each.left}" for each in self.bots]
        lines += [f"{key} {order.status} {self.canceled_by.get(key)}" for key, order in self.orders.items()]
        lines += [str(sorted(self.faults.items())), str(self.states), str(self.steps), *self.wrong]
        return lines

    def trace_hash(self) -> str:
        """Return the hash of it."""
        return hashlib.sha256("\n".join(self.trace()).encode()).hexdigest()[:16]


def run_guards(plan: GuardScenario) -> GuardRun:
    """Run a scenario to its end."""
    whole, steps = GuardRun(plan), Steps()
    world = World(whole)
    with logging_kept(whole.logged), watched(), stoppable(), world.patched():
        run_deterministically(plan.seed, steps, world.main)
    whole.steps = steps.count
    return whole


class World:
    """One run under way."""

    def __init__(self, whole: GuardRun) -> None:
        self.whole = whole
        self.plan = whole.plan
        self.recorder = Recorder()
        self.rng = random.Random(f"world {whole.plan.seed}")
        self.cluster: Cluster
        self._clock: SimulatedClock
        self._threads: Threads
        self._nursery: trio.Nursery
        self._sandbox: Sandbox
        self._wires: dict[int, str] = {}
        self._began = 0.0
        self._locked: dict[tuple[str, int], tuple[float, bool]] = {}  # by a taker: when, and if its session was here
        self._processes: list[Process] = []

    # What is made here

    def now(self) -> float:
        """Seconds since the run began, in any thread."""
        return self._clock.current_time() - self._began

    def steady(self, *_: object) -> float:
        """The clock of the process that asks."""
        process = CURRENT.get()
        return self.now() * (1.0 if process is None else process.rate) + 1_000.0

    def wall(self) -> float:
        """Unix seconds."""
        return EPOCH + self.now()

    def environment(self) -> Environment:
        """What a session takes from the world."""
        rng = self.rng
        return Environment(
            self.wall, lambda: f"{rng.getrandbits(32):08x}", rng.randbytes, rng, self.steady, lambda: 0.0
        )

    @contextmanager
    def patched(self) -> Generator[None]:
        """Have the library in this world while the block runs."""
        clock = SimpleNamespace(monotonic=self.steady, clock_gettime=self.steady)
        times = SimpleNamespace(time=self.wall, sleep=self._sleep)
        take, intend = postgres._take, Journal.intend

        def take_and_note(cursor: Any, row: Any, *args: Any) -> Any:
            begun = take(cursor, row, *args)
            if begun is not None:
                name = cursor.connection.server.table("journal")[row.id]["name"]
                left = () if begun.left is None else postgres_left(begun.left)
                self.whole.read[name, begun.session] = set(left)
            return begun

        async def exchange(connection: database.DatabaseConnection, *args: Any) -> Any:
            raw: Any = connection.raw
            return await raw.in_loop(connection._seconds, *args)

        async def intend_and_measure(journal: Journal, admitted: list[OrderCancel]) -> None:
            process, began = CURRENT.get(), trio.current_time()
            stood = 0.0 if process is None else process.stopped_in_all()
            await intend(journal, admitted)
            took = trio.current_time() - began
            took -= 0.0 if process is None else process.stopped_in_all() - stood
            if journal.has_lease and took > 1.0 + 0.6:
                self.whole.wrong.append(f"G6: an intent has waited for {took:.3f} s")

        with ExitStack() as stack:
            for owner, name, value in (
                (lease, "time", clock),
                (postgres, "time", times),
                (postgres, "threading", SimpleNamespace(Lock=Lock)),
                (guard_module, "time", times),
                (guard_module, "secrets", SimpleNamespace(token_hex=lambda n: self.rng.randbytes(n).hex())),
                (guard_module, "open_trading_ws", partial(open_trading_ws, dial=self._dial)),
                (_client, "Environment", self.environment),
                (_transport, "StreamRaw", wrapped),
                (psycopg, "connect", lambda conninfo, **_: self.cluster.connect(conninfo)),
                (database, "socket", SimpleNamespace(socket=lambda fileno: fileno, SHUT_RDWR=2)),
                (database, "os", SimpleNamespace(dup=lambda raw: raw)),
                (database, "_watch", self),
                (database.DatabaseConnection, "_exchange", exchange),
                (database, "_ask_all", self.ask_all),
                (database, "_warned", set()),
                (postgres, "_connections", {}),
                (postgres, "_take", take_and_note),
                (Journal, "intend", intend_and_measure),
                (trio.to_thread, "run_sync", self._run_sync),
                (trio.lowlevel, "start_thread_soon", self._start_thread_soon),
            ):
                stack.enter_context(patch.object(owner, name, value))
            yield

    async def _run_sync(self, function: Callable[..., Any], *args: object, **keywords: Any) -> Any:
        return await self._threads.run_sync(function, *args, **keywords)

    def _start_thread_soon(self, function: Callable[[], Any], _: object) -> None:
        self.spawn(drive, partial(contextvars.copy_context().run, function))  # the process's own, that of who asks

    def _sleep(self, seconds: float) -> None:
        wait(partial(trio.sleep, seconds))

    def ask_all(self, asked: list[Any]) -> None:
        """Stand for ``_ask_all``, which starts a thread for each server."""
        changed = [trio.Event()]

        async def ask(one: Any) -> None:
            try:
                # A greenlet and a thread have no context of their own: the connection is to know whose it is.
                (await drive(partial(contextvars.copy_context().run, one.ask))).unwrap()
            finally:
                before, changed[0] = changed[0], trio.Event()
                before.set()

        async def ask_and_wait() -> None:
            until = math.inf
            for one in asked:
                self._nursery.start_soon(ask, one)
            while not all(one.done for one in asked):
                if any(one.will_do for one in asked):
                    until = min(until, trio.current_time() + database.OTHERS)
                with trio.move_on_at(until) as late:
                    await changed[0].wait()
                if late.cancelled_caught:
                    return

        wait(ask_and_wait)

    @contextmanager
    def bounded(self, raw: Raw, seconds: float) -> Generator[None]:
        """Stand for ``Watch.bounded``."""
        raw.until = self._clock.current_time() + seconds
        try:
            yield
        finally:
            raw.until = float("inf")

    def spawn(self, function: Callable[..., Any], *args: object) -> None:
        """Start a task of no process."""
        token = CURRENT.set(None)
        try:
            self._nursery.start_soon(function, *args)
        finally:
            CURRENT.reset(token)

    # The venue

    async def _dial(self) -> trio.abc.Stream:
        process = CURRENT.get()
        assert process is not None
        await trio.sleep(2 * self.plan.latency)
        if process.dead:
            raise OSError("this process is dead")
        wire = Wire(len(self._wires), Road(latency=self.plan.latency), self.recorder, random.Random(self.rng.random()))
        process.wires.append(wire)
        self.spawn(self._serve, wire, process.name)
        return wire.client

    async def _serve(self, wire: Wire, name: str) -> None:
        self._wires[self._sandbox.log.accepted] = name
        await self._sandbox.serve_stream(wire.venue)

    async def _create(self, held: Held, travel: float) -> None:
        await trio.sleep(travel)
        book, name = self._sandbox.book, held.request.external_id
        if name is not None:
            with contextlib.suppress(NoSuchOrder):
                if book.get(external_id=name).status.active:
                    self.whole.faults["create refused: the name is in use"] += 1
                    return
        book.create(id=held.id, external_id=name)

    def active(self, held: Held) -> bool:
        """Return whether it is on the book."""
        try:
            return self._sandbox.book.get(held.id).status.active
        except NoSuchOrder:
            return False

    # What is committed

    def committed(self, server: Server, journal: Row, writes: list[Write]) -> None:
        """See ``Watcher``."""
        if server is not self.cluster.current:
            return
        epoch = max(
            journal["epoch"],
            *(row["epoch"] for table, _, row in writes if table == "journal" and row is not None),
            0,
        )
        for table, _, row in writes:
            if row is not None and "session" in row and table in ("hold", "intent") and row["session"] != epoch:
                self.whole.wrong.append(f"G2: {journal['name']}: a commit of epoch {row['session']} in epoch {epoch}")

    def visible(self, raw: Raw) -> None:
        """See ``Watcher``."""
        process = raw.process
        bot = next((bot for bot in self.whole.bots if bot.process is process and bot.ws is not None), None)
        sleep = None if bot is None else bot.plan.sleep
        if bot is None or sleep is None or bot.process.name != bot.plan.journal or bot.slept:
            return
        if bot.entered is None or self.now() < bot.entered + sleep.after or bot.process.stopped:
            return
        bot.slept = True
        self.whole.faults["stopped with an answer on the way"] += 1
        self.spawn(self._sleep_in_commit, bot.process, sleep)
        if sleep.away:
            self.spawn(self._cut, bot.process.name, "", 0.1, 0.1 + sleep.away)

    def locked(self, server: Server, journal: int) -> None:
        """See ``Watcher``."""
        row, now = server.table("journal")[journal], self.now()
        here = any(
            not bot.process.stopped and now - bot.process.reachable_from > 2 * row["lease_ms"] / 1000
            for bot in self._alive(row)
        )
        self._locked[server.name, journal] = now, here

    def _alive(self, row: Row) -> list[Bot]:
        """Return the bot that has a journal, if it lives."""
        return [
            bot
            for bot in self.whole.bots
            if bot.journal == row["name"] and bot.epoch == row["epoch"] and not bot.process.dead and bot.left is None
        ]

    def taken(self, server: Server, journal: int, before: Row, after: Row) -> None:
        """See ``Watcher``."""
        whole, name, now = self.whole, before["name"], self.now()
        if after["epoch"] != before["epoch"] + 1:
            whole.wrong.append(f"G3: {name}: epoch {after['epoch']} follows {before['epoch']}")
        was: LeaseState | None = None
        for bot in self._alive(before):
            assert bot.process.context is not None
            was = None if bot.ws is None else bot.process.context.run(_lease_of, bot.ws)
        locked, here = self._locked[server.name, journal]
        process = CURRENT.get()
        whole.takings.append(
            Taking(
                now,
                name,
                after["epoch"],
                "" if process is None else process.name,
                locked,
                was,
                server.beaten.get(journal, -10.0) - self._began,
                here,
                before["lease_ms"] / 1000,
                before["state"] == "live",
            )
        )

    # The processes

    async def main(self) -> None:
        """Run it all."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, SimulatedClock)
        self._clock = clock
        self._began = trio.current_time()
        plan = self.plan
        async with (
            open_sandbox(
                port=None, credentials=CREDENTIALS, clock=lambda: int(self.wall() * 1000), seed=plan.seed
            ) as self._sandbox,
            trio.open_nursery() as self._nursery,
        ):
            self._threads = Threads(self._nursery)
            rng = random.Random(f"database {plan.seed}")
            self.cluster = Cluster(rng, self, self.whole.faults, self.spawn, clock)
            self.cluster.travel, self.cluster.hidden, self.cluster.slow = plan.travel, plan.hidden, plan.slow
            servers = self.cluster.servers
            servers["db1"] = Server("db1", replicates=plan.replicates)
            if plan.replicates is not None:
                servers["db2"] = Server("db2", standby=True)
            for act in (self._restarts, self._cuts, self._windows, self._failover):
                self.spawn(act)
            for number, bot in enumerate(plan.bots):
                self.spawn(self._bot_life, bot, number)
            for number, guard in enumerate(plan.guards):
                self.spawn(self._guard_life, guard, number)
            await self._rest()
            self._look()
            for process in self._processes:
                process.dead = True
                process.scope.cancel()
                process.go_on()
            with trio.move_on_after(30):
                while not all(process.ended for process in self._processes):  # noqa: ASYNC110, RUF100 - a poll is simple
                    await trio.sleep(0.5)
            self._nursery.cancel_scope.cancel()

    async def _rest(self) -> None:
        """Wait until nothing is left to be done."""
        await trio.sleep(min(END, self.plan.calm_from + 3.0))
        self.cluster.hidden = self.cluster.slow = 0.0
        since = self.now()
        while self.now() < END:
            if not self._is_calm():
                since = self.now()
            if self.now() - since >= 4.0:
                return
            await trio.sleep(0.5)

    def _is_calm(self) -> bool:
        epochs = {bot.journal: bot.epoch for bot in self.whole.bots if not bot.process.dead and bot.left is None}
        if any(bot.over is not None and bot.left is None and not bot.process.dead for bot in self.whole.bots):
            return False
        return all(
            row["state"] == "free" or (row["state"] == "live" and epochs.get(row["name"]) == row["epoch"])
            for row in self.cluster.current.table("journal").values()
        )

    def _look(self) -> None:
        whole = self.whole
        whole.looked = self.now()
        for bot in whole.bots:
            bot.dead, bot.gone = bot.process.dead, bot.process.dead or bot.over is not None or bot.left is not None
        for order in self._sandbox.book:
            whole.orders[order.id] = order
            record = self._sandbox.log.applied(order.id)
            if record is not None and record.applied_at is not None:
                whole.canceled_by[order.id] = self._wires[record.connection], record.applied_at - self._began
        server = self.cluster.current
        for number, row in server.table("journal").items():
            whole.left[row["name"]] = {order.request.key for order in server.contents(number).left}
            whole.states[row["name"]] = row["state"]
        journals = server.table("journal")
        whole.names = {key: journals[row["journal"]]["name"] for (_, key), row in server.table("name").items()}
        whole.rows = repr(server.tables)

    def _process(self, name: str, number: int) -> Process:
        process = Process(name, self.plan.rates[number % len(self.plan.rates)])
        self._processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """End a process at once: its tasks run no more, its connections end. When the run is over, all are dead."""
        if process.dead:
            return
        process.dead = True
        process.stop()
        for wire in process.wires:
            wire.client.close()
        for raw in list(process.connections):
            raw.lose()
        self.whole.faults["killed"] += 1

    async def _stop(self, process: Process, at: float, seconds: float) -> None:
        await trio.sleep(at)
        if process.dead or process.stopped:
            return
        process.stop()
        self.whole.faults["stopped"] += 1
        await trio.sleep(seconds)
        if not process.dead:
            process.go_on()
            process.reachable_from = self.now()

    async def _sleep_in_commit(self, process: Process, sleep: Sleep) -> None:
        heard = 3 * self.plan.travel if sleep.stands else 0.0  # or the answer is still on its way
        await self._stop(process, heard, sleep.seconds)
        for raw in process.connections:
            raw.stands_for = sleep.stands

    async def _kill(self, process: Process, at: float) -> None:
        await trio.sleep(at)
        self.kill(process)

    def _address(self, process: Process) -> str:
        # Another for each process, so that none has a connection, or a lock, of a dead one that had its name.
        who = f"{process.name}-{self._processes.index(process)}"
        return ADDRESS.format(who=who, servers=",".join(self.cluster.servers))

    async def _bot_life(self, plan: BotPlan, number: int) -> None:
        await trio.sleep(plan.begin)
        process = self._process(plan.journal, number)
        if plan.death is not None:
            self.spawn(self._kill, process, plan.death)
        for at, seconds in plan.stops:
            self.spawn(self._stop, process, at, seconds)
        bot = Bot(plan, process, plan.journal)
        self.spawn(self._enter, process, partial(self._bot, bot))
        if plan.successor is not None:
            await trio.sleep(plan.successor)
            journal = "mm-3" if plan.second else plan.journal
            if not plan.second and not process.dead and not process.stopped:
                return
            successor = Bot(plan, self._process(f"{journal}-again", number + 6), journal)
            self.spawn(self._enter, successor.process, partial(self._bot, successor))

    async def _enter(self, process: Process, function: Callable[[], Any]) -> None:
        CURRENT.set(process)
        process.context = contextvars.copy_context()
        with process.scope:
            await function()
        process.ended = True

    async def _guard_life(self, plan: GuardPlan, number: int) -> None:
        await trio.sleep(plan.begin)
        for again in range(2):
            process = self._process(f"guard-{number}", number + 3 + 3 * again)
            if plan.death is not None and not again:
                self.spawn(self._kill, process, plan.death)
            for at, seconds in plan.stops if not again else ():
                self.spawn(self._stop, process, at, seconds)
            self.spawn(self._enter, process, partial(self._guard, process))
            if plan.death is None:
                return
            await trio.sleep(plan.death + 2.0)

    async def _guard(self, process: Process) -> None:
        def told(journal: str, report: CancelReport) -> None:
            self.whole.reports.append((self.now(), journal, report))

        while True:
            try:
                async with open_guard(self._address(process), [CREDENTIALS], on_taken=told):
                    await trio.sleep_forever()
            except JournalError:
                self.whole.faults["guard could not open"] += 1
                await trio.sleep(1.0)

    # Bots

    async def _bot(self, bot: Bot) -> None:
        for _ in range(30):
            try:
                await self._session(bot)
            except TakenOver as error:
                bot.error = error
            except JournalError as error:
                if bot.entered is None:  # the database is away, or somebody else has the journal
                    self.whole.faults["bot could not open"] += 1
                    bot.error = error
                    await trio.sleep(1.0)
                    continue
                bot.error = error
            except (TradingError, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                    raise
                bot.error = error
            bot.left = self.now()
            return

    @asynccontextmanager
    async def _opened(self, bot: Bot) -> AsyncGenerator[TradingWS]:
        process = bot.process
        async with open_trading_ws(
            URL,
            credentials=CREDENTIALS,
            dial=self._dial,
            journal=f"{self._address(process)}?journal={bot.journal}",
            lease=bot.plan.lease,
            clock_offset="auto",
        ) as ws:
            yield ws

    async def _session(self, bot: Bot) -> None:
        async with self._opened(bot) as ws:
            journal = ws._session.journal
            assert journal is not None
            bot.ws, bot.epoch, bot.entered, bot.error = ws, journal._session, self.now(), None
            self.whole.bots.append(bot)
            if ws.left_behind:
                bot.told.append(await ws.resume())
            async with ws.open_order_scope(grace=10.0, settle=2.0) as orders, trio.open_nursery() as nursery:
                nursery.start_soon(self._note_over, bot, journal)
                for number, trade in enumerate(bot.plan.trades):
                    nursery.start_soon(self._trade, bot, orders, trade, f"{bot.process.name}:{number}")
                try:
                    await trio.sleep_forever()
                finally:
                    bot.leaving = self.now()

    async def _note_over(self, bot: Bot, journal: Journal) -> None:
        await journal.over.wait()
        bot.over = self.now()

    async def _trade(self, bot: Bot, orders: Any, trade: Trade, id: str) -> None:
        process, whole = bot.process, self.whole
        await trio.sleep(trade.at)
        if not await self._is_free(bot, trade):
            return
        request = CancelRequest(id) if trade.by_id else CancelRequest(external_id=trade.name)
        held = Held(bot, request, id, 0.0)
        if trade.by_id:
            await self._place(held, trade)
        for _ in range(40):
            try:
                await orders.add(request)
            except (TakenOver, SessionClosed):
                whole.faults["add refused for good"] += 1
                return
            except JournalError:
                whole.faults["add refused"] += 1
                await trio.sleep(0.25)
            else:
                break
        else:
            return
        held.added = self.now()
        whole.held.append(held)
        whole.owners[id] = bot
        if not trade.by_id:
            if trade.stopped and not process.dead:
                whole.faults["stopped between add and placing"] += 1
                self.spawn(self._stop, process, 0.0, trade.stopped)
                await trio.sleep(0.001)
            if trade.stopped and trade.dies:
                self.spawn(self._kill, process, 0.0002)
            await self._place(held, trade)
        if trade.placed and self.active(held):
            orders.placed(id, external_id=None if trade.by_id else trade.name)
        await trio.sleep(trade.life)
        if trade.then is Then.KEEP:
            return
        held.let_go = self.now()
        if trade.then is Then.CANCEL:
            assert bot.ws is not None
            await bot.ws.try_cancel(request)
        else:
            held.kept = True
            with contextlib.suppress(TradingError):
                orders.discard(request)

    async def _is_free(self, bot: Bot, trade: Trade) -> bool:
        """Wait until a bot may use a name; return False if it may not: another order that has it is on the book."""
        if bot.journal != bot.plan.journal:  # whose journal it was must be dead, or taken over
            first = next((other for other in self.whole.bots if other.journal == bot.plan.journal), None)
            while first is not None and not first.process.dead and not self._is_taken(first):  # noqa: ASYNC110, RUF100
                await trio.sleep(0.5)
        book = self._sandbox.book
        with contextlib.suppress(NoSuchOrder):
            return trade.by_id or not book.get(external_id=trade.name).status.active
        return True

    def _is_taken(self, bot: Bot) -> bool:
        return any(each.journal == bot.journal and each.epoch > bot.epoch for each in self.whole.takings)

    async def _place(self, held: Held, trade: Trade) -> None:
        self.whole.owners[held.id] = held.bot
        held.sent = True
        self.spawn(self._create, held, self.plan.latency + trade.travel)
        await trio.sleep(2 * self.plan.latency + trade.travel)

    # Faults of the database

    def _away(self, begin: float) -> None:
        """Note that the database was away for all until now."""
        if self.now() - begin >= 1.0:
            self.whole.faults["database away for more than a second"] += 1
            self.whole.away.append((begin, self.now()))

    async def _restarts(self) -> None:
        for begin, end in sorted(self.plan.restarts):
            await trio.sleep(max(0.0, begin - self.now()))
            server = self.cluster.current
            self.cluster.crash(server)
            self.whole.faults["database restarted"] += 1
            await trio.sleep(max(0.0, end - self.now()))
            self.cluster.start(server)
            self._away(begin)

    async def _cuts(self) -> None:
        for cut in self.plan.cuts:
            self.spawn(self._cut, *cut)

    async def _cut(self, name: str, server: str, begin: float, end: float) -> None:
        await trio.sleep(begin)
        self.cluster.cut.add((name, server))
        for process in self._processes:
            if process.name == name:
                process.reachable_from = math.inf
        self.whole.faults["black hole"] += 1
        await trio.sleep(max(0.0, end - begin))
        self.cluster.cut.discard((name, server))
        for process in self._processes:
            if process.name == name:
                process.reachable_from = self.now()

    async def _windows(self) -> None:
        async def lonely(begin: float, end: float) -> None:
            await trio.sleep(begin)
            if self.plan.failover is not None:
                return
            self.cluster.link = False
            self.whole.faults["servers apart"] += 1
            await trio.sleep(end - begin)
            self.cluster.link = True
            self._away(begin)

        async def lies(begin: float, end: float) -> None:
            await trio.sleep(begin)
            self.cluster.lies = True
            await trio.sleep(end - begin)
            self.cluster.lies = False

        for span in self.plan.lonely:
            self.spawn(lonely, *span)
        for span in self.plan.lies:
            self.spawn(lies, *span)

    async def _failover(self) -> None:
        plan = self.plan.failover
        if plan is None:
            return
        await trio.sleep(plan.at)
        cluster, first, second = self.cluster, self.cluster.servers["db1"], self.cluster.servers["db2"]
        self.whole.faults["fail-over, split" if plan.split else "fail-over"] += 1
        cluster.link = False
        others = [f"guard-{number}" for number in range(3)]
        if plan.split:
            cluster.cut |= {(name, "db1") for name in (*others, "mm-1-again", "mm-3-again")}
        else:
            cluster.crash(first)
        await trio.sleep(plan.promoted)
        self.whole.lost_by_failover = self.plan.replicates == "async"
        second.standby, second.timeline = False, first.timeline + 1
        self._away(plan.at)
        if plan.split:
            await trio.sleep(max(0.0, HEALED - 5 - self.now()))
            cluster.crash(first)
        if plan.back is not None and plan.back > self.now():
            await trio.sleep(plan.back - self.now())
            first.down = False
            self.whole.faults["the old primary comes back"] += 1


def _lease_of(ws: TradingWS) -> LeaseState | None:
    return ws.lease


def postgres_left(tables: Any) -> list[str]:
    """Return the keys of what is left in a journal."""
    from trio_cancel._journal.reading import contents_of

    return [order.request.key for order in contents_of(tables).left]
