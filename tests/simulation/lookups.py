"""Lookups in a simulated world: replicas that lag, answers that fail, names that are used again, cancels that act late.

One seed is one run, the same each time. It checks invariant 12: no outcome that says yes or no, looked up or not,
contradicts the venue's book, when it is told or later. ``python -m tests.simulation.lookups --seeds 0..1000`` tells the
shares of the outcomes; with ``--without`` nothing is looked up.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import attrs
import trio
from trio.testing import memory_stream_pair

from trio_cancel import AlreadyClosed, CancelRequest, OrdersLeft, Outcome, Rejected, TradingWS
from trio_cancel._client import _open
from trio_cancel._engine import looking
from trio_cancel._engine.in_flight import InFlight
from trio_cancel._engine.order import OrderCancel, RetryPolicy, State
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._trio.environment import Environment
from trio_cancel._values.order_state import OrderState
from trio_cancel.lookup import RestLookup
from trio_cancel.sandbox import Fault, Faults, RestFaults, Sandbox, open_sandbox

from .engine import Steps, run_deterministically, watched

EPOCH = 1_700_000_000
LATER = 60.0
"""Seconds after the session for which the venue may still act."""
FAULTS = (
    Fault.SILENT_BEFORE,
    Fault.SILENT_AFTER,
    Fault.ACTS_LATE,
    Fault.ERROR_500_BEFORE,
    Fault.ERROR_500_AFTER,
    Fault.DROP_BEFORE,
    Fault.DROP_AFTER,
    Fault.LATE,
)


@attrs.define
class Told:
    """An outcome, the order that was meant, and whether that was on the book when it was told."""

    outcome: Outcome
    order_id: str
    active: bool


@attrs.define
class Result:
    """What a seed came to."""

    told: list[Told] = attrs.field(factory=list)
    violations: list[str] = attrs.field(factory=list)
    lookups: int = 0


class _Run:
    def __init__(self, seed: int, *, with_lookups: bool) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.with_lookups = with_lookups
        self.result = Result()
        self.sandbox: Sandbox
        self.meant: dict[CancelRequest, str] = {}

    def wall(self) -> float:
        return EPOCH + trio.current_time()

    async def dial(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self.sandbox.accept(theirs)
        return ours

    async def dial_rest(self, _host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self.sandbox.accept_rest(theirs)
        return ours

    async def main(self) -> None:
        rng = self.rng
        chance = rng.choice((0.0, 0.05, 0.12))
        lag = rng.choice((0.0, 0.0, 2.0, 20.0, (0.0, 30.0)))
        async with open_sandbox(
            port=None,
            seed=self.seed,
            clock=lambda: int(1000 * self.wall()),
            delay=rng.choice((0.0, 0.3, (0.0, 2.0))),
            faults=Faults(dict.fromkeys(FAULTS, chance)),
            rest_lag=lag,
            rest_faults=RestFaults.each(rng.choice((0.0, 0.01, 0.04))),
            rate=rng.choice((None, None, 5.0)),
        ) as self.sandbox:
            requests = await self._place()
            retry = rng.random() < 0.6
            terms = RetryPolicy(rng.choice((2.0, 12.0)), rng.choice((5.0, 30.0)), retry)
            draw = random.Random(rng.getrandbits(64))
            manager = _open(
                ConnectOptions(parse_endpoint("ws://localhost"), None, self.dial, 10.0),
                self.sandbox.credentials,
                terms,
                Environment(
                    self.wall,
                    lambda: f"{draw.getrandbits(32):08x}",
                    draw.randbytes,
                    draw,
                    trio.current_time,
                    lambda: 0.0,
                ),
                pacer=None,
                correct_clock=False,
                correction=0.0,
                observer=None,
                lookup=RestLookup(base_url="http://localhost/trade", dial=self.dial_rest)
                if self.with_lookups
                else None,
                look_up_closed=self.with_lookups and rng.random() < 0.3,
            )
            async with AsyncExitStack() as stack:
                ws = await stack.enter_async_context(manager)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._fill, requests)
                    await self._cancel(ws, requests)
                    nursery.cancel_scope.cancel()
            await trio.sleep(LATER)
            self.result.lookups = self.sandbox.rest_log.received
            self._check()

    async def _place(self) -> list[CancelRequest]:
        rng, book = self.rng, self.sandbox.book
        reused = [f"name-{number}" for number in range(6) if rng.random() < 0.4]
        for name in reused:
            old = book.create(external_id=name)
            book.fill(old.id) if rng.random() < 0.5 else book.cancel(old.id)
        await trio.sleep(rng.choice((0.5, 10.0, 40.0)))
        requests = []
        for number in range(6):
            name = f"name-{number}"
            order = book.create(external_id=name, amount="0.3", delay=rng.choice((0.0, 0.0, 1.0, 6.0)))
            request = CancelRequest(order.id) if rng.random() < 0.5 else CancelRequest(external_id=name)
            self.meant[request] = order.id
            requests.append(request)
        return requests

    async def _fill(self, requests: list[CancelRequest]) -> None:
        for request in requests:
            await trio.sleep(self.rng.uniform(0, 4))
            order = self.sandbox.book.get(self.meant[request])
            if order.status.active and self.rng.random() < 0.4:
                self.sandbox.book.fill(order.id, amount=None if self.rng.random() < 0.5 else "0.1")

    def _tell(self, outcome: Outcome) -> None:
        order_id = self.meant[outcome.request]
        status = self.sandbox.book.get(order_id).status
        self.result.told.append(Told(outcome, order_id, status.active or status == "pending_creation"))

    async def _cancel(self, ws: TradingWS, requests: list[CancelRequest]) -> None:
        match self.rng.choice(("single", "many", "stream", "scope")):
            case "single":

                async def one(request: CancelRequest) -> None:
                    self._tell(await ws.try_cancel(request))

                async with trio.open_nursery() as nursery:
                    for request in requests:
                        nursery.start_soon(one, request)
            case "many":
                for outcome in (await ws.cancel_many(requests)).outcomes:
                    self._tell(outcome)
            case "stream":
                async with ws.open_cancel_stream(requests) as outcomes:
                    async for outcome in outcomes:
                        self._tell(outcome)
            case _:
                scope = ws.open_order_scope(grace=self.rng.choice((6.0, 30.0)))
                try:
                    async with scope as orders:
                        for request in requests:
                            await orders.add(request)
                            if request.id is not None:
                                orders.placed(request)
                except OrdersLeft:
                    pass
                assert scope.report is not None
                for outcome in scope.report.outcomes:
                    self._tell(outcome)

    def _check(self) -> None:
        log, book = self.sandbox.log, self.sandbox.book
        for told in self.result.told:
            outcome, order = told.outcome, book.get(told.order_id)
            who = f"seed {self.seed}: {outcome.request} {outcome.kind}"
            if outcome.off_book and (told.active or order.status.active):
                self.result.violations.append(f"I12: {who}, and it was on the book ({order.status} in the end)")
            # A no says that no cancel of ours took it off, or will.
            if outcome.off_book is False and log.applied(order.id) is not None:
                self.result.violations.append(f"I12: {who}, and a cancel took it off")
            if isinstance(outcome, AlreadyClosed) and outcome.order is not None:
                seen = outcome.order
                if seen.id != order.id or seen.executed_amount != order.executed_amount:
                    self.result.violations.append(f"I12: {who} with {seen.executed_amount} executed of {seen.id}")


def run_seed(seed: int, *, with_lookups: bool = True) -> Result:
    """Run one seed."""
    run = _Run(seed, with_lookups=with_lookups)
    with watched():
        run_deterministically(seed, Steps(), run.main)
    return run.result


# Defects, put back in


@contextmanager
def a_lagging_open_is_believed() -> Generator[None]:
    """An active status makes the outcome a no."""
    seen = InFlight.seen

    def believing(self: InFlight, pending: OrderCancel, state: OrderState) -> float | None:
        if state.on_book and pending.state is State.LOOKED_UP:
            wrong: Any = Rejected(pending.request, pending.attempts())
            self._end_lookup(pending, wrong)
            return None
        return seen(self, pending, state)

    with patch.object(InFlight, "seen", believing):
        yield


@contextmanager
def any_order_of_the_name_settles() -> Generator[None]:
    """A final status that was found by external id is taken for this order's."""
    with patch.object(looking, "_is_surely", lambda *_: True):
        yield


@contextmanager
def not_found_is_off_the_book() -> Generator[None]:
    """A lookup that finds nothing is taken for an order that is gone."""

    def gone(self: InFlight, pending: OrderCancel, again: bool) -> float | None:
        if pending.state is State.LOOKED_UP:
            self._end_lookup(pending, AlreadyClosed(pending.request, pending.attempts()))
        return None

    with patch.object(InFlight, "not_seen", gone):
        yield


DEFECTS = (a_lagging_open_is_believed, any_order_of_the_name_settles, not_found_is_off_the_book)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0..1000", help="first..last+1")
    parser.add_argument("--without", action="store_true", help="look nothing up")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first, last = map(int, arguments.seeds.split(".."))
    kinds: Counter[str] = Counter()
    violations = lookups = 0
    for seed in range(first, last):
        result = run_seed(seed, with_lookups=not arguments.without)
        kinds.update(told.outcome.kind for told in result.told)
        lookups += result.lookups
        violations += len(result.violations)
        for violation in result.violations:
            print(violation)
    total = sum(kinds.values())
    unknown = kinds["unknown"] + kinds["not_found"]
    print(f"{last - first} seeds, {violations} violations, {total} outcomes, {lookups} lookups")
    print(f"don't know: {unknown} ({100 * unknown / total:.2f} %)")
    for kind, count in kinds.most_common():
        print(f"{kind:<15}{count:>8} {100 * count / total:6.2f} %")


if __name__ == "__main__":
    main()
