"""Outcomes that are made when they are read are those that were told, and can be used as the tuple of them."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    NotFound,
    NotSent,
    NotWritten,
    Outcome,
    Rejected,
    Unknown,
)
from trio_cancel._values.kept import (
    _UNNAMED,
    CHUNK,
    Ledger,
    Name,
    Outcomes,
    Repeats,
    _Chunk,
    name_of,
    outcomes_of,
    request_of,
)
from trio_cancel.lookup import OrderState
from trio_cancel.types import Attempt, CanceledOrder, CancelReport, VenueReply

CAUSE = NotWritten("its turn has not come yet")
WHY = OSError("cut")
ERROR = VenueReply(400, 40408, "Order is not active.")


class Own(CancelRequest):
    """A request of a class of the user's own."""


def requests(count: int) -> list[CancelRequest]:
    kinds = (CancelRequest, lambda name: CancelRequest(external_id=name), Own)
    return [kinds[0 if number < CHUNK else number % 3](f"o{number}") for number in range(count)]


def canceled(request: CancelRequest, number: int, **changes: Any) -> Canceled:
    order = CanceledOrder(request.id, executed_amount=Decimal(number % 2))
    attempt = Attempt(f"r-{number}", 1.5, 2.5, changes.pop("status", 200))
    return Canceled(request, (attempt,) * changes.pop("attempts", 1), order=order, **changes)


def outcome_of(request: CancelRequest, number: int, kind: str) -> Outcome:
    attempt = (Attempt(f"r-{number}", 1.5),)
    outcomes: dict[str, Outcome] = {
        "canceled": canceled(request, number),
        "canceled again": canceled(request, number, attempts=2, after_unanswered=True),
        "canceled, status lost": canceled(request, number, status=None),
        "canceled, unrecorded": canceled(request, number, unrecorded=True),
        "canceled, with an error": canceled(request, number, error=ERROR),
        "closed": AlreadyClosed(request, attempt, error=ERROR, closed_as="executed"),
        "not found": NotFound(request, attempt, error=ERROR, final=number % 2 > 0),
        "rejected": Rejected(request, attempt, error=ERROR, final=number % 2 > 0),
        "not sent": NotSent(request, cause=WHY),
        "unknown": Unknown(request, attempt, cause=WHY, final=number % 2 > 0),
    }
    return outcomes[kind]


KINDS = (
    *("canceled", "canceled again", "canceled, status lost", "canceled, unrecorded", "canceled, with an error"),
    *("closed", "not found", "rejected", "not sent", "unknown"),
)


def chunks(names: Sequence[Name]) -> list[tuple[Name, ...]]:
    return [tuple(names[begin : begin + CHUNK]) for begin in range(0, len(names), CHUNK)]


def ledger_of(orders: Iterable[CancelRequest]) -> Ledger:
    return Ledger(chunks([name_of(request) for request in orders]))


def told_as(orders: Sequence[CancelRequest], kinds: Sequence[str | None], final: bool) -> list[Outcome]:
    return [
        NotSent(order, cause=CAUSE, final=final) if kind is None else outcome_of(order, number, kind)
        for number, (order, kind) in enumerate(zip(orders, kinds, strict=True))
    ]


@st.composite
def reports(draw: st.DrawFn) -> tuple[Outcomes, tuple[Outcome, ...]]:
    """A sequence as a batch makes it, and the tuple that it must be like."""
    orders = requests(draw(st.sampled_from([0, 1, 2, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])))
    places = st.integers(0, max(0, len(orders) - 1))
    kinds: list[str | None] = [None] * len(orders)
    if orders:
        until = draw(st.sampled_from([0, len(orders) // 2, len(orders)]))
        kinds[:until] = [draw(st.sampled_from(KINDS))] * until
        for place, kind in draw(st.dictionaries(places, st.sampled_from([None, *KINDS]), max_size=6)).items():
            kinds[place] = kind
    final = draw(st.booleans())
    model = told_as(orders, kinds, final)
    known = [(place, model[place]) for place, kind in enumerate(kinds) if kind is not None]
    later = draw(st.sets(places, max_size=4))
    ledger = ledger_of(orders)
    for place, outcome in reversed(known) if draw(st.booleans()) else known:
        if place not in later:
            ledger.tell(place, outcome)
    again = draw(st.dictionaries(places, places, max_size=4)) if orders else {}
    repeats = Repeats()
    whole: list[Outcome] = []
    for number, outcome in enumerate(model):
        whole.append(outcome)
        if number in again:
            repeats.add(len(whole), min(number, again[number]))
            whole.append(model[min(number, again[number])])
    now = [(place, outcome) for place, outcome in known if place in later]
    return ledger.outcomes(now, repeats, CAUSE, final), tuple(whole)


@given(reports(), st.data())
def test_it_is_like_the_tuple_of_what_was_told(made: tuple[Outcomes, tuple[Outcome, ...]], data: st.DataObject) -> None:
    outcomes, model = made
    assert len(outcomes) == len(model)
    assert tuple(outcomes) == model
    assert outcomes == model
    assert model == outcomes
    assert outcomes != [*model]
    assert outcomes != (*model, None)
    assert bool(outcomes) == bool(model)
    index = data.draw(st.integers(-len(model) - 2, len(model) + 1))
    if -len(model) <= index < len(model):
        one = outcomes[index]
        assert one == outcomes[index] == model[index]
        assert one in outcomes
        assert outcomes.index(one) == model.index(one)
        assert outcomes.count(one) == model.count(one)
        assert getattr(one, "cause", None) is getattr(model[index], "cause", None)
        assert str(one.request) == str(model[index].request)
    else:
        with pytest.raises(IndexError):
            outcomes[index]
    part = data.draw(st.slices(len(model) + 1))
    assert outcomes[part] == model[part]
    assert type(outcomes[part]) is tuple
    assert (outcomes != model[1:]) == bool(model)


@given(reports())
def test_a_report_says_of_it_what_it_says_of_the_tuple(made: tuple[Outcomes, tuple[Outcome, ...]]) -> None:
    outcomes, model = made
    report, plain = CancelReport(outcomes), CancelReport(model)
    assert report.outcomes is outcomes
    assert plain.outcomes == model
    assert all(one is other for one, other in zip(plain.outcomes, model, strict=True))
    assert report == plain
    for one in (report, plain):
        assert one.left == tuple(outcome for outcome in model if not outcome.off_book)
        assert one.final == all(outcome.final for outcome in model)
        assert list(one.counts) == ["canceled", "already_closed", "not_found", "rejected", "not_sent", "unknown"]
        assert all(count == sum(outcome.kind == kind for outcome in model) for kind, count in one.counts.items())
        assert one.partly_filled == tuple(
            outcome for outcome in model if isinstance(outcome, Canceled) and outcome.order.executed_amount
        )


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_it_travels_and_shows_itself_as_the_tuple(kind: str | None) -> None:
    orders = requests(3)
    ledger = ledger_of(orders)
    model = tuple(told_as(orders, [kind] * 3, True))
    for place, outcome in enumerate(model) if kind else ():
        ledger.tell(place, outcome)
    outcomes = ledger.outcomes((), Repeats(), CAUSE, True)
    assert hash(outcomes) == hash(model)
    assert repr(outcomes) == repr(model)
    assert list(reversed(outcomes)) == list(reversed(model))
    assert outcomes + outcomes == model + outcomes == outcomes + model == model + model
    assert copy.copy(outcomes) is outcomes
    for twin in (copy.deepcopy(outcomes), pickle.loads(pickle.dumps(outcomes))):
        assert type(twin) is Outcomes
        assert twin == outcomes
        assert repr(twin) == repr(outcomes)
    match outcomes:
        case [first, *rest]:
            assert (first, *rest) == model
        case _:
            pytest.fail("a sequence pattern matches it")
    with pytest.raises(TypeError):
        operator.add(outcomes, [1])
    with pytest.raises(TypeError):
        operator.add([1], outcomes)


def test_a_later_report_does_not_change_an_earlier_one() -> None:
    orders = requests(CHUNK + 5)
    ledger, repeats = ledger_of(orders), Repeats()
    none = ledger.outcomes((), repeats, CAUSE, False)
    ledger.tell(3, canceled(orders[3], 3))
    repeats.add(len(orders), 3)
    one = ledger.outcomes([(4, NotSent(orders[4], cause=WHY, final=False))], repeats, CAUSE, False)
    for place, order in enumerate(orders):
        if place != 3:
            ledger.tell(place, canceled(order, place))
    assert (len(none), none.count(none[3])) == (len(orders), 1)
    assert {outcome.kind for outcome in none} == {"not_sent"}
    counts = CancelReport(one).counts
    assert (counts["canceled"], counts["not_sent"], len(one)) == (2, len(orders) - 1, len(orders) + 1)
    assert getattr(one[4], "cause", None) is WHY
    assert CancelReport(ledger.outcomes((), repeats, CAUSE, True)).counts["canceled"] == len(orders) + 1


def test_an_outcome_is_there_once_it_was_told() -> None:
    orders = requests(CHUNK + 1)
    ledger = ledger_of(orders)
    assert ledger.outcome(CHUNK) is None
    told = canceled(orders[CHUNK], 1)
    ledger.tell(CHUNK, told)
    assert (ledger.outcome(0), ledger.outcome(CHUNK)) == (None, told)
    ledger.tell(0, canceled(orders[0], 0))
    assert [ledger.outcome(0), ledger.outcome(1)] == [canceled(orders[0], 0), None]


@pytest.mark.parametrize("request_", requests(CHUNK + 3)[-3:])
def test_a_name_becomes_its_request_again(request_: CancelRequest) -> None:
    there = request_of(name_of(request_))
    assert there == request_
    assert type(there) is type(request_)


def test_requests_are_taken_in_order_over_all_tuples() -> None:
    orders = requests(2 * CHUNK + 7)
    ledger = ledger_of(orders)
    assert ledger.requests(0, len(orders) + 5) == orders
    assert ledger.requests(CHUNK - 2, 4) == orders[CHUNK - 2 : CHUNK + 2]
    assert ledger.requests(len(orders) - 1, 4) == orders[-1:]
    assert ledger.requests(len(orders), 4) == ledger.requests(0, 0) == []
    assert ledger_of(orders[:CHUNK]).requests(CHUNK - 1, 2) == orders[CHUNK - 1 : CHUNK]


def below(thing: object) -> list[object]:
    """What the garbage collector would visit for an object's sake, types and what everybody shares left out."""
    found: list[object] = []
    seen = {id(thing)}
    to_visit = [thing]
    while to_visit:
        for one in gc.get_referents(to_visit.pop()):
            if id(one) not in seen and gc.is_tracked(one) and not isinstance(one, type):
                seen.add(id(one))
                found.append(one)
                to_visit.append(one)
    return found


@pytest.mark.parametrize("kind", [None, *KINDS[:-2]])
def test_the_collector_has_nothing_to_visit_for_each_order(kind: str | None) -> None:
    """Neither in what a batch keeps nor in its report; but for what holds an exception, which can be in a cycle."""
    visited = []
    for count in (2 * CHUNK, 8 * CHUNK):
        ledger = Ledger(chunks([name_of(CancelRequest(f"o{number}")) for number in range(count)]))
        if kind is not None:
            for place in range(count):
                ledger.tell(place, outcome_of(CancelRequest(f"o{place}"), place, kind))
        outcomes = ledger.outcomes((), Repeats(), CAUSE, True)
        gc.collect()  # which is when a tuple is found to hold nothing that is tracked
        visited.append(len(below(ledger)) + len(below(outcomes)))
        assert len(outcomes) == count
    assert visited[1] - visited[0] <= 6 * 4  # a few for each tuple of CHUNK


def test_what_it_is_made_of_becomes_such_a_sequence() -> None:
    model = told_as(requests(3), ["canceled", "closed", "unknown"], True)
    outcomes = outcomes_of(iter(model))
    assert outcomes == tuple(model)
    assert outcomes_of(outcomes) is outcomes
    assert all(one is other for one, other in zip(outcomes, model, strict=True))
    assert outcomes_of(()) == () == Outcomes()


def test_replacing_a_field_of_what_was_read_changes_nothing_that_is_kept() -> None:
    (order,) = requests(1)
    ledger = ledger_of([order])
    ledger.tell(0, outcome_of(order, 0, "closed"))
    outcomes = ledger.outcomes((), Repeats(), CAUSE, True)
    assert msgspec.structs.replace(outcomes[0], error=None) != outcomes[0]
    assert outcomes[0] == outcome_of(order, 0, "closed")


# What stands in it, and its limits


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({}, 1),
        ({"attempts": 2}, 0),
        ({"status": 201}, 0),
        ({"status": None}, 0),
        ({"error": ERROR}, 0),
        ({"after_unanswered": True}, 0),
        ({"unrecorded": True}, 0),
        ({"seen": OrderState(status="canceled", seen_at=1.0)}, 0),
    ],
)
def test_only_a_cancel_that_is_as_nearly_all_are_is_kept_as_such(changes: dict[str, Any], plain: int) -> None:
    outcome = canceled(CancelRequest("o"), 1, **changes)
    ledger = Ledger([("o",)])
    ledger.tell(0, outcome)
    outcomes = ledger.outcomes((), Repeats(), CAUSE, True)
    assert outcomes._chunks[0].plain == plain
    assert outcomes[0] == outcome
    (kept,) = outcomes._chunks[0].told
    assert getattr(kept, "request", _UNNAMED) is _UNNAMED  # its name is kept once


def test_places_of_what_is_named_again() -> None:
    repeats = Repeats()
    repeats.add(2, 0)
    repeats.add(5, 1)
    assert [repeats.place(item) for item in range(8)] == [0, 1, 0, 2, 3, 1, 4, 5]
    assert list(repeats.in_order(6)) == [0, 1, 0, 2, 3, 1, 4, 5]


def test_outcomes_beyond_the_first_tuple_are_found() -> None:
    told = [canceled(CancelRequest(f"o{number}"), number) for number in range(2 * CHUNK + 1)]
    outcomes = Outcomes(told)
    assert [outcomes[place] for place in (0, CHUNK - 1, CHUNK, 2 * CHUNK, -1)] == [
        told[place] for place in (0, CHUNK - 1, CHUNK, 2 * CHUNK, -1)
    ]
    for index in (len(told), -len(told) - 1):
        with pytest.raises(IndexError, match=r"^index out of range$"):
            outcomes[index]


def test_equal_is_what_has_equal_outcomes() -> None:
    told = [canceled(CancelRequest(f"o{number}"), number) for number in range(3)]
    outcomes = Outcomes(told)
    twin = outcomes
    assert outcomes == twin
    assert outcomes == Outcomes(told)
    assert outcomes == tuple(told)
    assert outcomes == tuple(canceled(CancelRequest(f"o{number}"), number) for number in range(3))
    assert outcomes != Outcomes(told[:2])
    assert outcomes != Outcomes([*told[:2], canceled(CancelRequest("o2"), 7)])
    assert outcomes != Outcomes([told[0], told[2], told[1]])


def test_what_is_left_is_found_behind_a_tuple_of_plain_ones() -> None:
    ledger = Ledger([tuple(f"o{number}" for number in range(CHUNK)), ("late",)])
    for number in range(CHUNK):
        ledger.tell(number, canceled(CancelRequest(f"o{number}"), number))
    report = CancelReport(ledger.outcomes((), Repeats(), CAUSE, True))
    assert [(outcome.kind, outcome.request.id) for outcome in report.left] == [("not_sent", "late")]
    assert (report.counts["canceled"], report.counts["not_sent"]) == (CHUNK, 1)


def test_all_that_is_there_is_counted() -> None:
    ledger = Ledger([tuple(f"o{number}" for number in range(CHUNK)), ("c", "d")])
    ledger.tell(0, canceled(CancelRequest("o0"), 1))
    ledger.tell(1, canceled(CancelRequest("o1"), 1, attempts=2))
    repeats = Repeats()
    repeats.add(CHUNK + 2, 0)
    repeats.add(CHUNK + 3, CHUNK + 1)
    report = CancelReport(ledger.outcomes((), repeats, CAUSE, True))
    assert (report.counts["canceled"], report.counts["not_sent"]) == (3, CHUNK - 2 + 2 + 1)
    assert sum(report.counts.values()) == CHUNK + 4


def test_no_more_requests_are_taken_than_were_asked_for() -> None:
    names = [f"o{number}" for number in range(2 * CHUNK)]
    ledger = Ledger([tuple(names[:CHUNK]), tuple(names[CHUNK:])])
    for begin, most in ((0, 1), (CHUNK - 1, 2), (CHUNK - 3, CHUNK), (2 * CHUNK - 1, 5), (2 * CHUNK, 5)):
        assert [request.id for request in ledger.requests(begin, most)] == names[begin : begin + most]


def test_what_has_been_told_whole_is_put_away() -> None:
    ledger = Ledger([("a", "b")])
    for place, name in enumerate("ab"):
        assert isinstance(ledger._chunks[0], _Chunk) is (place == 0)
        ledger.tell(place, canceled(CancelRequest(name), 1))
    assert isinstance(ledger._chunks[0], _Chunk)
