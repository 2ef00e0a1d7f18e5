"""What a journal's rows add up to: which orders were left, and which of them may be canceled by their names."""

from __future__ import annotations

from typing import Any

import pytest

from trio_cancel import CancelRequest
from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.resume import LEEWAY, OLD, plan_resume
from trio_cancel._journal.rows import HoldRow, SessionRow, Tables, request_of
from trio_cancel.journal import JournalContents

SECOND = 1_000_000


def contents(*events: tuple[object, ...], external: bool = False, alive: int = 0) -> JournalContents:
    """A journal of one order, from events numbered in their order, one per second.

    ``("hold",)``, ``("release", hold)``, ``("cancel", kind or None)``; every session is number 1.
    """
    tables = Tables("wss://venue", [SessionRow(1, "id", 0, 0, alive * SECOND, None)], [], [], [], [], [])
    for number, (event, *detail) in enumerate(events, 1):
        at = number * SECOND
        match event:
            case "hold":
                tables.holds.append((number, 1, int(external), "x", at, None, None))
            case "release":
                tables.releases.append((detail[0], at))  # type: ignore[arg-type]  # the hold's number
            case "cancel":
                tables.intents.append((number, 1, int(external), "x", at))
                if detail[0] is not None:
                    tables.outcomes.append((number, str(detail[0]), at, None))
    return contents_of(tables)


HOLD = ("hold",)


@pytest.mark.parametrize(
    ("events", "held", "unsettled"),
    [
        ([HOLD], True, False),
        ([HOLD, ("release", 1)], False, False),
        ([HOLD, ("release", 1), HOLD], True, False),
        ([HOLD, HOLD, ("release", 1)], True, False),
        ([HOLD, ("cancel", None)], True, True),
        ([HOLD, ("cancel", "unknown")], True, True),
        ([HOLD, ("cancel", "canceled")], False, False),
        ([HOLD, ("cancel", "already_closed")], False, False),
        ([HOLD, ("cancel", "not_found")], True, False),
        ([HOLD, ("cancel", "rejected")], True, False),
        ([HOLD, ("cancel", "not_sent")], True, False),
        ([HOLD, ("cancel", "canceled"), HOLD], True, False),
        ([("cancel", None)], False, True),
        ([("cancel", "unknown")], False, True),
        ([("cancel", "canceled")], False, False),
        ([("cancel", "already_closed")], False, False),
        ([("cancel", "not_found")], False, False),
        ([("cancel", "rejected")], False, False),
        ([("cancel", "not_sent")], False, False),
        ([("cancel", None), ("cancel", "canceled")], False, False),
        ([("cancel", None), ("cancel", "not_found")], False, False),
        ([("cancel", None), ("cancel", "rejected")], False, True),
        ([("cancel", None), ("cancel", "not_sent")], False, True),
        ([("cancel", "unknown"), ("cancel", "rejected"), ("cancel", "already_closed")], False, False),
        ([("cancel", "canceled"), ("cancel", None)], False, True),
        ([("cancel", "canceled"), HOLD], True, False),
    ],
)
def test_what_was_left(events: list[tuple[object, ...]], held: bool, unsettled: bool) -> None:
    told = contents(*events)
    (order,) = told.orders
    assert (order.held, order.unsettled) == (held, unsettled)
    assert order.left == (held or unsettled)
    assert told.left == ((order,) if held or unsettled else ())


def test_an_order_has_one_name_and_names_do_not_mix() -> None:
    holds: list[HoldRow] = [(1, 1, 0, "x", 1, None, None), (2, 1, 1, "x", 1, None, None)]
    tables = Tables("wss://venue", [], holds, [(1, 2)], [], [], [])
    by_id, by_external_id = contents_of(tables).orders
    assert (by_id.request, by_id.left) == (CancelRequest("x"), False)
    assert (by_external_id.request, by_external_id.left) == (CancelRequest(external_id="x"), True)


def test_releases_and_outcomes_of_nothing_known_are_no_harm() -> None:
    strays = Tables("wss://venue", [], [], [(9, 1)], [], [(1, 9, 1, 1, None, None)], [(8, "canceled", 1, None)])
    assert contents_of(strays).orders == ()


def test_an_attempt_has_its_sessions_request_id() -> None:
    sessions = [SessionRow(1, "one", 0, 0, 0, None), SessionRow(2, "two", 5, 0, 0, None)]
    intents = [(1, 1, 0, "x", SECOND), (2, 2, 0, "x", SECOND)]
    attempts = [
        (5, 1, 1, 2 * SECOND, None, None),
        (6, 2, 1, 3 * SECOND, 4 * SECOND, 503),
        (7, 2, 2, 5 * SECOND, None, None),
    ]
    (order,) = contents_of(Tables("wss://venue", sessions, [], [], intents, attempts, [])).orders
    first, second = order.cancels
    assert [a.request_id for a in first.attempts] == ["one-5"]
    assert [(a.request_id, a.written_at, a.answered_at, a.status) for a in second.attempts] == [
        ("two-1", 3.0, 4.0, 503),
        ("two-2", 5.0, None, None),
    ]


# Names that are too old


@pytest.mark.parametrize(
    ("events", "alive", "since"),
    [
        ([HOLD], 0, 1),
        ([HOLD], 5000, 5000),  # a scope means this very order as long as its session lives
        ([("cancel", None)], 5000, 1),  # a mere cancel meant it when it was made
        ([HOLD, ("cancel", "unknown")], 0, 2),
    ],
)
def test_the_age_of_an_external_id(events: list[tuple[object, ...]], alive: int, since: int) -> None:
    told = contents(*events, external=True, alive=alive)
    young, old = plan_resume(told.left, since + OLD), plan_resume(told.left, since + OLD + 1)
    assert ([planned.name for planned in young.cancels], young.old) == ([order.request for order in told.left], ())
    assert (old.cancels, old.old) == ((), told.left)
    assert plan_resume(told.left, since + OLD + 1, old_external_ids=True) == young


def test_what_is_stamped_in_the_future_is_old() -> None:
    told = contents(HOLD, external=True, alive=5000)
    assert plan_resume(told.left, 5000 - LEEWAY - 0.1).old == told.left
    assert plan_resume(told.left, 5000 - LEEWAY).old == ()
    assert plan_resume(told.left, 4000, old_external_ids=True).old == ()
    assert plan_resume(contents(HOLD, alive=5000).left, 4000).old == ()


@pytest.mark.parametrize("row", [(1, 1, 1, "x", 9000 * SECOND, None, None), (1, 1, 1, "x", 9000 * SECOND)])
def test_a_clock_that_was_set_back_before_a_later_session_makes_nothing_younger(row: tuple[Any, ...]) -> None:
    sessions = [
        SessionRow(1, "a", 0, 8000 * SECOND, 9000 * SECOND, None),
        SessionRow(2, "b", 0, 1000 * SECOND, 1000 * SECOND, 1000 * SECOND),
    ]
    rows: tuple[list[Any], list[Any]] = ([row], []) if len(row) > 5 else ([], [row])
    told = contents_of(Tables("wss://venue", sessions, rows[0], [], rows[1], [], []))
    assert told.left[0].known_at == 1000
    assert plan_resume(told.left, 9100).old == told.left
    assert plan_resume(told.left, 1000 + OLD).old == ()
    assert told.sessions[0].alive_at == 9000


def test_a_venues_id_never_grows_old() -> None:
    told = contents(HOLD)
    assert [planned.request for planned in plan_resume(told.left, 1e9).cancels] == [CancelRequest("x")]


def test_what_was_not_left_is_no_part_of_the_plan() -> None:
    told = contents(HOLD, ("release", 1), external=True)
    assert (plan_resume(told.left, 1e9).old, plan_resume(told.left, 0).cancels) == ((), ())


def test_an_id_that_is_refused_by_now_is_read_as_it_was_written() -> None:
    assert request_of(0, "x\n").id == "x\n"
    assert request_of(1, "x").external_id == "x"


def test_a_cancel_tells_the_connections_of_its_attempts() -> None:
    tables = Tables("wss://venue", [SessionRow(1, "id", 10, 0, 0, None)], [], [], [(1, 1, 0, "x", 0)], [], [])
    tables.attempts.extend([(11, 1, 4, SECOND, None, None), (12, 1, 5, 2 * SECOND, 3 * SECOND, 200)])
    (order,) = contents_of(tables).orders
    (cancel,) = order.cancels
    assert cancel.connections == (4, 5)
    assert [(attempt.request_id, attempt.written_at, attempt.answered_at) for attempt in cancel.attempts] == [
        ("id-1", 1.0, None),
        ("id-2", 2.0, 3.0),
    ]


def test_an_attempt_of_a_session_that_is_not_there_has_no_name() -> None:
    tables = Tables("wss://venue", [], [], [], [(1, 1, 0, "x", 0)], [(11, 1, 4, SECOND, None, None)], [])
    (order,) = contents_of(tables).orders
    assert [attempt.request_id for attempt in order.cancels[0].attempts] == ["?-11"]


def test_an_old_name_does_not_keep_what_is_known_by_id() -> None:
    sessions = [SessionRow(1, "id", 0, 0, 0, None)]
    holds: list[HoldRow] = [(1, 1, 1, "x", 0, None, None), (2, 1, 1, "x", 0, None, None)]
    tables = Tables("wss://venue", sessions, holds, [], [(3, 1, 1, "x", 0)], [], [], placed=[(1, 0, "the-id")])
    plan = plan_resume(contents_of(tables).left, OLD + 100.0)
    assert [planned.request for planned in plan.cancels] == [CancelRequest("the-id")]
    assert {order.request for order in plan.old} == {CancelRequest(external_id="x")}


def test_external_ids_are_told_apart_by_their_case_and_the_venues_ids_are_not() -> None:
    for external, count in ((1, 2), (0, 1)):
        holds: list[HoldRow] = [(1, 1, external, "A", 0, None, None), (2, 1, external, "a", 0, None, None)]
        found = contents_of(Tables("wss://venue", [], holds, [], [], [], [])).orders
        assert len(found) == count


def test_what_a_name_found_says_nothing_of_an_order_by_id() -> None:
    """A cancel by external id is never taken for one by the venue's id, nor its answer."""
    holds: list[HoldRow] = [(1, 1, 1, "x", 0, None, None)]
    tables = Tables("wss://venue", [], holds, [], [(2, 1, 1, "x", 0)], [], [(2, "canceled", 0, None)])
    assert [order.held for order in contents_of(tables).orders] == [True]
