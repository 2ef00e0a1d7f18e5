"""The sandbox's order book: orders, their states, the steps between them (no I/O, no task; the time is passed in).

States and steps (source: ``_venue/contract.md``, "Orders")::

    pending_creation --(its delay has passed)--> open
    open, executed_partially --fill--> executed_partially | executed_completely
    open, executed_partially --cancel--> canceled

A pending order is on its way: the venue does not know it yet, so a cancel of it finds nothing.
"""

from __future__ import annotations

import decimal
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import attrs

from trio_cancel._values.models import canonical_id

MAX_DIGITS = 60  # of an amount or price given to the book, so that every product is exact within EXACT
EXACT = decimal.Context(prec=400, traps=[decimal.InvalidOperation, decimal.Inexact, decimal.Overflow])
ZERO = Decimal(0)
CENT = Decimal("1E-16")  # an average price is a quotient: the only figure that cannot be exact


class BookError(ValueError):
    """The book refused a call."""


class NoSuchOrder(BookError, KeyError):
    """The book does not have this order (or not yet: its creation is pending)."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # KeyError would print the sentence in quotes


class ClosedOrder(BookError):
    """The order is canceled or completely executed; nothing more can happen to it."""


class InvalidOrder(BookError):
    """An order, amount or price that no venue would accept."""


class BookStatus(StrEnum):
    """An order's state, in the venue's spelling."""

    PENDING_CREATION = "pending_creation"
    OPEN = "open"
    EXECUTED_PARTIALLY = "executed_partially"
    EXECUTED_COMPLETELY = "executed_completely"
    CANCELED = "canceled"

    @property
    def active(self) -> bool:
        """Whether the order can still be executed or canceled (``_venue/contract.md``, "Orders")."""
        return self in ACTIVE


ACTIVE = frozenset({BookStatus.OPEN, BookStatus.EXECUTED_PARTIALLY})


@attrs.frozen
class Order:
    """An order on the book; each step makes a new value. Amounts are in base currency, values in quote currency.

    Dates are Unix milliseconds of the venue's clock; ``effective_date`` is when a pending order reaches the book.
    """

    id: str
    external_id: str | None
    pair: str
    side: str
    type: str
    price: Decimal | None
    requested_amount: Decimal
    create_date: int
    update_date: int
    effective_date: int
    status: BookStatus = BookStatus.OPEN
    executed_amount: Decimal = ZERO
    executed_value: Decimal = ZERO

    @property
    def remaining_amount(self) -> Decimal:
        """What has not been executed."""
        return EXACT.subtract(self.requested_amount, self.executed_amount)

    @property
    def requested_value(self) -> Decimal:
        """The requested amount at the order's price; 0 for an order without a price."""
        return EXACT.multiply(self.requested_amount, self.price or ZERO)

    @property
    def remaining_value(self) -> Decimal:
        """The remaining amount at the order's price."""
        return EXACT.multiply(self.remaining_amount, self.price or ZERO)

    @property
    def average_execution_price(self) -> Decimal:
        """Executed value divided by executed amount, 0 before the first fill."""
        if not self.executed_amount:
            return ZERO
        return (self.executed_value / self.executed_amount).quantize(CENT, context=decimal.Context(prec=120))


@attrs.frozen
class Execution:
    """One execution of a part of an order, at Unix milliseconds ``date`` of the venue's clock."""

    date: int
    amount: Decimal
    price: Decimal


def exact(value: Decimal | int | str, name: str) -> Decimal:
    """Return a positive amount or price exactly as it was given.

    Raises:
        InvalidOrder: it is a float (which is not exact), not a number, not finite, not positive, or absurdly long.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidOrder(f"{name} must be a Decimal, an int or a string, not {type(value).__name__}.")
    try:
        number = Decimal(value)
    except decimal.InvalidOperation:
        raise InvalidOrder(f"{name} is not a number: {value!r}.") from None
    if not number.is_finite() or number <= 0:
        raise InvalidOrder(f"{name} must be finite and more than 0, not {value}.")
    if len(number.as_tuple().digits) > MAX_DIGITS or abs(number.adjusted()) > MAX_DIGITS:
        raise InvalidOrder(f"{name} has more than {MAX_DIGITS} digits.")
    return number


class Book:
    """All orders of one account, by id (without regard to the case of its letters) and by external id.

    Args:
        now: returns the venue's Unix time in milliseconds.
        rng: draws the order ids; pass a seeded one for repeatable runs.
    """

    def __init__(self, *, now: Callable[[], int], rng: random.Random | None = None) -> None:
        self._now = now
        self._rng = rng or random.Random()
        self._executions: dict[str, list[Execution]] = {}
        # Each order's values, oldest first, and the ids of the orders that had an external id.
        self._versions: dict[str, list[Order]] = {}
        self._named: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._versions)

    def __iter__(self) -> Iterator[Order]:
        return iter([self._present(versions[-1]) for versions in self._versions.values()])

    def create(
        self,
        *,
        id: str | None = None,
        external_id: str | None = None,
        pair: str = "BTC_BRL",
        side: str = "buy",
        type: str = "limit",
        amount: Decimal | int | str = "0.001",
        price: Decimal | int | str | None = "100000",
        delay: float = 0.0,
    ) -> Order:
        """Place an order and return it.

        Args:
            id: the venue's id; drawn if left out.
            external_id: the caller's id; it may be used again once the order that has it is closed.
            pair: the market, ``BASE_QUOTE``.
            side: ``buy`` or ``sell``.
            type: ``limit`` or ``market``; a market order has no price.
            amount: the requested amount, in base currency; never a float.
            price: in quote currency; never a float.
            delay: seconds until the order is on the book; until then it is ``pending_creation``.

        Raises:
            InvalidOrder: if an id is taken or empty, or an amount, price or word is not valid.
        """
        for name, text in (("id", id), ("external_id", external_id), ("pair", pair)):
            if text is not None and (not isinstance(text, str) or not text):
                raise InvalidOrder(f"{name} must be a string that is not empty.")
        if side not in ("buy", "sell"):
            raise InvalidOrder(f"side must be buy or sell, not {side!r}.")
        if type not in ("limit", "market"):
            raise InvalidOrder(f"type must be limit or market, not {type!r}.")
        if not 0 <= delay < 1e9:
            raise InvalidOrder("delay must be a number of seconds, 0 or more.")
        order_id = id if id is not None else str(UUID(int=self._rng.getrandbits(128), version=4)).upper()
        if canonical_id(order_id) in self._versions:
            raise InvalidOrder(f"There is an order {order_id} already.")
        if external_id is not None and external_id in self._named:
            older = self.get(external_id=external_id)
            if older.status.active or older.status is BookStatus.PENDING_CREATION:
                raise InvalidOrder(f"The active order {older.id} has the external id {external_id} already.")
        now = self._now()
        order = Order(
            id=order_id,
            external_id=external_id,
            pair=pair,
            side=side,
            type=type,
            price=None if price is None or type == "market" else exact(price, "price"),
            requested_amount=exact(amount, "amount"),
            create_date=now,
            update_date=now,
            effective_date=now + round(delay * 1000),
            status=BookStatus.PENDING_CREATION if delay else BookStatus.OPEN,
        )
        self._keep(order)
        if external_id is not None:
            self._named.setdefault(external_id, []).append(order_id)
        return order

    def get(self, id: str | None = None, *, external_id: str | None = None) -> Order:
        """Return an order in its present state, also if pending or closed; by external id the newest that had it.

        Raises:
            NoSuchOrder: if the book never had it.
        """
        if (id is None) == (external_id is None):
            raise BookError("Give id or external_id, and not both.")
        ids = [id] if id is not None else self._named.get(external_id or "", [])
        versions = self._versions.get(canonical_id(ids[-1])) if ids else None
        if versions is None:
            raise NoSuchOrder("Order not found.")
        return self._present(versions[-1])

    def fill(
        self,
        id: str | None = None,
        *,
        external_id: str | None = None,
        amount: Decimal | int | str | None = None,
        price: Decimal | int | str | None = None,
    ) -> Order:
        """Execute some of an active order, or the rest of it if ``amount`` is left out; return the order after it.

        Args:
            id: the venue's id, or
            external_id: the caller's.
            amount: executed now, in base currency, at most what remains.
            price: of this execution; if left out, the order's own (or 1 if it has none).

        Raises:
            NoSuchOrder, ClosedOrder: if there is no such order, or it is not active.
            InvalidOrder: if more than what remains would be executed.
        """
        order = self._active(id, external_id)
        executed = order.remaining_amount if amount is None else exact(amount, "amount")
        if executed > order.remaining_amount:
            raise InvalidOrder(f"Order {order.id} has {order.remaining_amount} left, less than {executed}.")
        at = exact(price, "price") if price is not None else order.price or Decimal(1)
        total = EXACT.add(order.executed_amount, executed)
        complete = total == order.requested_amount
        self._executions.setdefault(order.id, []).append(Execution(self._now(), executed, at))
        return self._put(
            order,
            BookStatus.EXECUTED_COMPLETELY if complete else BookStatus.EXECUTED_PARTIALLY,
            executed_amount=total,
            executed_value=EXACT.add(order.executed_value, EXACT.multiply(executed, at)),
        )

    def cancel(self, id: str | None = None, *, external_id: str | None = None) -> Order:
        """Take an active order off the book and return it.

        Raises:
            NoSuchOrder, ClosedOrder: if there is no such order (or not yet), or it is not active.
        """
        return self._put(self._active(id, external_id), BookStatus.CANCELED)

    def open_orders(self, *, pending: bool = False) -> list[Order]:
        """Return the active orders, oldest first; with ``pending`` also those whose creation is on its way."""
        return [
            order for order in self if order.status.active or (pending and order.status is BookStatus.PENDING_CREATION)
        ]

    def executions(self, order: Order) -> list[Execution]:
        """Return the executions of an order up to its state ``order``, oldest first."""
        return [one for one in self._executions.get(order.id, ()) if one.date <= order.update_date]

    def as_of(self, at: int, id: str | None = None, *, external_id: str | None = None) -> Order:
        """Return an order as it was at Unix milliseconds ``at``: what a lagging replica would say now.

        Raises:
            NoSuchOrder: if there was none at that time.
        """
        ids = [id] if id is not None else self._named.get(external_id or "", [])
        for key in map(canonical_id, reversed(ids)):
            if key in self._versions:
                self._present(self._versions[key][-1])
            for version in reversed(self._versions.get(key, ())):
                if version.update_date <= at:
                    return version
        raise NoSuchOrder("Order not found.")

    def open_as_of(self, at: int) -> list[Order]:
        """Return the orders that were active at Unix milliseconds ``at``, oldest first."""
        found: list[Order] = []
        for order_id in self._versions:
            try:
                found.append(self.as_of(at, order_id))
            except NoSuchOrder:
                continue
        return [order for order in found if order.status.active]

    def _keep(self, order: Order) -> None:
        self._versions.setdefault(canonical_id(order.id), []).append(order)

    def _active(self, id: str | None, external_id: str | None) -> Order:
        order = self.get(id, external_id=external_id)
        if order.status is BookStatus.PENDING_CREATION:
            raise NoSuchOrder("Order not found.")
        if order.status not in ACTIVE:
            raise ClosedOrder("Cannot cancel an already canceled or fully executed order.")
        return order

    def _present(self, order: Order) -> Order:
        if order.status is BookStatus.PENDING_CREATION and self._now() >= order.effective_date:
            order = attrs.evolve(order, status=BookStatus.OPEN, update_date=order.effective_date)
            self._keep(order)
        return order

    def _put(self, order: Order, status: BookStatus, **changes: Any) -> Order:
        order = attrs.evolve(order, status=status, update_date=self._now(), **changes)
        self._keep(order)
        return order
