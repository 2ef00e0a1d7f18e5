"""What is admitted ahead of the writer: in which order it is written, and when it is held back."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.tools.desk import Order
from trio_cancel import CancelRequest
from trio_cancel._engine.engine import Engine
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._session.write_ahead import ASK_AGAIN, WriteAhead
from trio_cancel._trio.wakeup import Wakeup

TERMS = RetryPolicy(reply_timeout=5.0, give_up_after=10.0)


class Journal:
    """Makes everything durable at once, and asks first if it is told to."""

    def __init__(self) -> None:
        self.asks_first = False
        self.intended: list[str] = []

    async def intend(self, admitted: list[Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.intended += [pending.request.key for pending in admitted]

    def retried(self, pending: object) -> None:
        """Nothing was written."""


class Desk:
    """An engine with a connection, and what goes ahead of its writer."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.engine = Engine(
            sign=lambda orders, at: [],
            id_prefix="r",
            pacer=None,
            notify=None,
            jitter=random.Random(7),
            clock=VenueClock(lambda: 0.0, trio.current_time),
            journal=cast("Any", self.journal),
        )
        self.to_write = Wakeup()
        self.ahead = WriteAhead(self.engine, cast("Any", self.journal), self.to_write)
        self.engine.connection_up(trio.current_time())

    def submit(self, order_id: str, *, priority: bool) -> Order:
        order = Order(CancelRequest(order_id), TERMS)
        order.priority = priority
        self.engine.submit(order, trio.current_time())
        return order

    def take(self) -> list[str]:
        taken, _ = self.ahead.take(trio.current_time())
        return [pending.request.key for pending in taken]


async def test_single_cancels_overtake_what_is_durable_and_not_written(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    desk = Desk()
    nursery.start_soon(desk.ahead.run)
    desk.submit("bulk", priority=False)
    await trio.testing.wait_all_tasks_blocked()
    desk.submit("single", priority=True)
    await trio.testing.wait_all_tasks_blocked()
    assert desk.journal.intended == [CancelRequest(name).key for name in ("bulk", "single")]
    assert desk.take() == [CancelRequest(name).key for name in ("single", "bulk")]
    assert desk.take() == []
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("priority", [True, False])
async def test_nothing_is_written_while_it_is_asked_whose_the_journal_is(
    priority: bool, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    desk = Desk()
    nursery.start_soon(desk.ahead.run)
    desk.journal.asks_first = True
    assert desk.ahead.take(trio.current_time()) == ([], math.inf)  # there is nothing to hold back
    desk.submit("a", priority=priority)
    await trio.testing.wait_all_tasks_blocked()
    assert desk.ahead.take(trio.current_time()) == ([], trio.current_time() + ASK_AGAIN)
    desk.journal.asks_first = False
    assert desk.take() == [CancelRequest("a").key]
    nursery.cancel_scope.cancel()


async def test_what_is_not_written_when_the_connection_ends_waits_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ahead.run)
        orders = [desk.submit("a", priority=True), desk.submit("b", priority=False)]
        await trio.testing.wait_all_tasks_blocked()
        assert {order.state for order in orders} == {State.ADMITTED}
        nursery.cancel_scope.cancel()
    assert {order.state for order in orders} == {State.RETRYING}
    assert desk.take() == []
