"""Runs one scenario with scopes and a journal; the process may die in it, and a second one resume.

A process dies between two task steps: what it has not committed is gone, its connections end (what the network has
taken still arrives), its tasks are swept up where nothing that they do has an effect.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from unittest.mock import patch

import attrs
import msgspec
import trio

from trio_cancel import CancelRequest, HandshakeFailed, JournalError, Outcome, Pacer, TradingWS
from trio_cancel._cli._resume import _Resume
from trio_cancel._cli._run import Halt
from trio_cancel._client import open_session
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._journal.resume import Plan, plan_resume
from trio_cancel._net import stream as _transport
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.signals import signal_counter
from trio_cancel._values.observer import Observer
from trio_cancel.journal import JournalContents
from trio_cancel.sandbox import Book, BookStatus, NoSuchOrder

from .disk import Disk
from .engine import Steps, logging_kept, run_deterministically, watched
from .harness import CREDENTIALS, LIMIT, BodyError, Simulation, throwing_handler, trace
from .life import Life, Watch, settlements
from .record import Recorder, Run
from .scenario import NO_FAULTS, ExitKind, OrderPlan, OrderState
from .scopes import DiskPlan, ScopeScenario, Trade
from .stream import wrapped
from .trading import Held, ScopeResult, Traders


@attrs.define(eq=False)
class Resume:
    """What one resume was to do, and told.

    Attributes:
        on_book: ids of the orders that were on the book after it, or on their way there.
        finished: False if it died.
    """

    orders: list[CancelRequest]
    told: list[Outcome] = attrs.field(factory=list)
    failure: HandshakeFailed | None = None
    on_book: set[str] = attrs.field(factory=set)
    finished: bool = True


@attrs.define(eq=False)
class ScopeRun:
    """Everything about one run."""

    plan: ScopeScenario
    run: Run
    disk: Disk
    lives: list[Life]
    scopes: list[ScopeResult] = attrs.field(factory=list)
    held: list[Held] = attrs.field(factory=list)
    resumes: list[Resume] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)
    at_death: JournalContents | None = None
    on_book_at_death: set[str] = attrs.field(factory=set)
    at_end: JournalContents | None = None
    listeners: int = 0

    def trace(self) -> list[str]:
        """Return everything that two runs of one seed must agree on, as lines."""
        lines = trace(self.run)
        for life in self.lives:
            lines += [f"{key} {each}" for key, each in life.written.items()]
            lines += [f"{request} {intent} {outcome!r} {at}" for request, intent, outcome, at in life.settled]
        for each in self.scopes:
            error = f"{type(each.error).__name__} {each.error} {getattr(each.error, '__notes__', ())}"
            lines.append(f"scope {each.number} {each.leaving} {each.left} {error} {each.report!r}")
        lines += [f"held {held.request} {held.added} {held.forgotten}" for held in self.held]
        lines += [f"resume {resume.orders} {resume.told!r}" for resume in self.resumes]
        lines += [str(self.disk.committed), str(self.at_death), str(self.at_end)]
        return lines

    def trace_hash(self) -> str:
        """Return the hash of it."""
        return hashlib.sha256("\n".join(self.trace()).encode()).hexdigest()[:16]


def run_scopes(plan: ScopeScenario) -> ScopeRun:
    """Run a scenario to its end."""
    recorder, steps = Recorder(), Steps()
    done = Run(plan.base, recorder)
    disk = Disk(plan.disk, recorder, random.Random(f"disk {plan.base.seed}"))
    simulation = ScopeSimulation(ScopeRun(plan, done, disk, [Life(disk, recorder)]), steps)
    direct = patch.object(_transport, "StreamRaw", wrapped)
    with (
        logging_kept(done.logged, throwing_handler(done)),
        settlements(lambda: simulation.whole.lives[-1]),
        watched(),
        direct,
    ):
        run_deterministically(plan.base.seed, steps, simulation.main)
    done.steps = steps.count
    return simulation.whole


class ScopeSimulation(Simulation):
    """One run under way."""

    def __init__(self, whole: ScopeRun, steps: Steps) -> None:
        super().__init__(whole.run, steps)
        self.whole = whole
        self._life = whole.lives[0]
        self.traders = Traders(whole.plan, self._life, self, steps, whole.run.recorder)
        self._under_way: set[str] = set()
        self._beside: trio.Nursery
        self._over = False

    # The venue

    def _prepare(self) -> None:
        super()._prepare()
        book = self._sandbox.book
        for trade in self.whole.plan.trades:
            if trade.old is not None:
                old = book.create(id=self._old(trade), external_id=self.scenario.orders[trade.order].external_id)
                if trade.old is OrderState.FILLED:
                    book.fill(old.id)
                elif trade.old is OrderState.CANCELED:
                    book.cancel(old.id)

    def _old(self, trade: Trade) -> str:
        return f"OLD-{trade.order}"

    @property
    def book(self) -> Book:
        """The venue's."""
        return self._sandbox.book

    def send(self, trade: Trade) -> None:
        order = self.scenario.orders[trade.order]
        self._under_way.add(order.id)
        self._venue.start_soon(self._create, trade, order)

    async def _create(self, trade: Trade, order: OrderPlan) -> None:
        await trio.sleep(trade.travel)
        if trade.old is not None and self._sandbox.book.get(self._old(trade)).status.active:
            self._sandbox.book.fill(self._old(trade))  # a name is used again once it is free
        self._under_way.discard(order.id)
        self._sandbox.book.create(id=order.id, external_id=order.external_id, delay=trade.delay)

    def comes(self, order: OrderPlan) -> bool:
        try:
            status = self._sandbox.book.get(order.id).status
        except NoSuchOrder:
            return order.id in self._under_way
        return status.active or status is BookStatus.PENDING_CREATION

    def _on_book(self) -> set[str]:
        return {order.id for order in self.scenario.orders if self.comes(order)}

    # The processes

    async def _session_and_callers(self) -> None:
        whole, plan = self.whole, self.whole.plan
        async with trio.open_nursery() as reaper:
            if plan.death is not None:
                reaper.start_soon(self._die_after, plan.death)
            elif plan.death_step is not None:
                self.steps.after(plan.death_step, self._die)
            await self._first_life()
            self._over = True
            reaper.cancel_scope.cancel()
        whole.scopes, whole.held, whole.wrong = self.traders.results, self.traders.held, self.traders.wrong
        if self._life.dead:
            await self._resume_all()
        whole.at_end = whole.disk.contents()
        whole.listeners = signal_counter()._listeners

    async def _die_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self._die()

    def _die(self) -> None:
        if self._over or self._life.dead:
            return
        self._kill(self._life)
        self._outer.cancel()
        self._beside.cancel_scope.cancel()
        self.whole.at_death = self.whole.disk.contents()
        self.whole.on_book_at_death = self._on_book()

    def _kill(self, life: Life) -> None:
        life.kill()
        for wire in self.done.wires:
            wire.client.close()

    async def _first_life(self) -> None:
        done, scenario = self.done, self.scenario
        self._outer = trio.CancelScope()
        async with trio.open_nursery() as self._beside:
            for result in done.results:
                self._beside.start_soon(self.callers.call, result)
            if scenario.end.kind is ExitKind.CANCELLED:
                self._outer.deadline = trio.current_time() + scenario.end.at
            try:
                with self._outer:
                    await self._session()
            except HandshakeFailed as error:
                done.enter_error = error
            except JournalError as error:  # the disk hung for as long as opening may take
                if done.entered is not None:
                    raise
                done.enter_error = error
            except BodyError as error:
                done.exit_error = error
            done.exited = done.recorder.stamp()
            if done.entered is None:
                self._beside.cancel_scope.cancel()

    async def _session(self) -> None:
        done, life = self.done, self._life
        scenario = self.scenario
        policy = RetryPolicy(scenario.reply_timeout, scenario.give_up_after, scenario.retry)
        async with self._open(life, policy, Watch(life, self.throw)) as ws:
            done.entered = done.recorder.stamp()
            self.callers.ws = ws
            self.callers.ready.set()
            try:
                await self._body(ws)
            except trio.Cancelled:
                done.block_cancelled = not self._outer.cancel_called
                raise
            finally:
                done.body_ended = done.recorder.stamp()
                done.failed = ws.state == "failed"

    async def _body(self, ws: TradingWS) -> None:
        end, inside = self.scenario.end, self.whole.plan.inside
        nursery = trio.open_nursery()
        async with nursery as here:
            scopes = trio.Event()

            async def trade() -> None:
                await self.traders.open_scopes(ws)
                scopes.set()

            (here if inside else self._beside).start_soon(trade)
            if end.kind in (ExitKind.DONE, ExitKind.CANCELLED):
                if self.done.results:
                    await self.callers.all_returned.wait()
                await scopes.wait()
                return
            await trio.sleep(end.at)
            here.cancel_scope.cancel()
        if end.kind is ExitKind.RAISED:
            self.done.expected_error = BodyError("the body failed")
            raise self.done.expected_error

    @asynccontextmanager
    async def _open(self, life: Life, policy: RetryPolicy, observer: Watch) -> AsyncGenerator[TradingWS]:
        scenario = self.scenario
        rng = random.Random(f"client {scenario.seed} {len(self.whole.lives)}")

        async def dial() -> trio.abc.Stream:
            if life.dead:
                raise OSError("this process is dead")
            return await self._dial()

        manager: AbstractAsyncContextManager[TradingWS] = open_session(
            ConnectOptions(
                parse_endpoint("ws://127.0.0.1:9", allow_insecure=False), None, dial, scenario.connect_timeout
            ),
            CREDENTIALS,
            policy,
            Environment(
                self.wall, lambda: f"{rng.getrandbits(32):08x}", rng.randbytes, rng, trio.current_time, lambda: 0.0
            ),
            pacer=None if scenario.pacer is None else Pacer(*scenario.pacer),
            correct_clock=scenario.clock_offset is None,
            correction=scenario.clock_offset or 0.0,
            journal=life.open_journal,
            observer=observer,
            lookup=None if self._source is None else self._source.argument,
            look_up_closed=scenario.lookup is not None and scenario.lookup.closed_too,
        )
        async with manager as ws:
            life.ws = ws
            if life.dead:  # it died while it was connecting
                ws._session.kill()
            yield ws

    async def _resume_all(self) -> None:
        """Do what ``trio-cancel resume`` does, and again if anything was left; the first may die, too."""
        whole = self.whole
        await trio.sleep(whole.plan.restart)
        if whole.plan.healed:
            self._sandbox.faults = NO_FAULTS
            self.scenario = attrs.evolve(self.scenario, roads=(), silent=None, flapping=None)
            whole.disk.plan = DiskPlan()
        for turn in range(5):
            plan = plan_resume(whole.disk.contents().left, self.wall())
            resume = Resume([planned.name for planned in plan.cancels])
            if plan.cancels:
                whole.resumes.append(resume)
                await self._resume(resume, plan, whole.plan.death_again if turn == 0 else None)
            elif not any(resume.finished for resume in whole.resumes):
                whole.resumes.append(resume)  # nothing was left, or so it says
            resume.on_book = self._on_book()
            if not plan.cancels:
                break

    async def _resume(self, resume: Resume, plan: Plan, death: float | None) -> None:
        life = Life(self.whole.disk, self.done.recorder)
        self.whole.lives.append(life)

        def open_session(observer: Observer) -> AbstractAsyncContextManager[TradingWS]:
            return self._open(life, RetryPolicy(12.0, 30.0, retry=True), Watch(life, self.throw, observer))

        def tell(outcome: Outcome, _: int) -> None:
            resume.told.append(msgspec.structs.replace(outcome, request=by_request[outcome.request].name))

        by_request = {planned.request: planned for planned in plan.cancels}
        halt = Halt(2 * LIMIT)
        run = _Resume(open_session, dict.fromkeys(by_request, 1), tell, trio.lowlevel.checkpoint, halt, plan=plan)

        async def die() -> None:
            await trio.sleep(math.inf if death is None else death)
            resume.finished = False
            self._kill(life)
            run.halt.scope.cancel()

        async with trio.open_nursery() as reaper:
            reaper.start_soon(die)
            try:
                await run.run()
            except JournalError:  # the disk hung for as long as opening may take: it is run again
                self.whole.resumes.remove(resume)
            reaper.cancel_scope.cancel()
        resume.failure = run.failure
