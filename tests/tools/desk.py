"""An engine without sockets: its writer, reader and timer are played here, on a clock that is a number."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import trio

from trio_cancel._engine.engine import WRITE_MOST, Engine
from trio_cancel._engine.order import LiveAttempt, OrderCancel, RetryPolicy, State
from trio_cancel._engine.rate import Pacer
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Notifier, Observer
from trio_cancel._values.outcomes import Outcome

WALL = 1_700_000_000.0
"""Unix seconds when the desk's clock says 0."""


def result(order_id: str, *, external_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """The result object of a cancel that worked."""
    return {
        "id": order_id,
        "create_date": "2024-03-27T13:27:19.853Z",
        "update_date": "2024-03-27T13:30:45.123Z",
        "executed_amount": 0,
        "remaining_amount": 1,
        "remaining_value": 100,
        "requested_amount": 1,
        "requested_value": 100,
        "total_value": 100,
        "status": "canceled",
        "type": "limit",
        "price": 100,
        "pair": "BTC_BRL",
        "external_id": external_id,
    } | changes


def canceled(request_id: str | None, order_id: str = "o", **changes: Any) -> str:
    """A 200 answer."""
    return json.dumps({"id": request_id, "status": 200, "result": result(order_id, **changes)})


def refusal(request_id: str | None, status: int, code: int | None = None, message: str = "No.") -> str:
    """An error answer."""
    error = {"error_code": status * 100 if code is None else code, "message": message}
    return json.dumps({"id": request_id, "status": status, "result": None, "error": error})


class Kept:
    """Keeps the outcomes that are sent to it."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def send_nowait(self, order: OrderCancel, /) -> None:
        self.outcomes.append(order.result)


class Order(OrderCancel):
    """A cancel whose outcome is kept."""

    priority: bool = True
    settled_to: Kept = msgspec.field(default_factory=Kept)

    @property
    def delivered(self) -> list[Outcome]:
        """What was delivered; an outcome comes once."""
        return self.settled_to.outcomes

    @property
    def kind(self) -> str | None:
        """The kind of the outcome, None while there is none."""
        assert len(self.delivered) <= 1
        return self.delivered[0].kind if self.delivered else None


class Bulk:
    """A source of orders, all of them at hand."""

    def __init__(self, orders: Iterable[Order], held_since: float = 0.0, give_up: float = 30.0) -> None:
        self.orders = list(orders)
        self.held_since = held_since
        for order in self.orders:
            order.held_since = held_since
        self.refused: BaseException | None = None
        self._give_up = give_up

    @property
    def waiting(self) -> bool:
        return bool(self.orders)

    def take(self, most: int) -> list[OrderCancel]:
        taken: list[OrderCancel] = list(self.orders[:most])
        del self.orders[:most]
        return taken

    def take_last(self, most: int) -> list[OrderCancel]:
        return self.take(most)

    def behind(self) -> int:
        return len(self.orders)

    def give_up(self, cause: BaseException, before: float) -> bool:
        self.refuse(cause)
        return True

    def refuse(self, cause: BaseException) -> None:
        self.refused = cause

    def give_up_after(self) -> float:
        return self._give_up


class CountedWakeup(Wakeup):
    """A doorbell that knows how often it was rung."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def ring(self) -> None:
        self.count += 1
        super().ring()


def bare(request: CancelRequest, policy: RetryPolicy | None = None) -> OrderCancel:
    """An order that nobody waits for."""
    send, _ = trio.open_memory_channel[OrderCancel](8)
    return OrderCancel(request, policy or RetryPolicy(), send)


class StubClock(VenueClock):
    """A venue's clock; whether a refused signature is made anew is for the test to say: never, unless it says so."""

    __slots__ = ("answer",)

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        super().__init__(wall, steady)
        self.answer: Callable[[int], float | None] = lambda _: None

    def sign_again_at(self, number: int, now: float) -> float | None:
        return self.answer(number)


class Desk:
    """One engine with its clock.

    ``written`` is what was signed, in order, as (time, request id, order key). With ``auto`` the writer writes whenever
    it may while the clock goes on.
    """

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        pacer: Pacer | None = None,
        observer: Observer | None = None,
        up: bool = True,
        auto: bool = True,
    ) -> None:
        self.now = 0.0
        self.suspended = 0.0  # seconds for which the machine has slept so far; the clock stands still meanwhile
        self.policy = policy or RetryPolicy()
        self.auto = auto
        self.up = up
        self.connection = 1 if up else 0
        self.written: list[tuple[float, str, str]] = []
        self.flights: list[LiveAttempt] = []
        self._ask_at = math.inf
        self.clock = StubClock(lambda: self.wall, lambda: self.now)
        self.engine = Engine(
            sign=lambda orders, at: [f"{request_id} {request.key} {at}".encode() for request_id, request in orders],
            id_prefix="r",
            pacer=pacer,
            notify=None if observer is None else Notifier(observer),
            jitter=random.Random(7),
            clock=self.clock,
            suspended=lambda: self.suspended,
        )
        if up:
            self.engine.connection_up(self.now)

    @property
    def wall(self) -> float:
        return WALL + self.now

    @property
    def window(self) -> int:
        """How many requests may be in flight; a test may set it."""
        return self.engine.statistics().window

    @window.setter
    def window(self, count: int) -> None:
        self.engine._rate.window = count

    # What callers do

    def submit(self, order_id: str = "o", *, external_id: str | None = None) -> Order:
        """Hand a single cancel in, and write it if that can be done now."""
        request = CancelRequest(external_id=external_id) if external_id is not None else CancelRequest(order_id)
        order = Order(request, self.policy)
        self.engine.submit(order, self.now)
        self._after()
        return order

    def submit_bulk(self, *order_ids: str) -> tuple[Bulk, list[Order]]:
        """Hand a bulk cancel in, and write what can be written now."""
        orders = [Order(CancelRequest(order_id), self.policy, priority=False) for order_id in order_ids]
        source = Bulk(orders, self.now, self.policy.give_up_after)
        self.engine.submit_source(source, self.now)
        self._after()
        return source, orders

    def abandon(self, order: Order) -> None:
        self.engine.abandon(order)
        self._after()

    # What the connection does

    def write(self) -> list[LiveAttempt]:
        """Let the writer take and sign once."""
        if not self.up:
            return []
        self.engine.wakeup._rung = False
        admitted, self._ask_at = self.engine.take(self.now)
        if len(admitted) == WRITE_MOST:
            self.engine.wakeup.ring()  # as the writer, who asks again
        flights, texts = self.engine.sign(admitted, self.connection, self.now, self.wall)
        assert len(flights) == len(texts)
        for flight in flights:
            self.written.append((self.now, flight.request_id, flight.order.request.key))
            self.flights.append(flight)
        return flights

    def answer(self, text: str, *, connection: int | None = None) -> None:
        """Let the reader take one message."""
        number = self.connection if connection is None else connection
        self.engine.read([text], number, self.now, self.wall)
        self.engine.after_reading()
        self._after()

    def down(self, cause: BaseException | None = None) -> None:
        self.up = False
        self.engine.connection_down(self.connection, cause, self.now)
        self._after()

    def come_up(self) -> None:
        self.up = True
        self.connection += 1
        self.engine.connection_up(self.now)
        self._after()

    # Time

    def wait(self, seconds: float) -> None:
        """Let the clock go on; timer and writer act when their time comes."""
        end = self.now + seconds
        for _ in range(100_000):
            at = min(self.engine.alarm.at, self._ask_at if self.auto and self.up else math.inf)
            if at > end:
                break
            self.now = max(self.now, at)
            self._after()
        else:  # pragma: no cover - a busy loop is a failure
            raise AssertionError("the clock stands still")
        self.now = end
        self._after()

    def _after(self) -> None:
        """Let timer and writer act as often as they want to, now."""
        for _ in range(1000):
            acted = False
            alarm = self.engine.alarm
            if alarm.at <= self.now:
                alarm.clear()
                alarm.set(self.engine.expire(self.now))
                acted = True
            if self.auto and self.up and (self.engine.wakeup._rung or self._ask_at <= self.now):
                self.write()
                acted = True
            if not acted:
                return
        raise AssertionError("timer or writer never rest")  # pragma: no cover

    # What tests look at

    @property
    def ids(self) -> list[str]:
        """The request ids that were written, in order."""
        return [request_id for _, request_id, _ in self.written]

    @property
    def times(self) -> list[float]:
        """When they were."""
        return [at for at, _, _ in self.written]

    def only(self, order: Order) -> Outcome:
        """The outcome of an order that has settled; nothing of it is left in the tables."""
        assert order.state is State.SETTLED
        (outcome,) = order.delivered
        assert order not in self.engine._in_flight.active
        assert all(flight.request_id not in self.engine._in_flight.flights for flight in order.flights)
        return outcome
