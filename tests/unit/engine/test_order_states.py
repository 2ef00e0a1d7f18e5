"""The state table of an order: which steps there are, that no other is taken, and what a wrong one leads to."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import trio_cancel
from tests.tools.desk import Desk, Order
from tests.tools.venues import open_venue
from trio_cancel import CancelRequest, NotSent, Outcome, Unknown
from trio_cancel._engine import order as order_module
from trio_cancel._engine.order import IllegalStep, LiveAttempt, RetryPolicy, State, admit_all
from trio_cancel._engine.queue import Queue

PACKAGE = Path(trio_cancel.__file__).parent
BY_ID = CancelRequest("o")

STEPS: dict[str, set[str]] = {
    "QUEUED": {"ADMITTED", "SETTLED"},
    "ADMITTED": {"IN_FLIGHT", "RETRYING", "LOOKED_UP", "SETTLED"},
    "IN_FLIGHT": {"IN_FLIGHT", "RETRYING", "LOOKED_UP", "SETTLED"},
    "RETRYING": {"ADMITTED", "IN_FLIGHT", "RETRYING", "LOOKED_UP", "SETTLED"},
    "LOOKED_UP": {"RETRYING", "SETTLED"},
    "SETTLED": set(),
}


def written(order: Order) -> None:
    order.write(LiveAttempt(order, f"r-{len(order.flights)}", 1, 0.0, 0.0, 12.0))


def at(state: State) -> Order:
    """An order that has come to a state by legal steps."""
    order = Order(BY_ID, RetryPolicy())
    if state is State.QUEUED:
        return order
    order.admit()
    if state in (State.IN_FLIGHT, State.RETRYING, State.LOOKED_UP, State.SETTLED):
        written(order)
    if state is State.RETRYING:
        order.retry(1.0)
    elif state is State.LOOKED_UP:
        order.look_up()
    elif state is State.SETTLED:
        order.settle(Unknown(BY_ID))
    assert order.state is state
    return order


DO: dict[State, Callable[[Order], None]] = {
    State.ADMITTED: Order.admit,
    State.RETRYING: lambda order: order.retry(2.0),
    State.LOOKED_UP: Order.look_up,
    State.SETTLED: lambda order: order.settle(NotSent(BY_ID)),
}


def test_the_table_is_the_one_that_the_drawing_shows() -> None:
    assert {state.name: {other.name for other in state.leads_to} for state in State} == STEPS
    drawing = (order_module.__doc__ or "").partition("::\n")[2]
    assert all(re.search(rf"\b{state.name}\b", drawing) for state in State)


@pytest.mark.parametrize("to", DO, ids=lambda state: state.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_only_the_steps_of_the_table_are_taken(state: State, to: State) -> None:
    order = at(state)
    before = order.outcome
    if to.name in STEPS[state.name]:
        DO[to](order)
        assert order.state is to
    else:
        with pytest.raises(IllegalStep):
            DO[to](order)
        assert (order.state, order.outcome) == (state, before)


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_an_order_is_written_only_when_it_was_admitted(state: State) -> None:
    order = at(state)
    if state is State.ADMITTED:
        written(order)
        assert order.state is State.IN_FLIGHT
    else:
        with pytest.raises(IllegalStep):
            written(order)


def test_nobody_waits_for_an_answer_to_what_was_never_written() -> None:
    with pytest.raises(IllegalStep):
        at(State.ADMITTED).wait_for_answer()
    order = at(State.RETRYING)
    order.wait_for_answer()
    assert order.state is State.IN_FLIGHT


def test_only_new_orders_are_admitted_together() -> None:
    with pytest.raises(IllegalStep):
        admit_all([at(State.QUEUED), at(State.RETRYING)])


def test_one_file_assigns_the_state_of_an_order() -> None:
    for path in [*PACKAGE.glob("_*/*.py"), *PACKAGE.glob("*.py")]:
        if path.name == "order.py" or path.parent.name in ("_session", "_cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            assigned = [target for target in targets if isinstance(target, ast.Attribute) and target.attr == "state"]
            assert not assigned, f"{path.name}:{assigned[0].lineno}"


HIDDEN = {"table", "queue", "inbox", "governor", "silence"}
"""Parts of the engine that nobody outside touches, by the names that they had or could have."""


def test_the_engine_is_touched_through_its_face_only() -> None:
    """Nothing outside ``_engine`` uses a name of the engine's that begins with an underscore, or one of its parts."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "_engine" or "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                is_engine = (isinstance(owner, ast.Name) and owner.id == "engine") or (
                    isinstance(owner, ast.Attribute) and owner.attr in ("engine", "_engine")
                )
                where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                assert not (is_engine and (node.attr.startswith("_") or node.attr in HIDDEN)), where
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio_cancel._engine."):
                part = (node.module or "").rpartition(".")[2]
                names = {alias.name for alias in node.names}
                hides = {"in_flight": {"InFlight"}, "replies": {"ReplyHandler"}, "silence": {"Silence"}}
                hides |= {"queue": {"Queue"}, "rate": {"AdaptiveRate"}}
                assert not names & hides.get(part, set()), f"{path.relative_to(PACKAGE)}:{node.lineno}"


async def test_a_wrong_step_ends_in_honest_outcomes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug that hands orders out twice: whoever waits is told the truth, and the session goes on or has failed."""
    take = Queue.take_bulk

    def twice(queue: Queue, most: int) -> list[order_module.OrderCancel]:
        taken = take(queue, most)
        return taken + taken[:1]

    outcomes: list[Outcome] = []
    async with open_venue() as venue, venue.open(give_up_after=3.0) as ws:
        ids = venue.orders(20)
        monkeypatch.setattr(Queue, "take_bulk", twice)
        with trio.fail_after(60):
            outcomes += (await ws.cancel_many(ids)).outcomes
        monkeypatch.undo()
        assert len(outcomes) == 20
        for outcome in outcomes:
            active = venue.book.get(str(outcome.request.id)).status.active
            assert outcome.off_book is not active if outcome.off_book is not None else isinstance(outcome, Unknown)
        with trio.fail_after(60):
            assert (await ws.try_cancel(venue.orders(1)[0])).off_book is not False
    assert "ADMITTED is not new" in caplog.text


def test_the_desk_settles_each_order_once() -> None:
    desk = Desk()
    order = desk.submit()
    desk.engine._in_flight.settle(order, Unknown(order.request))
    with pytest.raises(IllegalStep):
        desk.engine._in_flight.settle(order, Unknown(order.request))
    assert len(order.delivered) == 1
