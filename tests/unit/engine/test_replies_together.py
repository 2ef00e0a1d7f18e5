"""Messages that come in one piece, and what the counts say of several of a kind."""

from __future__ import annotations

import json

import pytest

from tests.tools.desk import Desk, canceled, refusal, result
from trio_cancel import AlreadyClosed, Canceled, NotFound
from trio_cancel._engine.rate import WINDOW_MOST, WINDOW_START


def read(desk: Desk, *texts: str, connection: int = 1) -> None:
    """Let the reader take several messages in one piece."""
    desk.engine.read(list(texts), connection, desk.now, desk.wall)
    desk.wait(0)


@pytest.mark.parametrize(
    "before",
    [
        lambda first: canceled("nobody's"),
        lambda first: canceled(None),
        lambda first: "no JSON",
        lambda first: refusal(first, 404, 40401),
        lambda first: refusal(first, 503),
        lambda first: refusal(first, 429),
        lambda first: canceled(first, "another order"),
        lambda first: f'{{"id": "{first}", "status": "?"}}',
    ],
)
def test_what_stands_before_an_answer_does_not_hide_it(before: object) -> None:
    desk = Desk()
    desk.submit("first")
    order = desk.submit("second")
    assert callable(before)
    read(desk, before(desk.ids[0]), canceled(desk.ids[1], "second"))
    assert order.kind == "canceled"


def test_an_answer_on_another_connection_hides_none() -> None:
    desk = Desk()
    old = desk.submit("old")
    desk.down()
    desk.come_up()
    new = desk.submit("new")
    first, again, second = desk.ids
    read(desk, canceled(first, "old"), canceled(second, "new"), canceled(again, "old"), connection=2)
    assert (old.kind, new.kind) == ("canceled", "canceled")
    assert [len(order.delivered) for order in (old, new)] == [1, 1]


def test_each_of_a_piece_is_counted() -> None:
    desk = Desk()
    order = desk.submit()
    one = desk.ids[0]
    read(desk, canceled(one), canceled(one), canceled(one), refusal(one, 404, 40401), refusal(one, 404, 40401))
    counters = desk.engine._counters
    assert order.kind == "canceled"
    assert (counters.answered, counters.duplicates, counters.contradictions) == (1, 4, 2)
    for _ in range(3):
        desk.engine.count_binary(desk.now)
    assert counters.binary == 3
    waiting = desk.submit("b")
    desk.engine._in_flight._lookups = False
    for _ in range(2):
        read(desk, "?", canceled(None), canceled("x"))
    assert (counters.malformed, counters.null_id, counters.unknown_id) == (2, 2, 2)
    assert waiting.kind is None


def test_second_answers_to_one_that_still_waits_are_counted() -> None:
    desk = Desk()
    order = desk.submit()
    read(desk, refusal(desk.ids[0], 503))
    read(desk, refusal(desk.ids[0], 503), canceled(desk.ids[0]))
    assert desk.engine.statistics().duplicates == 2
    assert order.kind is None  # the first answer to an attempt counts


def test_an_answer_without_an_id_is_nobodys_whatever_ids_there_are() -> None:
    desk = Desk()
    order = desk.submit()
    read(desk, json.dumps({"id": "", "status": 200, "result": result("o")}))
    assert order.kind is None
    assert desk.engine.statistics().unknown_id == 1


def test_the_window_grows_with_each_answer_to_its_most() -> None:
    desk = Desk()
    governor = desk.engine._rate
    orders = [desk.submit(f"o{number}") for number in range(2)]
    read(desk, canceled(desk.ids[0], "o0"), canceled(desk.ids[1], "o1"))
    assert governor.window == WINDOW_START + 2
    assert [order.kind for order in orders] == ["canceled"] * 2
    governor.window = WINDOW_MOST
    desk.submit("more")
    read(desk, canceled(desk.ids[2], "more"))
    assert governor.window == WINDOW_MOST


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda rid: canceled(rid), Canceled),
        (lambda rid: refusal(rid, 400, 40408), AlreadyClosed),
        (lambda rid: refusal(rid, 404, 40401), NotFound),
    ],
)
def test_only_the_attempts_beside_the_one_that_told_are_unanswered(answer: object, kind: type) -> None:
    assert callable(answer)
    desk = Desk()
    order = desk.submit()
    desk.answer(refusal(desk.ids[0], 429))
    desk.wait(1)
    desk.answer(answer(desk.ids[1]))
    outcome = desk.only(order)
    assert isinstance(outcome, kind)
    assert len(outcome.attempts) == 2
    assert not outcome.after_unanswered
    desk = Desk()
    order = desk.submit()
    desk.wait(12.5)
    desk.answer(answer(desk.ids[1]))
    assert desk.only(order).after_unanswered


def test_the_order_in_an_outcome_keeps_the_venues_id() -> None:
    desk = Desk()
    order = desk.submit("o")
    desk.answer(canceled(desk.ids[0], "o"))
    outcome = desk.only(order)
    assert isinstance(outcome, Canceled)
    assert (outcome.order.id, outcome.request.id) == ("o", "o")
