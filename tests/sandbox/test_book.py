"""The sandbox's book: which step is possible in which state, and that no digit is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel.sandbox import Book, BookError, BookStatus, ClosedOrder, InvalidOrder, NoSuchOrder, Order


class Clock:
    def __init__(self) -> None:
        self.now = 1_711_546_039_853

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> Book:
    return Book(now=clock, rng=random.Random(0))


def in_state(book: Book, status: BookStatus) -> Order:
    order = book.create(amount="10", price="2", delay=5.0 if status is BookStatus.PENDING_CREATION else 0)
    match status:
        case BookStatus.EXECUTED_PARTIALLY:
            book.fill(order.id, amount=4)
        case BookStatus.EXECUTED_COMPLETELY:
            book.fill(order.id)
        case BookStatus.CANCELED:
            book.cancel(order.id)
    assert book.get(order.id).status is status
    return order


STEPS: dict[str, Callable[[Book, str], Order]] = {
    "cancel": lambda book, key: book.cancel(key),
    "fill some": lambda book, key: book.fill(key, amount="0.5"),
    "fill all": lambda book, key: book.fill(key),
}
OPEN, SOME, ALL = BookStatus.OPEN, BookStatus.EXECUTED_PARTIALLY, BookStatus.EXECUTED_COMPLETELY
CANCELED, PENDING = BookStatus.CANCELED, BookStatus.PENDING_CREATION


@pytest.mark.parametrize(
    ("status", "step", "expected"),
    [
        (OPEN, "cancel", CANCELED),
        (OPEN, "fill some", SOME),
        (OPEN, "fill all", ALL),
        (SOME, "cancel", CANCELED),
        (SOME, "fill some", SOME),
        (SOME, "fill all", ALL),
        *[(status, step, ClosedOrder) for status in (ALL, CANCELED) for step in STEPS],
        *[(PENDING, step, NoSuchOrder) for step in STEPS],
    ],
)
def test_each_step_in_each_state(
    book: Book, status: BookStatus, step: str, expected: BookStatus | type[BookError]
) -> None:
    order = in_state(book, status)
    if isinstance(expected, BookStatus):
        assert STEPS[step](book, order.id).status is expected
        assert book.get(order.id).status is expected
    else:
        before = book.get(order.id)
        with pytest.raises(expected):
            STEPS[step](book, order.id)
        assert book.get(order.id) == before


def test_a_pending_order_gets_onto_the_book_when_its_time_has_come(book: Book, clock: Clock) -> None:
    order = book.create(external_id="a", delay=1.5)
    assert book.open_orders() == []
    assert book.open_orders(pending=True) == [order]
    clock.now += 1_499
    assert not book.get(external_id="a").status.active
    clock.now += 1
    assert book.get(order.id).status is OPEN
    assert book.get(order.id).update_date == clock.now
    assert [found.id for found in book.open_orders()] == [order.id]


def test_an_external_id_may_be_used_again_once_its_order_is_closed(book: Book) -> None:
    first = book.create(external_id="mm-1")
    with pytest.raises(InvalidOrder, match="mm-1"):
        book.create(external_id="mm-1")
    book.cancel(external_id="mm-1")
    second = book.create(external_id="mm-1")
    assert book.get(external_id="mm-1") == second
    assert book.get(first.id).status is CANCELED
    assert len(book) == 2
    pending = book.create(external_id="late", delay=1)
    with pytest.raises(InvalidOrder, match=pending.id):
        book.create(external_id="late")


def test_amounts_of_a_partly_filled_order(book: Book, clock: Clock) -> None:
    order = book.create(amount="0.3", price="100000")
    clock.now += 7
    book.fill(order.id, amount="0.1", price="99999")
    filled = book.fill(order.id, amount=Decimal("0.1"))
    assert filled.executed_amount == Decimal("0.2")
    assert filled.remaining_amount == Decimal("0.1")
    assert filled.remaining_value == 10000
    assert filled.requested_value == 30000
    assert filled.average_execution_price == Decimal("99999.5")
    assert (filled.create_date, filled.update_date) == (clock.now - 7, clock.now)
    assert order.average_execution_price == 0
    with pytest.raises(InvalidOrder, match=r"0\.1 left"):
        book.fill(order.id, amount="0.11")


def test_a_market_order_has_no_price(book: Book) -> None:
    order = book.create(type="market", price="5", amount=3)
    assert order.price is None
    assert order.requested_value == 0
    assert book.fill(order.id, amount=1).executed_value == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 0.1},
        {"amount": True},
        {"amount": "x"},
        {"amount": "NaN"},
        {"amount": "Infinity"},
        {"amount": 0},
        {"amount": "-1"},
        {"amount": "1" * 61},
        {"amount": "1e99"},
        {"price": 0.5},
        {"price": None, "amount": []},
        {"side": "both"},
        {"type": "stop"},
        {"id": ""},
        {"external_id": 5},
        {"pair": ""},
        {"delay": -1},
        {"delay": float("nan")},
    ],
)
def test_what_no_venue_would_take(book: Book, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOrder):
        book.create(**wrong)
    assert len(book) == 0


def test_lookups(book: Book) -> None:
    order = book.create(id="A", external_id="B")
    assert book.get("A") == book.get(external_id="B") == order == next(iter(book))
    for wrong in ({}, {"id": "A", "external_id": "B"}):
        with pytest.raises(BookError):
            book.get(**wrong)
    assert book.get("a") is book.get("A")  # a UUID is the same in either case
    for missing in ({"id": "AA"}, {"external_id": "A"}, {"external_id": "b"}):
        with pytest.raises(NoSuchOrder, match=r"^Order not found\.$"):
            book.get(**missing)
    for taken in ("A", "a"):
        with pytest.raises(InvalidOrder, match=f"{taken} already"):
            book.create(id=taken)


def test_order_ids_repeat_with_the_seed(clock: Clock) -> None:
    books = [Book(now=clock, rng=random.Random(seed)) for seed in (1, 1, 2)]
    first, second, third = (book.create().id for book in books)
    assert first == second != third
    assert len(first) == 36
    assert first == first.upper()
    assert Book(now=clock).create().id != Book(now=clock).create().id


amounts = st.decimals(min_value=Decimal("1e-30"), max_value=Decimal("1e29"), allow_nan=False, places=30)


@given(amount=amounts, price=amounts, fills=st.lists(amounts, max_size=5))
def test_no_digit_is_lost(amount: Decimal, price: Decimal, fills: list[Decimal]) -> None:
    book = Book(now=lambda: 0)
    order = book.create(amount=amount, price=price)
    executed = Fraction(0)
    for fill in fills:
        if order.remaining_amount > fill:
            order = book.fill(order.id, amount=fill)
            executed += Fraction(fill)
    assert Fraction(order.executed_amount) == executed
    assert Fraction(order.remaining_amount) == Fraction(amount) - executed
    assert Fraction(order.requested_value) == Fraction(amount) * Fraction(price)
    assert Fraction(order.executed_value) == executed * Fraction(price)
