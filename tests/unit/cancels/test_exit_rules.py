"""The end of a scope, each rule alone: on an engine without sockets, so that no answer comes by itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import WALL, Desk
from tests.tools.venues import one_clock, open_venue, venue_clock
from trio_cancel import CancelRequest, NotFound, NotSent, OrdersLeft, Pacer, Rejected, Unknown
from trio_cancel._cancels.scope_exit import SLICE, ScopeExit, together
from trio_cancel._engine.held import Hold
from trio_cancel._engine.lookup_progress import BUDGET
from trio_cancel._engine.order import OrderCancel
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import NoReply
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Outcome, VenueReply
from trio_cancel.sandbox import Fault


def holds(count: int = 1) -> list[Hold]:
    return [Hold(CancelRequest(f"o-{number}"), WALL, None, 0.0) for number in range(count)]


class Exit(ScopeExit):
    """One on a desk, and what it concludes."""

    def __init__(self, desk: Desk, held: list[Hold], *, grace: float = 8.0, settle: float = 4.0) -> None:
        self.concluded: tuple[Outcome, ...] = ()
        super().__init__(
            desk.engine,
            desk.policy,
            held,
            grace=grace,
            settle=settle,
            take_in=trio.lowlevel.checkpoint,
            concluded=self._note,
        )

    def _note(self, outcomes: tuple[Outcome, ...]) -> None:
        self.concluded = outcomes


@pytest.mark.parametrize(
    ("grace", "lookups", "waits"), [(8.0, False, 8.0), (8.0, True, 6.0), (1000.0, True, 1000.0 - BUDGET)]
)
async def test_its_cancels_overtake_and_leave_time_for_lookups(
    autojump_clock: MockClock, grace: float, lookups: bool, waits: float
) -> None:
    desk = Desk(up=False)
    desk.engine.has_lookups = lookups
    ending = Exit(desk, held := holds(), grace=grace)
    ending._submit(0)
    turn = ending._under_way[held[0]]
    assert turn.priority
    assert turn.policy.give_up_after == waits
    await trio.sleep(2.0)
    ending._submit(0)
    assert ending._under_way[held[0]].policy.give_up_after == waits - 2.0
    await trio.sleep(grace)
    ending._submit(0)
    assert ending._under_way[held[0]].policy.give_up_after == 0.001


class Steps(trio.abc.Instrument):
    """Notes how many orders of an exit are under way after each step of a task."""

    def __init__(self, ending: Exit) -> None:
        self._ending = ending
        self.seen: list[int] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        now = len(self._ending._under_way)
        if self.seen[-1:] != [now]:
            self.seen.append(now)


async def test_it_hands_orders_in_and_concludes_by_slices(autojump_clock: MockClock) -> None:
    ending = Exit(Desk(up=False), holds(3 * SLICE))
    steps = Steps(ending)
    trio.lowlevel.add_instrument(steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run)
        await trio.testing.wait_all_tasks_blocked()
        ending.early.cancel()
    trio.lowlevel.remove_instrument(steps)
    assert steps.seen == [slices * SLICE for slices in (0, 1, 2, 3, 2, 1, 0)]
    assert len(ending.concluded) == 3 * SLICE


async def test_no_outcome_at_hand_is_lost_when_it_ends(autojump_clock: MockClock) -> None:
    desk = Desk(up=False)
    ending = Exit(desk, holds(3 * SLICE))
    why = NoReply("the session has ended")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run)
        await trio.testing.wait_all_tasks_blocked()
        desk.engine.stop(why)
        while desk.engine.stop_some():
            pass
        ending.early.cancel()
    assert {outcome.cause for outcome in ending.concluded if isinstance(outcome, NotSent)} == {why}
    assert len(ending.concluded) == 3 * SLICE


async def test_time_that_the_machine_slept_counts_once(autojump_clock: MockClock) -> None:
    desk = Desk(up=False)
    ending = Exit(desk, holds())
    desk.suspended = 3.0
    ending._awaken()
    ending._awaken()
    assert (ending._ends_at, ending._creates_until) == (5.0, 1.0)
    desk.suspended = 4.0
    ending._awaken()
    assert (ending._ends_at, ending._creates_until) == (4.0, 0.0)


async def test_what_was_written_and_what_was_not_say_why_nothing_is_known(autojump_clock: MockClock) -> None:
    desk = Desk()
    ending = Exit(desk, holds(9))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run)
        await trio.testing.wait_all_tasks_blocked()
        written = len(desk.write())
        ending.early.cancel()
    assert 0 < written < 9
    unknown = [outcome for outcome in ending.concluded if isinstance(outcome, Unknown)]
    assert [str(outcome.cause) for outcome in unknown] == ["no answer came before the scope's grace was over"] * written
    rest = [outcome for outcome in ending.concluded if isinstance(outcome, NotSent)]
    assert [str(outcome.cause) for outcome in rest] == ["the scope's grace was over before its turn came"] * (
        9 - written
    )


async def test_a_refusal_after_a_cancel_that_may_have_worked_keeps_what_is_known(autojump_clock: MockClock) -> None:
    desk = Desk(up=False)
    (hold,) = held = holds()
    desk.engine.holds.hold(hold.request, Holder())
    ending = Exit(desk, held)
    ending._submit(0)
    error = VenueReply(400, 40001, "No.")
    refused = Rejected(hold.request, (Attempt("r1"),), error=error)
    turn = ending._under_way[hold]
    assert ending._read(turn, refused) == refused
    desk.engine.holds.may_have_applied.add(hold.request)
    outcome = ending._read(turn, refused)
    assert isinstance(outcome, Unknown)
    assert str(outcome.cause) == "an earlier cancel of it was not answered, and this one was refused or not sent"
    assert (outcome.request, outcome.attempts, outcome.error) == (hold.request, (Attempt("r1"),), error)
    assert outcome.after_unanswered


async def test_what_it_never_asked_for_says_so(autojump_clock: MockClock) -> None:
    ending = Exit(Desk(), holds(3 * SLICE))
    ending.early.cancel()
    await ending.run()
    said = {str(outcome.cause) for outcome in ending.concluded if isinstance(outcome, NotSent)}
    assert said == {"the scope's grace was over before its turn came"}
    assert len(ending.concluded) == 3 * SLICE


async def test_what_another_cancel_found_is_told_by_the_name_that_is_held(autojump_clock: MockClock) -> None:
    hold = Hold(CancelRequest(external_id="mm-1"), WALL, None, 0.0)
    ending = Exit(Desk(), [hold])
    yes = AlreadyClosed(CancelRequest("7155"), (), error=VenueReply(400, 40040))
    ending.found(hold, yes)
    ending._conclude()
    (outcome,) = ending.concluded
    assert (outcome.request, outcome.kind) == (hold.request, "already_closed")


async def test_what_is_concluded_is_judged_by_the_venues_clock(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk()
    desk.clock.interval = known = OffsetInterval(-5, 5)
    seen: list[Any] = []
    conclude = OrderCancel.conclude

    def noting(self: OrderCancel, why: Any, clock: Any, **rest: Any) -> Outcome:
        seen.append(clock)
        return conclude(self, why, clock, **rest)

    ending = Exit(desk, holds())
    ending._submit(0)
    monkeypatch.setattr(OrderCancel, "conclude", noting)
    ending._conclude_some()
    assert seen[0] is known


NAME, NO = CancelRequest("7155"), VenueReply(400, 40001, "No.")
FIRST, SECOND = (Attempt("a"),), (Attempt("b"),)
FLAGS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("unanswered", FLAGS)
@pytest.mark.parametrize("unrecorded", FLAGS)
def test_two_outcomes_together_are_as_unsure_as_either(
    unanswered: tuple[bool, bool], unrecorded: tuple[bool, bool]
) -> None:
    first, second = (
        NotFound(NAME, attempts, error=NO, after_unanswered=unsure, unrecorded=lost)
        for attempts, unsure, lost in zip((FIRST, SECOND), unanswered, unrecorded, strict=True)
    )
    assert together(first, second, surely=False) == NotFound(
        NAME, FIRST + SECOND, error=NO, after_unanswered=any(unanswered), unrecorded=any(unrecorded)
    )


@pytest.mark.parametrize("unrecorded", [False, True])
def test_a_no_after_what_may_have_worked_is_unknown(unrecorded: bool) -> None:
    before = Unknown(NAME, FIRST, cause=NoReply("gone"), unrecorded=unrecorded)
    outcome = together(before, Rejected(NAME, SECOND, error=NO), surely=False)
    assert isinstance(outcome, Unknown)
    assert (outcome.request, outcome.attempts, outcome.error) == (NAME, FIRST + SECOND, NO)
    assert (outcome.after_unanswered, outcome.unrecorded) == (True, unrecorded)
    assert str(outcome.cause) == "an earlier attempt was not answered"


def test_a_no_after_a_no_is_one_and_a_yes_after_anything() -> None:
    no = Rejected(NAME, SECOND, error=NO)
    assert together(Rejected(NAME, FIRST, error=NO), no, surely=False) == Rejected(NAME, FIRST + SECOND, error=NO)
    found = NotFound(NAME, SECOND, error=NO)
    unsure = Unknown(NAME, FIRST, cause=NoReply("gone"))
    assert together(unsure, found, surely=False) == NotFound(NAME, FIRST + SECOND, error=NO, after_unanswered=True)


def test_what_was_not_sent_again_leaves_what_was_known() -> None:
    before = Rejected(NAME, FIRST, error=NO)
    after = NotSent(NAME, SECOND, cause=NoReply("the end"))
    assert together(before, after, surely=False) == Rejected(NAME, FIRST + SECOND, error=NO)


@pytest.mark.parametrize("unanswered", FLAGS)
@pytest.mark.parametrize("unrecorded", FLAGS)
def test_what_says_less_than_a_yes_leaves_it(unanswered: tuple[bool, bool], unrecorded: tuple[bool, bool]) -> None:
    """The name is closed; whether by this order's cancel nobody knows."""
    yes = AlreadyClosed(NAME, FIRST, error=NO, after_unanswered=unanswered[0], unrecorded=unrecorded[0])
    again = AlreadyClosed(NAME, SECOND, error=NO, after_unanswered=unanswered[1], unrecorded=unrecorded[1])
    assert together(yes, again, surely=False) == AlreadyClosed(
        NAME, FIRST + SECOND, error=NO, after_unanswered=any(unanswered), unrecorded=any(unrecorded)
    )
    silent = Unknown(NAME, SECOND, cause=NoReply("gone"), unrecorded=unrecorded[1])
    assert together(yes, silent, surely=False) == AlreadyClosed(
        NAME, FIRST + SECOND, error=NO, after_unanswered=True, unrecorded=any(unrecorded)
    )


class Holder:
    """A scope that does nothing."""

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None: ...


async def test_a_yes_for_the_venues_id_is_sure(autojump_clock: MockClock) -> None:
    (hold,) = held = holds()
    ending = Exit(Desk(up=False), held)
    ending._submit(0)
    yes = AlreadyClosed(hold.request, (), error=None)
    assert ending._is_sure(ending._under_way[hold], yes)


async def test_a_yes_is_judged_by_the_venues_clock(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(up=False)
    desk.clock.interval = known = OffsetInterval(-5, 5)
    seen: list[Any] = []

    def is_meant_by(hold: Hold, outcome: Outcome, clock: Any) -> bool:
        seen.append(clock)
        return True

    monkeypatch.setattr(Hold, "is_meant_by", is_meant_by)
    (hold,) = held = holds()
    ending = Exit(desk, held)
    ending._submit(0)
    assert ending._is_sure(ending._under_way[hold], NotSent(hold.request, cause=NoReply("")))
    assert seen == [known]


async def test_what_is_not_found_is_asked_for_again_after_pauses_that_grow(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_clock(monkeypatch)
    async with open_venue(clock=venue_clock, delay=0.0) as venue, venue.open() as ws:
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=30, settle=4) as orders:
                await orders.add(external_id="never")
        first, *rest = [record.received_at for record in venue.log]
        assert [at - first for at in rest] == pytest.approx([0.25, 0.75, 1.75, 2.75, 3.75, 4.0], abs=0.01)


async def test_what_was_not_sent_beside_a_cancel_that_was_written_is_unknown(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other cancel is the only one that was ever written in this session."""
    one_clock(monkeypatch)
    async with (
        open_venue(clock=venue_clock) as venue,
        venue.open(pacer=Pacer(0.1)) as ws,
        trio.open_nursery() as nursery,
    ):
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.SILENT_AFTER)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=3) as orders:
                await orders.add(order_id)
                nursery.start_soon(ws.try_cancel, order_id)
                await trio.testing.wait_all_tasks_blocked()
        (outcome,) = caught.value.report.outcomes
        assert len(venue.log) == 1
        assert isinstance(outcome, Unknown)
        nursery.cancel_scope.cancel()


async def test_what_was_not_sent_beside_a_cancel_that_was_not_either_is_not_sent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_clock(monkeypatch)
    async with (
        open_venue(clock=venue_clock) as venue,
        venue.open(pacer=Pacer(0.1)) as ws,
        trio.open_nursery() as nursery,
    ):
        first, order_id = venue.orders(2)
        await ws.try_cancel(first)  # the pace's turn
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=3) as orders:
                await orders.add(order_id)
                nursery.start_soon(ws.try_cancel, order_id)
                await trio.testing.wait_all_tasks_blocked()
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, NotSent)
        nursery.cancel_scope.cancel()
