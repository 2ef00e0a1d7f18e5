"""Runs one scenario: the real client and the real sandbox over wires in memory, on a clock and a scheduler that repeat.

Tree of tasks: the sandbox and its connections; the callers, one task each, outside the session's block (so that the
block can end while they wait); the session within its own block. One limit is around it all.
"""

from __future__ import annotations

import errno
import json
import logging
import random
import signal
import ssl
import threading
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

import attrs
import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

from trio_cancel import (
    CancelNotSent,
    CancelRequest,
    Credentials,
    HandshakeFailed,
    Outcome,
    OutcomeUnknown,
    Pacer,
    SessionClosed,
    TradingWS,
    VenueError,
)
from trio_cancel import _transport
from trio_cancel._client import _open
from trio_cancel._connection import Dialing
from trio_cancel._endpoint import parse_endpoint
from trio_cancel._observer import Observer
from trio_cancel._pending import Pending, Terms
from trio_cancel._world import World
from trio_cancel.sandbox import CustomReply, OrderStatus, RequestRecord, Sandbox, UnknownOrder, open_sandbox
from trio_cancel.sandbox._protocol import render_order, render_result

from .record import LogKeeper, OpResult, Recorder, Run
from .scenario import ExitKind, Kind, Op, OrderState, Scenario
from .stream import NetFault, Road, Wire, wrapped

LIMIT = 900.0
"""Seconds of the run's clock after which it is over, hung or not."""
CREDENTIALS = Credentials("the-token-of-the-simulation", "the-secret-of-the-simulation")
EPOCH = 1_700_000_000
"""Unix seconds, about, at which runs begin."""


SPIN_LIMIT = 20.0
"""Seconds of real time after which a run counts as spinning: its clock does not get on."""


class Spinning(Exception):
    """A run that does not end. It comes out of trio as an internal error, for it strikes wherever it strikes."""


@contextmanager
def _watched() -> Generator[None]:
    """Raise Spinning in a run that takes too long (where the system has timers, and in the main thread)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def strike(_signum: int, frame: FrameType | None) -> None:
        raise Spinning("".join(traceback.format_stack(frame, 8)))

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, SPIN_LIMIT, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class BodyError(Exception):
    """Raised by the session's block when the scenario says so."""


class Steps(trio.abc.Instrument):
    """Counts task steps, and cancels scopes before the steps that were asked for."""

    def __init__(self) -> None:
        self.count = 0
        self._due: dict[int, list[Callable[[], None]]] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count in self._due:
            for act in self._due.pop(self.count):
                act()

    def after(self, steps: int, act: Callable[[], None]) -> None:
        """Call ``act`` before the step that comes after so many others."""
        self._due.setdefault(self.count + 1 + steps, []).append(act)


def run_deterministically(seed: int, steps: Steps, function: Callable[[], Awaitable[None]]) -> None:
    """Run an async function under trio so that it runs the same way each time.

    trio shuffles the tasks of each pass; with the flag that it keeps for Hypothesis it sorts them by age first, and
    shuffles with a random source that can be seeded.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # Final, but for Hypothesis and for us
    trio_run._r.seed(seed)
    try:
        trio.run(function, clock=MockClock(autojump_threshold=0), instruments=[steps])
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]  # as said
        trio_run._r.setstate(before[1])


def run(scenario: Scenario) -> Run:
    """Run a scenario to its end."""
    done = Run(scenario, Recorder())
    steps = Steps()
    simulation = Simulation(done, steps)
    with _logging_kept(done), _deliveries(simulation), _watched(), patch.object(_transport, "StreamRaw", wrapped):
        run_deterministically(scenario.seed, steps, simulation.main)
    done.steps = steps.count
    return done


@contextmanager
def _logging_kept(done: Run) -> Generator[None]:
    logger = logging.getLogger("trio_cancel")
    keeper = LogKeeper(done.logged)
    before = logger.level, logger.propagate
    logger.addHandler(keeper)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class Watch(Observer):
    """Puts on record which request id belongs to which operation, and every event."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def _note(self, event: str, *args: object) -> None:
        done = self._simulation.done
        done.events.append((done.recorder.stamp(), event, " ".join(map(str, args))))

    def request_queued(self, request: CancelRequest) -> None:
        self._note("queued", request.key)

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        done = self._simulation.done
        if request_id in done.written:
            done.written_twice.append(request_id)
        done.offered.setdefault(request_id, done.recorder.stamp())
        done.written[request_id] = self._simulation.place(request)
        self._note("written", request.key, request_id)

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        self._note("answered", request_id, status, f"{seconds:.6f}")

    def settled_late(self, outcome: Outcome) -> None:
        self._note("settled_late", outcome.request.key, outcome.kind)

    def connection_opened(self, number: int) -> None:
        self._note("opened", number)

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        self._note("lost", number, cause)

    def connection_failed(self, error: BaseException) -> None:
        self._note("failed", error)

    def paced(self, rate: float) -> None:
        self._note("paced", f"{rate:.6f}")


class Simulation:
    """One run under way."""

    def __init__(self, done: Run, steps: Steps) -> None:
        scenario = done.scenario
        self.done = done
        self.scenario = scenario
        self.steps = steps
        self._places: dict[int, tuple[int, int]] = {}  # id of a request object: operation and position
        self._copies: dict[CancelRequest, tuple[int, int]] = {}  # of the operation whose requests may be copied
        self._rng = random.Random(f"simulation {scenario.seed}")
        done.began = EPOCH + self._rng.random() * 1e6
        self._dials = 0
        self._ready = trio.Event()
        self._returned = 0
        self._all_returned = trio.Event()
        self._sandbox: Sandbox
        self._outer: trio.CancelScope
        self._venue: trio.Nursery
        for number, op in enumerate(scenario.ops):
            requests = [
                CancelRequest(external_id=scenario.orders[index].external_id)
                if by_external
                else CancelRequest(scenario.orders[index].id)
                for index, by_external in op.orders
            ]
            done.results.append(OpResult(op, requests))
            for position, request in enumerate(requests):
                if op.kind is not Kind.STREAM:  # an order that stands in a batch twice is canceled once
                    position = requests.index(request)
                self._places[id(request)] = (number, position)
                if op.twice:
                    self._copies.setdefault(request, (number, position))

    def place(self, request: CancelRequest) -> tuple[int, int]:
        """Operation and position of a request that came back from the client."""
        return self._places.get(id(request)) or self._copies[request]

    def wall(self) -> float:
        """The client's Unix seconds."""
        return self.done.began + trio.current_time()

    def _mark(self, name: str) -> None:
        self.done.marks.setdefault(name, self.steps.count)

    async def main(self) -> None:
        scenario, done = self.scenario, self.done
        done.tasks_before = trio.lowlevel.current_statistics().tasks_living
        async with open_sandbox(
            port=None,
            credentials=CREDENTIALS,
            rate=scenario.rate,
            burst=scenario.burst,
            daily_limit=scenario.daily_limit,
            delay=scenario.delay,
            idle_timeout=scenario.idle_timeout,
            ping_interval=scenario.ping_interval,
            full_results=scenario.full_results,
            faults=scenario.faults,
            clock=lambda: int(self.wall() * 1000),
            clock_skew=scenario.skew,
            seed=scenario.seed,
        ) as sandbox:
            self._sandbox = sandbox
            done.log = sandbox.log
            self._prepare()
            async with trio.open_nursery() as self._venue:
                for fill in scenario.fills:
                    self._venue.start_soon(self._fill, fill.at, scenario.orders[fill.order].id, fill.whole)
                with trio.move_on_after(LIMIT) as limit:
                    await self._session_and_callers()
                if limit.cancelled_caught or limit.cancel_called:
                    done.hung.append("the limit of the run was reached")
                self._venue.cancel_scope.cancel()
            for order in sandbox.book:
                done.orders[order.id] = order
            done.recorder.faults.update({str(fault): count for fault, count in sandbox.fault_counts.items()})
        done.tasks_after = trio.lowlevel.current_statistics().tasks_living

    # The venue

    def _prepare(self) -> None:
        scenario, book = self.scenario, self._sandbox.book
        for plan in scenario.orders:
            if plan.state is OrderState.MISSING:
                continue
            book.create(id=plan.id, external_id=plan.external_id, delay=plan.delay)
            if plan.state is OrderState.PARTIAL:
                book.fill(plan.id, amount="0.000375")
            elif plan.state is OrderState.FILLED:
                book.fill(plan.id)
            elif plan.state is OrderState.CANCELED:
                book.cancel(plan.id)
        self._sandbox.fault_on_upgrade(*scenario.upgrades)
        for index, fault in scenario.scripted:
            self._sandbox.fault_on(scenario.orders[index].id, fault)
        if scenario.crossed:
            self._sandbox.script(self._cross)

    def _cross(self, record: RequestRecord) -> CustomReply | None:
        """Answer a request of an earlier connection instead, which nobody else ever did."""
        log = self._sandbox.log
        old = [
            other
            for other in log
            if other.connection != record.connection
            and other.request_id is not None
            and other.order_id is not None
            and not other.replies
            and log.applied(other.order_id) is None
            and self._sandbox.book.get(other.order_id).status.active
        ]
        if not old or self._rng.random() >= self.scenario.crossed:
            return None
        victim = self._rng.choice(old)
        assert victim.order_id is not None
        order = attrs.evolve(self._sandbox.book.get(victim.order_id), status=OrderStatus.CANCELED)
        self.done.recorder.faults["crossed"] += 1
        return CustomReply(render_result(victim.request_id, render_order(order)), applies=self._rng.random() < 0.5)

    async def _fill(self, at: float, order_id: str, whole: bool) -> None:
        await trio.sleep(at)
        book = self._sandbox.book
        try:
            if book.get(order_id).status.active:
                book.fill(order_id, amount=None if whole else book.get(order_id).remaining_amount / 3)
        except UnknownOrder:
            pass

    async def _dial(self) -> trio.abc.Stream:
        scenario, faults = self.scenario, self.done.recorder.faults
        number = self._dials
        self._dials += 1
        road = scenario.roads[number] if number < len(scenario.roads) else Road()
        if road.fault is not None and road.fault.at_dial:
            faults[road.fault] += 1
        match road.fault:
            case NetFault.REFUSED:
                await trio.lowlevel.checkpoint()
                raise OSError(errno.ECONNREFUSED, "Connection refused")
            case NetFault.CERTIFICATE:
                await trio.lowlevel.checkpoint()
                raise HandshakeFailed("The certificate is not trusted.", final=True) from ssl.SSLCertVerificationError()
            case NetFault.HANGS:
                await trio.sleep_forever()
            case NetFault.SLOW:
                await trio.sleep(road.seconds)
        wire = Wire(len(self.done.wires), road, self.done.recorder, random.Random(self._rng.getrandbits(32)))
        self.done.wires.append(wire)
        self._venue.start_soon(self._serve, wire)
        return wire.client

    async def _serve(self, wire: Wire) -> None:
        wire.venue_number = self._sandbox.log.accepted
        await self._sandbox.serve_stream(wire.venue)

    # The client

    async def _session_and_callers(self) -> None:
        done, scenario = self.done, self.scenario
        async with trio.open_nursery() as callers:
            for result in done.results:
                callers.start_soon(self._call, result)
            outer = self._outer = trio.CancelScope()
            if scenario.end.kind is ExitKind.CANCELLED:
                if scenario.end.step is None:
                    outer.deadline = trio.current_time() + scenario.end.at
                else:
                    self.steps.after(scenario.end.step, outer.cancel)
            try:
                with outer:
                    await self._session()
            except BodyError as error:
                done.exit_error = error
            except HandshakeFailed as error:
                done.enter_error = error
            finally:
                done.exited = done.recorder.stamp()
                self._mark("left")
            if done.entered is None:
                callers.cancel_scope.cancel()
        for result in done.results:
            if result.reports:
                batch = result.batch
                assert batch is not None
                result.reports.append((done.recorder.stamp(), batch.report()))

    async def _session(self) -> None:
        done, scenario = self.done, self.scenario
        rng = random.Random(f"client {scenario.seed}")
        endpoint = parse_endpoint("ws://127.0.0.1:9", allow_insecure=False)
        manager = _open(
            Dialing(endpoint, None, self._dial, scenario.connect_timeout),
            CREDENTIALS,
            Terms(scenario.reply_timeout, scenario.give_up_after, scenario.retry),
            World(wall=self.wall, id_prefix=lambda: f"{rng.getrandbits(32):08x}", random_bytes=rng.randbytes, jitter=rng),
            pacer=None if scenario.pacer is None else Pacer(*scenario.pacer),
            correct_clock=scenario.clock_offset is None,
            correction=scenario.clock_offset or 0.0,
            observer=Watch(self),
        )
        ws: TradingWS | None = None
        try:
            async with manager as ws:
                done.entered = done.recorder.stamp()
                self._mark("entered")
                self._ws = ws
                self._ready.set()
                try:
                    await self._body(ws)
                finally:
                    done.body_ended = done.recorder.stamp()
                    self._mark("leaving")
                    if scenario.end.closing_step is not None:
                        self.steps.after(scenario.end.closing_step, self._outer.cancel)
                    done.failed = ws.state == "failed"
        finally:
            if ws is not None:
                done.statistics = ws.statistics()
                done.pending_at_end = done.statistics.pending
                done.clock = ws.clock

    async def _body(self, ws: TradingWS) -> None:
        done, end = self.done, self.scenario.end
        if end.kind in (ExitKind.DONE, ExitKind.CANCELLED):
            if done.results:
                await self._all_returned.wait()
            await trio.sleep(end.rest)
            if end.rest and ws.state != "failed":
                done.pending_at_rest = ws.statistics().pending
            if end.kind is ExitKind.CANCELLED and end.step is None:
                await trio.sleep_forever()
            return
        await trio.sleep_until(end.at)
        if end.kind is ExitKind.RAISED:
            done.expected_error = BodyError("the body failed")
            raise done.expected_error

    async def _call(self, result: OpResult) -> None:
        await self._ready.wait()
        await trio.sleep(result.op.start)
        stamp = self.done.recorder.stamp
        with trio.CancelScope() as scope:
            result.started = stamp()
            if result is self.done.results[0]:
                self._mark("started")
            if result.op.deadline is not None:
                scope.deadline = trio.current_time() + result.op.deadline
            elif result.op.step is not None:

                def cancel() -> None:
                    if result.ended is None:
                        result.cancelled_at = trio.current_time()
                        scope.cancel()

                self.steps.after(result.op.step, cancel)
            try:
                await self._act(self._ws, result)
            except (HandshakeFailed, AssertionError, ExceptionGroup, RuntimeError, trio.BrokenResourceError) as error:
                self.done.stray.append(f"operation {self.done.results.index(result)}: {error!r}")
            finally:
                result.ended = stamp()
                if result is self.done.results[0]:
                    self._mark("ended")
                self._returned += 1
                if self._returned == len(self.done.results):
                    self._all_returned.set()
        result.cancelled = scope.cancelled_caught
        if scope.cancel_called and result.cancelled_at is None:
            result.cancelled_at = scope.deadline

    async def _act(self, ws: TradingWS, result: OpResult) -> None:
        op, requests, stamp = result.op, result.requests, self.done.recorder.stamp
        try:
            match op.kind:
                case Kind.TRY:
                    result.outcomes.append((0, await ws.try_cancel(requests[0])))
                case Kind.CANCEL:
                    try:
                        result.order = await ws.cancel(requests[0])
                    except (VenueError, OutcomeUnknown, CancelNotSent) as error:
                        result.outcomes.append((0, error.outcome))
                case Kind.MANY:
                    report = await ws.cancel_many(requests)
                    result.outcomes.extend(enumerate(report.outcomes))
                    result.whole = True
                case Kind.BATCH:
                    result.batch = batch = ws.batch(requests)
                    try:
                        await batch.run()
                    finally:
                        result.reports.append((stamp(), batch.report()))
                case Kind.STREAM:
                    await self._stream(ws, op, result)
        except SessionClosed as error:
            result.error = error

    async def _stream(self, ws: TradingWS, op: Op, result: OpResult) -> None:
        source: Any = result.requests if op.trickle is None else _trickle(result.requests, op.trickle)
        outcomes = None
        try:
            async with ws.open_cancel_stream(source) as outcomes:
                if op.leave_after == 0:
                    return
                async for outcome in outcomes:
                    result.outcomes.append((self.place(outcome.request)[1], outcome))
                    if op.leave_after is not None and len(result.outcomes) >= op.leave_after:
                        return
                    if op.pause:
                        await trio.sleep(op.pause)
                result.whole = True
        finally:
            if outcomes is not None:
                result.unsettled = outcomes.unsettled


async def _trickle(requests: list[CancelRequest], pause: float) -> AsyncGenerator[CancelRequest]:
    for request in requests:
        await trio.sleep(pause)
        yield request


@contextmanager
def _deliveries(simulation: Simulation) -> Generator[None]:
    """Put on record when each order settles: before its caller runs again, which may be later."""
    saved: list[tuple[type[Pending], Callable[[Any], None]]] = []

    def watch(cls: type[Pending]) -> None:
        original = cls.deliver
        saved.append((cls, original))

        def deliver(pending: Pending) -> None:
            done = simulation.done
            place = simulation.place(pending.request)
            done.settled.setdefault(place, []).append(done.recorder.stamp())
            assert pending.outcome is not None
            done.delivered[place] = pending.outcome
            original(pending)

        cls.deliver = deliver  # type: ignore[method-assign]  # that is the point

    for cls in Pending.__subclasses__():
        watch(cls)
    try:
        yield
    finally:
        for cls, original in saved:
            cls.deliver = original  # type: ignore[method-assign]  # as said


def trace(done: Run) -> list[str]:
    """Return everything that two runs of one seed must agree on, as lines."""
    lines = list(done.log.lines())
    lines += [f"{stamp.time:.9f} {stamp.count} {event} {text}" for stamp, event, text in done.events]
    lines += [f"{level} {text}" for level, text in done.logged]
    for result in done.results:
        lines.append(f"{result.op} {result.started} {result.ended} {result.cancelled} {result.error!r}")
        lines += [f"{position} {outcome!r}" for position, outcome in result.outcomes]
        lines += [f"{stamp} {report!r}" for stamp, report in result.reports]
    for wire in done.wires:
        lines.append(f"{wire.number} {wire.offers} {wire.accepts} {wire.reads}")
    lines.append(json.dumps(dict(sorted(done.recorder.faults.items()))))
    lines.append(f"{done.steps} {done.entered} {done.exited} {done.enter_error!r} {done.exit_error!r} {done.statistics}")
    return lines

