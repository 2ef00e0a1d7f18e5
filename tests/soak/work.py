"""What the soak does with the library: each function is one operation with one session, drawn at random.

A desk is a long session with several callers; beside the desks short sessions come and go. Everything that a caller is
told goes to the ledger.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any

import attrs
import trio

from trio_cancel import (
    CancelRequest,
    HandshakeFailed,
    OrdersLeft,
    SessionClosed,
    TradingError,
    TradingWS,
    open_trading_ws,
)
from trio_cancel.sandbox._server import DEFAULT_CREDENTIALS

from .check import SHARED
from .ledger import Ledger, Watcher, age
from .venue import Venue

CONNECT_TIMEOUT = 5.0
GIVE_UP_AFTER = 30.0
EXIT = 2.0
SLACK = 1.5
"""Seconds by which a bound may be missed because the machine is busy."""

_numbers = count()


@attrs.frozen
class Place:
    """Where the work is done.

    Attributes:
        venue: places orders.
        ledger: is told.
        rng: draws.
        over: set when nothing new is to be begun.
    """

    venue: Venue
    ledger: Ledger
    rng: random.Random
    over: trio.Event

    def draw_order(self, prefix: str | None = None) -> dict[str, Any]:
        """Draw an order, with an external id if asked for; most are open, some filled in part, wholly, or soon."""
        order: dict[str, Any] = {"external_id": f"{prefix}{next(_numbers)}"} if prefix else {}
        luck = self.rng.random()
        if luck < 0.1:
            order["fill"] = "0.25"
        elif luck < 0.14:
            order["fill"] = "all"
        elif luck < 0.2:
            order["fill_after"] = self.rng.uniform(0, 0.05)
        return order

    async def draw_requests(self, most: int) -> list[CancelRequest]:
        """Place orders; return requests for them, and now and then for one that is not there."""
        named = self.rng.random() < 0.2
        orders = [self.draw_order("soak-" if named else None) for _ in range(self.rng.randint(1, most))]
        ids = await self.venue.create(orders)
        if named:
            requests = [CancelRequest(external_id=order["external_id"]) for order in orders]
        else:
            requests = [CancelRequest(order) for order in ids]
        if self.rng.random() < 0.1:
            requests.append(CancelRequest(f"missing-{next(_numbers)}"))
        return requests

    def draw_patience(self, impatient: float, most: float) -> float:
        """Draw after how many seconds a caller leaves; most never do."""
        return self.rng.uniform(0, most) if self.rng.random() < impatient else float("inf")

    def open(self) -> AbstractAsyncContextManager[TradingWS]:
        """Open a session."""
        return open_trading_ws(
            self.venue.url,
            credentials=DEFAULT_CREDENTIALS,
            ssl_context=self.venue.ssl_context,
            connect_timeout=CONNECT_TIMEOUT,
            give_up_after=GIVE_UP_AFTER,
            observer=Watcher(self.ledger),
        )


async def single(place: Place, ws: TradingWS) -> None:
    """Cancel one order, perhaps impatiently."""
    ledger = place.ledger
    request = (await place.draw_requests(1))[-1]
    outcome = None
    with trio.move_on_after(place.draw_patience(0.15, 0.02)):
        outcome = await ws.try_cancel(request)
    if outcome is None:
        ledger.counts["callers who left"] += 1
        return
    ledger.within(age(outcome, time.time()), GIVE_UP_AFTER + SLACK, f"the cancel of {request}")
    ledger.told(outcome)


async def bulk(place: Place, ws: TradingWS) -> None:
    """Cancel many orders, one of them named twice; perhaps leave in the middle and read the report later."""
    requests = await place.draw_requests(160)
    requests.append(place.rng.choice(requests))
    batch = ws.batch(requests)
    with trio.move_on_after(place.draw_patience(0.2, 0.1)) as scope:
        await batch.run()
    report = batch.report()
    if [outcome.request for outcome in report.outcomes] != requests:
        place.ledger.wrong(f"1: a report of {len(report)} for {len(requests)} orders")
    if scope.cancelled_caught:
        place.ledger.counts["callers who left"] += 1
        # What is in flight can still settle; an answer that never comes leaves it open as long as the connection lives.
        for _ in range(30):
            report = batch.report()
            if report.final:
                break
            await trio.sleep(0.5)
    elif not report.final:
        place.ledger.wrong("1: a batch ended and its report is not final")
    place.ledger.told_all(attrs.evolve(report, outcomes=report.outcomes[:-1]))


async def stream(place: Place, ws: TradingWS) -> None:
    """Cancel an input that trickles in; perhaps leave it early."""
    requests = await place.draw_requests(120)
    most = place.rng.randint(0, len(requests)) if place.rng.random() < 0.2 else len(requests)
    told: Counter[CancelRequest] = Counter()
    async with ws.open_cancel_stream(_trickle(requests, place.rng)) as outcomes:
        if most:
            async for outcome in outcomes:
                told[outcome.request] += 1
                place.ledger.told(outcome)
                if told.total() == most < len(requests):
                    break
    if most == len(requests):
        if told != Counter(requests):
            place.ledger.wrong(f"1: a stream told {told.total()} outcomes for {len(requests)} orders")
    elif told.total() != most or max(told.values(), default=0) > 1:
        place.ledger.wrong(f"1: a stream that was left told {told}")


async def _trickle(requests: list[CancelRequest], rng: random.Random) -> AsyncGenerator[CancelRequest]:
    for request in requests:
        if rng.random() < 0.1:
            await trio.sleep(rng.uniform(0, 0.05))
        yield request


async def scope(place: Place, ws: TradingWS) -> None:
    """Place orders in a scope, cancel or keep some of them, and leave it, perhaps cancelled."""
    ledger, rng = place.ledger, place.rng
    orders = ws.open_order_scope(grace=GIVE_UP_AFTER, settle=5.0)
    kept: set[CancelRequest] = set()
    added: list[CancelRequest] = []
    left: TradingError | None = None
    began = trio.current_time()
    try:
        with trio.move_on_after(place.draw_patience(0.3, 0.1)):
            async with orders:
                for _ in range(rng.randint(1, 8)):
                    order = place.draw_order(SHARED)
                    request = CancelRequest(external_id=order["external_id"])
                    await orders.add(request)
                    added.append(request)
                    await place.venue.create([{**order, "delay": rng.choice((0, 0, rng.uniform(0, 0.3)))}])
                    luck = rng.random()
                    if luck < 0.2:
                        ledger.told(await ws.try_cancel(request))
                    elif luck < 0.3:
                        orders.discard(request)
                        kept.add(request)
                await trio.sleep(rng.uniform(0, 0.1))
    except SessionClosed as error:  # a session that has failed takes no more orders; what is left is in a note
        if ws.state != "failed":
            raise
        left = error
    except OrdersLeft as error:
        left = error
        ledger.counts["orders left"] += len(error.report.left)
    ledger.within(trio.current_time() - began, 2 * GIVE_UP_AFTER + 3 * SLACK, "an order scope")
    if orders.report is None:
        if added:
            ledger.wrong("1: a scope ended without a report")
        return
    ledger.told_all(orders.report)
    surely = {outcome.request for outcome in orders.report.outcomes if outcome.off_book} if left is not None else added
    held = [request for request in added if request not in kept and request in surely]
    for request, truth in zip(held, await place.venue.truth((request, []) for request in held), strict=True):
        if truth.status in {"open", "executed_partially"}:
            ledger.wrong(f"1: {request} outlived its scope, which said nothing: {truth}")


OPERATIONS: dict[Callable[[Place, TradingWS], Awaitable[None]], float] = {
    single: 0.25,
    bulk: 2.0,
    stream: 2.0,
    scope: 1.0,
}
"""Seconds (on the average) between two of a caller's operations."""


async def desk(place: Place, callers: int) -> None:
    """Keep one session as long as it lives, used by several callers; open another when it has failed."""
    ledger = place.ledger
    while not place.over.is_set():
        try:
            async with place.open() as ws:
                ledger.sessions.add(ws)
                async with trio.open_nursery() as nursery:
                    for operation, pause in OPERATIONS.items():
                        for _ in range(callers if operation is single else 1):
                            nursery.start_soon(_call, place, ws, operation, pause)
                ledger.sessions.discard(ws)
        except HandshakeFailed as failed:
            ledger.counts[f"desk not opened: {_why(failed)}"] += 1
            await trio.sleep(0.5)
            continue
        _closed(ledger, ws)


async def _call(
    place: Place, ws: TradingWS, operation: Callable[[Place, TradingWS], Awaitable[None]], pause: float
) -> None:
    while not place.over.is_set() and ws.state != "failed":
        place.ledger.counts[operation.__name__] += 1
        try:
            await operation(place, ws)
        except Exception:  # the soak goes on, to find what else there is
            place.ledger.wrong(traceback.format_exc())
        await trio.sleep(place.rng.expovariate(1 / pause))


async def visits(place: Place) -> None:
    """Open short sessions, one after another, and leave each, half of them with work under way."""
    ledger, rng = place.ledger, place.rng
    while not place.over.is_set():
        ledger.counts["short session"] += 1
        began = left_at = trio.current_time()
        try:
            async with place.open() as ws:
                ledger.sessions.add(ws)
                with trio.move_on_after(rng.choice((0.02, 0.2, float("inf")))):
                    requests = await place.draw_requests(20)
                    ledger.told_all(await ws.cancel_many(requests[1:]))
                    ledger.told(await ws.try_cancel(requests[0]))
                ledger.sessions.discard(ws)
                left_at = trio.current_time()
        except HandshakeFailed as failed:
            ledger.counts[f"short session not opened: {_why(failed)}"] += 1
            ledger.within(trio.current_time() - began, CONNECT_TIMEOUT + SLACK, "failing to open a session")
        else:
            ledger.within(trio.current_time() - left_at, EXIT + SLACK, "leaving a session")
            _closed(ledger, ws)
        await trio.sleep(rng.expovariate(1.0))


def _closed(ledger: Ledger, ws: TradingWS) -> None:
    if pending := ws.statistics().pending:
        ledger.wrong(f"10: {pending} orders are pending after the end of their session")


def _why(failed: HandshakeFailed) -> str:
    return str(failed.status or type(failed.cause).__name__)
