"""What a journal's rows are made of, and what a resume makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from trio_cancel import AlreadyClosed, Canceled, CancelRequest
from trio_cancel._journal.reading import JournalHold, contents_of
from trio_cancel._journal.resume import LEEWAY, OLD, PlannedCancel, plan_resume
from trio_cancel._journal.rows import Changes, SessionRow, Tables, micros, request_of, seconds, spread
from trio_cancel.types import Attempt, CanceledOrder, OffsetInterval

SECOND = 1_000_000


TABLES = {
    "holds": (1, 1, 0, "x", 5, None, None),
    "placed": (1, 5, "id"),
    "releases": (1, 6),
    "intents": (1, 1, 0, "x", 5),
    "attempts": (1, 1, 1, 5, None, None),
    "outcomes": (1, "canceled", 5, None),
    "answers": (1, 1, 1, 5, 6, 200, "canceled", None),
}


def test_changes_count_every_row_and_every_sign() -> None:
    assert not Changes()
    for name, row in TABLES.items():
        one = Changes(**{name: [row, row]})  # type: ignore[arg-type]  # each has the rows of its table
        assert len(one) == 2
        assert list(getattr(one, name)) == [row, row]
    assert (len(Changes(alive=0)), len(Changes(closed=0))) == (1, 1)
    every = Changes(**{name: [row] for name, row in TABLES.items()}, alive=1, closed=2)  # type: ignore[arg-type]
    assert len(every) == len(TABLES) + 2


def test_later_changes_come_behind_earlier_ones() -> None:
    for name, row in TABLES.items():
        later = (2, *row[1:])
        first = Changes(**{name: [row]}, alive=1, closed=2)  # type: ignore[arg-type]
        both = first.before(Changes(**{name: [later]}))  # type: ignore[arg-type]
        assert both is first
        assert list(getattr(both, name)) == [row, later]
        assert (len(both), both.alive, both.closed) == (4, 1, 2)
    both = Changes(alive=1, closed=2).before(Changes(alive=3, closed=4))
    assert (both.alive, both.closed) == (3, 4)


def test_an_answer_says_more_than_an_open_attempt() -> None:
    tried, settled = spread(
        [(7, 2, 1, 50, 60, 400, "already_closed", 40408)],
        [(9, 3, 1, 55, None, None), (7, 2, 1, 50, None, None)],
        [(3, "unknown", 70, None), (1, "canceled", 5, None)],
    )
    assert tried == [(7, 2, 1, 50, 60, 400), (9, 3, 1, 55, None, None)]
    assert settled == [(1, "canceled", 5, None), (2, "already_closed", 60, 40408), (3, "unknown", 70, None)]


def test_times_come_back_as_they_were() -> None:
    assert (micros(1.5), seconds(1_500_000), seconds(0), seconds(None)) == (1_500_000, 1.5, 0.0, None)
    assert (request_of(0, "x"), request_of(1, "x")) == (CancelRequest("x"), CancelRequest(external_id="x"))


def test_a_journal_in_full() -> None:
    told = contents_of(
        Tables(
            "wss://venue",
            [
                SessionRow(1, "a", 10, 1 * SECOND, 2 * SECOND, None),
                SessionRow(2, "b", 20, 3 * SECOND, 4 * SECOND, 9 * SECOND),
            ],
            [(1, 1, 1, "x", 5 * SECOND, -1000, 2500), (5, 2, 1, "y", 8 * SECOND, None, None)],
            [(5, 8 * SECOND + 500_000)],
            [(2, 1, 1, "x", 6 * SECOND), (3, 1, 0, "AB", 6 * SECOND), (4, 2, 0, "ab", 7 * SECOND)],
            [(12, 2, 1, 6 * SECOND, None, None), (21, 4, 1, 7 * SECOND, 7 * SECOND + 250_000, 400)],
            [(4, "already_closed", 8 * SECOND, 40020)],
            placed=[(1, 5 * SECOND + 500_000, "AB")],
        )
    )
    assert told.url == "wss://venue"
    assert [(s.number, s.opened_at, s.alive_at, s.closed_at) for s in told.sessions] == [
        (1, 1.0, 6.0, None),
        (2, 3.0, 9.0, 9.0),
    ]
    by_name, by_id, released = told.orders
    assert by_name.request == CancelRequest(external_id="x")
    assert by_name.holds == (JournalHold(1, 1, 5.0, placed_at=5.5, order_id="AB", clock=OffsetInterval(-1.0, 2.5)),)
    (cancel,) = by_name.cancels
    assert (cancel.number, cancel.session, cancel.intended_at, cancel.kind) == (2, 1, 6.0, None)
    assert [(a.request_id, a.written_at, a.answered_at, a.status) for a in cancel.attempts] == [
        ("a-2", 6.0, None, None)
    ]
    assert not by_name.left  # the cancel by the venue's id found it closed
    assert by_id.request == CancelRequest("AB")
    first, second = by_id.cancels  # one order, in either case
    assert (first.kind, second.kind, second.settled_at, second.error_code) == (None, "already_closed", 8.0, 40020)
    assert (first.closed_as, second.closed_as) == (None, "canceled")
    assert [(a.request_id, a.answered_at, a.status) for a in second.attempts] == [("b-1", 7.25, 400)]
    assert not by_id.left
    (hold,) = released.holds
    assert (hold.held_at, hold.released_at, hold.placed_at, hold.order_id, hold.clock) == (8.0, 8.5, None, None, None)
    assert not released.left


def one(
    holds: list[tuple[int, str | None]],
    cancels: list[tuple[int, str | None]],
    of_id: list[tuple[int, str | None]],
    *,
    alive: int = 0,
) -> Tables:
    """The order named x: its holds with the venue's ids, its cancels, and cancels by the venue's id "v"."""
    return Tables(
        "wss://venue",
        [SessionRow(1, "a", 0, 0, alive * SECOND, None)],
        [(number, 1, 1, "x", number * SECOND, None, None) for number, _ in holds],
        [],
        [(n, 1, 1, "x", n * SECOND) for n, _ in cancels] + [(n, 1, 0, "v", n * SECOND) for n, _ in of_id],
        [],
        [(n, kind, n * SECOND, None) for n, kind in [*cancels, *of_id] if kind is not None],
        placed=[(number, number * SECOND, order_id) for number, order_id in holds if order_id is not None],
    )


@pytest.mark.parametrize(
    ("holds", "cancels", "of_id", "held", "unsettled", "meant"),
    [
        ([(1, "v")], [(2, None)], [], True, True, "v"),
        ([(1, None)], [(2, None)], [], True, True, None),
        ([], [(2, "unknown")], [], False, True, None),
        ([(3, "v")], [(2, "unknown")], [], True, True, None),  # the cancel meant what came before it
        ([(1, "u"), (2, "v")], [(3, None)], [], True, True, "v"),  # the last one
        ([(1, "v")], [(2, None)], [(3, "canceled")], False, False, None),
        ([(1, "v")], [(2, None)], [(3, "already_closed")], False, False, None),
        ([(1, "v")], [(2, None)], [(3, "not_found")], True, False, None),
        ([(1, "v")], [(3, None)], [(2, "not_found")], True, True, "v"),  # asked before that cancel
        ([(1, "v")], [(3, None)], [(2, "canceled")], False, False, None),  # off the book is for good
        ([(1, "v")], [(2, None)], [(3, "rejected")], True, True, "v"),
        ([(1, "v")], [(2, None)], [(3, None)], True, True, "v"),
        ([(1, "v")], [(2, "not_found")], [], True, False, None),
        ([(1, "v")], [(2, "canceled")], [], True, False, None),
    ],
)
def test_a_name_and_the_venues_id_of_it_are_read_together(
    holds: list[tuple[int, str | None]],
    cancels: list[tuple[int, str | None]],
    of_id: list[tuple[int, str | None]],
    held: bool,
    unsettled: bool,
    meant: str | None,
) -> None:
    orders = {order.request: order for order in contents_of(one(holds, cancels, of_id)).orders}
    order = orders[CancelRequest(external_id="x")]
    assert (order.held, order.unsettled, order.meant) == (held, unsettled, meant)


@pytest.mark.parametrize(
    ("holds", "known_at"), [([(1, None)], 50.0), ([(1, "v")], 50.0), ([(1, "v"), (2, None)], 50.0)]
)
def test_a_name_is_known_as_long_as_its_session_lived(holds: list[tuple[int, str | None]], known_at: float) -> None:
    tables = one(holds, [], [], alive=50)
    tables.sessions.append(SessionRow(2, "b", 0, 60 * SECOND, 90 * SECOND, None))
    assert contents_of(tables).orders[0].known_at == known_at
    tables.holds.append((9, 2, 1, "x", 9 * SECOND, None, None))
    assert contents_of(tables).orders[0].known_at == 90.0


def test_a_resume_asks_by_the_venues_id_where_it_is_known() -> None:
    told = contents_of(one([(1, "v"), (2, None), (3, "v")], [(4, None)], []))
    plan = plan_resume(told.left, 4.0)
    name = CancelRequest(external_id="x")
    assert plan.old == ()
    assert [(planned.request, planned.name, [hold.number for hold in planned.holds]) for planned in plan.cancels] == [
        (CancelRequest("v"), name, [1, 3]),
        (name, name, [2]),
    ]
    late = plan_resume(told.left, 4.0 + OLD + 1)
    assert [planned.request for planned in late.cancels] == [CancelRequest("v")]
    assert [order.request for order in late.old] == [name]


@pytest.mark.parametrize(
    ("age", "old"), [(0.0, False), (OLD, False), (OLD + 0.5, True), (-LEEWAY, False), (-LEEWAY - 0.5, True)]
)
def test_a_name_is_old_after_an_hour_and_from_the_future(age: float, old: bool) -> None:
    plan = plan_resume(contents_of(one([], [(4, None)], [])).left, 4.0 + age)
    assert (len(plan.cancels), len(plan.old)) == ((0, 1) if old else (1, 0))


@pytest.mark.parametrize(
    ("request_", "placed_at", "meant"),
    [
        (CancelRequest("v"), None, True),
        (CancelRequest(external_id="x"), 5.0, True),
        (CancelRequest(external_id="x"), None, False),
    ],
)
def test_what_ends_a_hold_of_a_dead_process(request_: CancelRequest, placed_at: float | None, meant: bool) -> None:
    name = CancelRequest(external_id="x")
    placed = JournalHold(1, 1, 5.0, placed_at=5.0)
    planned = PlannedCancel(request_, name, (placed, JournalHold(2, 1, 5.0, placed_at=placed_at)))
    assert planned.is_meant_by(AlreadyClosed(request_), OffsetInterval(-1, 1)) is meant
    assert PlannedCancel(name, name).is_meant_by(AlreadyClosed(name), None)


def test_a_hold_of_a_dead_process_ends_with_an_order_that_is_surely_its_own() -> None:
    name = CancelRequest(external_id="x")
    attempts = (Attempt("r-1", 100.0, 100.5, 200),)

    def canceled(created: float) -> Canceled:
        order = CanceledOrder(id="7", create_date=datetime.fromtimestamp(created, UTC), external_id="x", **NOTHING)
        return Canceled(name, attempts, order=order)

    clock = OffsetInterval(-1000, 1000)
    planned = PlannedCancel(name, name, (JournalHold(1, 1, 50.0, clock=clock),))
    assert planned.is_meant_by(canceled(51.5), clock)
    assert planned.is_meant_by(canceled(51.5), None)
    assert not planned.is_meant_by(canceled(50.5), clock)
    assert not planned.is_meant_by(canceled(49.0), clock)
    vague = PlannedCancel(name, name, (JournalHold(1, 1, 50.0, clock=OffsetInterval(-1e9, 1e9)),))
    assert vague.is_meant_by(canceled(51.5), clock)
    assert not vague.is_meant_by(canceled(51.5), None)


NOTHING: dict[str, Any] = {
    "update_date": None,
    "executed_amount": None,
    "remaining_amount": None,
    "remaining_value": None,
    "requested_amount": None,
    "requested_value": None,
    "total_value": None,
    "status": "canceled",
    "type": None,
    "pair": None,
    "price": None,
}


def test_what_is_old_stops_nothing_that_comes_after_it() -> None:
    tables = Tables(
        "wss://venue",
        [SessionRow(1, "a", 0, 0, 0, None)],
        [(3, 1, 0, "v", 3 * SECOND, None, None), (4, 1, 1, "y", 4 * SECOND, None, None)],
        [],
        [(1, 1, 1, "x", 1 * SECOND), (2, 1, 0, "w", 2 * SECOND)],
        [],
        [],
        placed=[(4, 4 * SECOND, "v")],
    )
    plan = plan_resume(contents_of(tables).left, 2 * OLD)
    assert [order.request for order in plan.old] == [CancelRequest(external_id="x")]
    # One order that is held under both its names is canceled once.
    assert [(planned.request, [hold.number for hold in planned.holds]) for planned in plan.cancels] == [
        (CancelRequest("w"), []),
        (CancelRequest("v"), [3, 4]),
    ]
