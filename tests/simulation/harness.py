"""Runs one scenario: the real client and the real sandbox over wires in memory, on a clock and a scheduler that repeat.

Tree of tasks: the sandbox and its connections; the callers, one task each, outside the session's block (so that the
block can end while they wait); the session within its own block. One limit is around it all.
"""

from __future__ import annotations

import errno
import json
import random
import ssl
from typing import cast
from unittest.mock import patch

import attrs
import trio

from trio_cancel import Credentials, HandshakeFailed, Pacer, TradingWS
from trio_cancel._client import open_session
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._net import stream as _transport
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._trio.environment import Environment
from trio_cancel.sandbox import BookStatus, CustomReply, Fault, NoSuchOrder, RequestRecord, Sandbox, open_sandbox
from trio_cancel.sandbox._protocol import render_order, render_result

from .callers import Callers
from .engine import Steps, logging_kept, run_deterministically, watched
from .lookup_source import Source
from .odd import ERRORS, NO_STREAMS, OddStream, Thrower, ThrowingHandler, refuse_oddly
from .record import Recorder, Run
from .scenario import ExitKind, OrderState, Reuse, Scenario
from .stream import NetFault, Road, Wire, wrapped
from .watch import Watch, deliveries

LIMIT = 900.0
"""Seconds of the run's clock after which it is over, hung or not."""
CREDENTIALS = Credentials("the-token-of-the-simulation", "the-secret-of-the-simulation")
EPOCH = 1_700_000_000
"""Unix seconds, about, at which runs begin."""


def _within(span: tuple[float, float] | None) -> bool:
    return span is not None and span[0] <= trio.current_time() < span[1]


class BodyError(Exception):
    """Raised by the session's block when the scenario says so."""


def run(scenario: Scenario) -> Run:
    """Run a scenario to its end."""
    done = Run(scenario, Recorder())
    steps = Steps()
    simulation = Simulation(done, steps)
    direct = patch.object(_transport, "StreamRaw", wrapped)
    with logging_kept(done.logged, throwing_handler(done)), deliveries(simulation.callers), watched(), direct:
        run_deterministically(scenario.seed, steps, simulation.main)
    done.steps = steps.count
    return done


def throwing_handler(done: Run) -> ThrowingHandler | None:
    """Return a log handler that raises, where the scenario has one."""
    scenario = done.scenario
    if not scenario.handler_raises:
        return None
    rng = random.Random(f"handler {scenario.seed}")
    return ThrowingHandler(Thrower(scenario.handler_raises, "handler_raised", done.recorder, rng))


class Simulation:
    """One run under way."""

    def __init__(self, done: Run, steps: Steps) -> None:
        scenario = done.scenario
        self.done = done
        self.scenario = scenario
        self.steps = steps
        self.callers = Callers(done, steps)
        self._rng = random.Random(f"simulation {scenario.seed}")
        done.began = EPOCH + self._rng.random() * 1e6
        self._dials = 0
        self._sandbox: Sandbox
        self._outer: trio.CancelScope
        self._venue: trio.Nursery
        self._source: Source | None = None
        rng = random.Random(f"observer {scenario.seed}")
        self.throw = Thrower(scenario.observer_raises, "observer_raised", done.recorder, rng)

    def wall(self) -> float:
        """The client's Unix seconds."""
        return self.done.began + trio.current_time()

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
            dialect=scenario.dialect,
            faults=scenario.faults,
            clock=lambda: int(self.wall() * 1000),
            clock_skew=scenario.skew,
            seed=scenario.seed,
        ) as sandbox:
            self._sandbox = sandbox
            done.log = sandbox.log
            if scenario.lookup is not None:
                self._source = Source(scenario.lookup, sandbox, done.recorder, scenario.seed)
            self._prepare()
            async with trio.open_nursery() as self._venue:
                for fill in scenario.fills:
                    self._venue.start_soon(self._fill, fill.at, scenario.orders[fill.order].id, fill.whole)
                for number, reuse in enumerate(scenario.reuses):
                    self._venue.start_soon(self._reuse, number, reuse)
                with trio.move_on_after(LIMIT) as limit:
                    await self._session_and_callers()
                if limit.cancelled_caught or limit.cancel_called:
                    done.hung.append("the limit of the run was reached")
                await trio.sleep(self._afterwards())
                if self._source is not None:
                    self._source.finish()
                    done.told, done.lookups_answered = self._source.told, self._source.answered
                    done.lookups_limited = self._source.limited
                self._venue.cancel_scope.cancel()
            for order in sandbox.book:
                done.orders[order.id] = order
            done.recorder.faults.update({str(fault): count for fault, count in sandbox.fault_counts.items()})
        done.tasks_after = trio.lowlevel.current_statistics().tasks_living

    def _afterwards(self) -> float:
        """Return the seconds for which the venue may still act on what it was sent."""
        late = Fault.ACTS_LATE in self.scenario.faults.chances
        late = late or any(fault is Fault.ACTS_LATE for _, fault in self.scenario.scripted)
        return self.scenario.faults.acts_late[1] + 1.0 if late else 0.0

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
            plan = scenario.orders[index]
            self._sandbox.fault_on(plan.external_id or plan.id, fault)
        if scenario.crossed or scenario.silent:
            self._sandbox.script(self._script)

    def _script(self, record: RequestRecord) -> CustomReply | Fault | None:
        if _within(self.scenario.silent):
            self.done.recorder.faults["venue_silent"] += 1
            return Fault.SILENT_BEFORE
        return self._cross(record) if self.scenario.crossed else None

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
        order = attrs.evolve(self._sandbox.book.get(victim.order_id), status=BookStatus.CANCELED)
        self.done.recorder.faults["crossed"] += 1
        return CustomReply(render_result(victim.request_id, render_order(order)), applies=self._rng.random() < 0.5)

    async def _fill(self, at: float, order_id: str, whole: bool) -> None:
        await trio.sleep(at)
        book = self._sandbox.book
        try:
            if book.get(order_id).status.active:
                book.fill(order_id, amount=None if whole else book.get(order_id).remaining_amount / 3)
        except NoSuchOrder:
            pass

    async def _reuse(self, number: int, reuse: Reuse) -> None:
        await trio.sleep(reuse.at)
        external_id = self.scenario.orders[reuse.order].external_id
        book = self._sandbox.book
        try:
            old = book.get(external_id=external_id)
        except NoSuchOrder:
            return
        if old.status.active:
            book.fill(old.id)
        elif old.status is BookStatus.PENDING_CREATION:
            return
        book.create(id=f"AGAIN-{number}", external_id=external_id)
        faults = self.done.recorder.faults
        faults["reused_id"] += 1
        swept = any((reuse.order, True) in result.op.orders and result.ended is None for result in self.done.results)
        faults["reused_id_with_sweep"] += swept

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
            case NetFault.ODD_RAISES:
                await trio.lowlevel.checkpoint()
                raise self._rng.choice(ERRORS)()
            case NetFault.ODD_RETURNS:
                await trio.lowlevel.checkpoint()
                return cast("trio.abc.Stream", self._rng.choice(NO_STREAMS))
        wire = Wire(len(self.done.wires), road, self.done.recorder, random.Random(self._rng.getrandbits(32)))
        wire.is_look = trio.lowlevel.current_task().name.endswith("._probe_task")
        self.done.wires.append(wire)
        self._venue.start_soon(self._serve, wire)
        if road.fault is NetFault.ODD_CLOSED:
            wire.client.close()
        if road.fault in (NetFault.ODD_SEND, NetFault.ODD_RECEIVE):
            return OddStream(wire, wire.client, sending=road.fault is NetFault.ODD_SEND)
        return wire.client

    async def _serve(self, wire: Wire) -> None:
        if wire.road.fault is NetFault.ODD_RETRY:
            await refuse_oddly(wire.venue, wire.rng)
            return
        wire.venue_number = self._sandbox.log.accepted
        if not _within(self.scenario.flapping):
            await self._sandbox.serve_stream(wire.venue)
            return
        self.done.recorder.faults["venue_flapping"] += 1
        with trio.move_on_after(4 * wire.road.latency + 0.02):  # long enough for the upgrade
            await self._sandbox.serve_stream(wire.venue)
        await trio.aclose_forcefully(wire.venue)

    # The client

    async def _session_and_callers(self) -> None:
        done, scenario = self.done, self.scenario
        async with trio.open_nursery() as callers:
            for result in done.results:
                callers.start_soon(self.callers.call, result)
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
                self.callers.mark("left")
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
        manager = open_session(
            ConnectOptions(endpoint, None, self._dial, scenario.connect_timeout),
            CREDENTIALS,
            RetryPolicy(scenario.reply_timeout, scenario.give_up_after, scenario.retry),
            Environment(
                self.wall, lambda: f"{rng.getrandbits(32):08x}", rng.randbytes, rng, trio.current_time, lambda: 0.0
            ),
            pacer=None if scenario.pacer is None else Pacer(*scenario.pacer),
            correct_clock=scenario.clock_offset is None,
            correction=scenario.clock_offset or 0.0,
            observer=Watch(self.callers, self.throw),
            lookup=None if self._source is None else self._source.argument,
            look_up_closed=scenario.lookup is not None and scenario.lookup.closed_too,
        )
        ws: TradingWS | None = None
        try:
            async with manager as ws:
                done.entered = done.recorder.stamp()
                self.callers.mark("entered")
                self.callers.ws = ws
                self.callers.ready.set()
                try:
                    await self._body(ws)
                except trio.Cancelled:
                    done.block_cancelled = not self._outer.cancel_called
                    raise
                finally:
                    done.body_ended = done.recorder.stamp()
                    self.callers.mark("leaving")
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
                await self.callers.all_returned.wait()
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


def trace(done: Run) -> list[str]:
    """Return everything that two runs of one seed must agree on, as lines."""
    lines = list(done.log.lines())
    lines += [f"{stamp.time:.9f} {stamp.order} {event} {text}" for stamp, event, text in done.events]
    lines += [f"{level} {text}" for level, text in done.logged]
    for result in done.results:
        lines.append(f"{result.op} {result.started} {result.ended} {result.cancelled} {result.error!r}")
        lines += [f"{position} {outcome!r}" for position, outcome in result.outcomes]
        lines += [f"{stamp} {report!r}" for stamp, report in result.reports]
    for wire in done.wires:
        lines.append(f"{wire.number} {wire.offers} {wire.accepts} {wire.reads}")
    lines.append(json.dumps(dict(sorted(done.recorder.faults.items()))))
    lines.append(f"{done.steps} {done.entered} {done.exited} {done.enter_error!r} {done.exit_error!r}")
    lines.append(str(done.statistics))
    return lines
