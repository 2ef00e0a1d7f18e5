"""A batch that tells each outcome as it settles: none is lost, whatever its reader does, and each is told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.venues import open_venue
from trio_cancel import ConfigurationError, InvalidRequest, NotSent, Outcome, SessionClosed, Unknown
from trio_cancel.sandbox import Fault


def names(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(outcome.request.key for outcome in outcomes)


async def test_outcomes_come_as_they_settle_and_each_once(autojump_clock: MockClock) -> None:
    async with open_venue(delay=(0.001, 0.1), seed=1) as venue, venue.open() as ws:
        ids = venue.orders(500)
        batch = ws.batch([*ids, *ids[:5]])
        async with batch as outcomes:
            told = [outcome async for outcome in outcomes]
        assert names(told) == Counter(ids)
        assert [outcome.request.key for outcome in told] != ids, "not in the order given"
        report = batch.report()
        assert [outcome.request.key for outcome in report.outcomes] == [*ids, *ids[:5]]
        assert set(told) == set(report.outcomes)
        assert [outcome async for outcome in batch] == []


async def test_an_outcome_is_told_while_others_are_not_even_written(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1) as venue, venue.open() as ws, ws.batch(venue.orders(100)) as outcomes:
        first = await anext(outcomes)
        assert first.kind == "canceled"
        assert len(venue.log) < 100


async def slow(outcomes: list[Outcome]) -> None:
    await trio.sleep(3)


async def raising(outcomes: list[Outcome]) -> None:
    if len(outcomes) == 7:
        raise KeyError("its own")


async def cancelled(outcomes: list[Outcome]) -> None:
    if len(outcomes) == 7:
        await trio.sleep_forever()


class Stop(Exception):
    pass


async def stopping(outcomes: list[Outcome]) -> None:
    if len(outcomes) == 7:
        raise Stop


@pytest.mark.parametrize("reader", [slow, raising, cancelled, stopping])
async def test_none_is_lost_whatever_the_reader_does(
    autojump_clock: MockClock, reader: Callable[[list[Outcome]], object]
) -> None:
    async with open_venue(delay=(0.5, 2.0), seed=3) as venue, venue.open() as ws:
        ids = venue.orders(60)
        batch = ws.batch(ids)
        told: list[Outcome] = []
        failure: BaseException | None = None
        with trio.move_on_after(10 if reader is cancelled else 1e6):
            try:
                async with batch as outcomes:
                    async for outcome in outcomes:
                        told.append(outcome)
                        await reader(told)  # type: ignore[misc]  # each is an async function
            except (KeyError, Stop) as error:
                failure = error
        assert (failure is not None) == (reader in (raising, stopping))
        assert len(told) == (60 if reader is slow else 7)
        told += [outcome async for outcome in batch]  # what was left: in flight, or never written
        assert names(told) == Counter(ids)
        report = batch.report()
        assert report.final
        assert {outcome.request.key: outcome.kind for outcome in told} == {
            outcome.request.key: outcome.kind for outcome in report.outcomes
        }


async def test_leaving_the_block_writes_nothing_more_and_what_is_in_flight_is_still_told(
    autojump_clock: MockClock,
) -> None:
    async with open_venue(delay=2.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(100))
        async with batch as outcomes:
            await anext(outcomes)
            await trio.sleep(1)  # what its answer made room for has reached the venue
            written = len(venue.log)
        told = [outcome async for outcome in batch]
        assert len(venue.log) == written < 100
        assert len(told) == 99
        kinds = Counter(outcome.kind for outcome in told)
        assert set(kinds) == {"canceled", "not_sent"}
        assert kinds["canceled"] == written - 1


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 1.5])
async def test_a_cancelled_wait_loses_none(autojump_clock: MockClock, seconds: float) -> None:
    async with open_venue(delay=(0.2, 1.0), seed=5) as venue, venue.open() as ws:
        ids = venue.orders(40)
        batch = ws.batch(ids)
        told: list[Outcome] = []
        with trio.move_on_after(seconds) as scope:
            async with batch as outcomes:
                async for outcome in outcomes:
                    told.append(outcome)  # noqa: PERF401 - a comprehension that is cancelled keeps nothing
        assert scope.cancelled_caught
        assert len(batch.report()) == 40
        if seconds:
            told.extend([outcome async for outcome in batch])
            assert names(told) == Counter(ids)
        else:
            assert batch.report().counts["not_sent"] == 40, "nothing is written for who is cancelled already"


async def test_a_report_in_between_takes_nothing_from_the_reader(autojump_clock: MockClock) -> None:
    async with open_venue(delay=(0.1, 0.3), seed=2) as venue, venue.open() as ws:
        ids = venue.orders(50)
        batch = ws.batch(ids)
        told = []
        async with batch as outcomes:
            async for outcome in outcomes:
                told.append(outcome)
                await trio.sleep(0.2)
                assert len(batch.report()) == 50
        assert names(told) == Counter(ids)


async def test_what_was_given_up_before_its_turn_is_told(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(reply_timeout=1, give_up_after=3) as ws:
        ids = venue.orders(5_000)
        for order_id in ids:
            venue.sandbox.fault_on(order_id, *[Fault.SILENT_BEFORE] * 20)
        async with ws.batch(ids) as outcomes:
            told = [outcome async for outcome in outcomes]
        assert names(told) == Counter(ids)
        assert {type(outcome) for outcome in told} <= {Unknown, NotSent}


async def test_the_end_of_the_session_settles_the_rest(autojump_clock: MockClock) -> None:
    async with open_venue(delay=5.0) as venue:
        async with venue.open() as ws:
            ids = venue.orders(50)
            batch = ws.batch(ids)
            async with batch:
                await trio.sleep(1)
        told = [outcome async for outcome in batch]
        assert names(told) == Counter(ids)
        assert {outcome.kind for outcome in told} == {"unknown", "not_sent"}
        with pytest.raises(SessionClosed):
            ws.batch(ids)


async def test_an_empty_one_tells_nothing(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with trio.testing.assert_checkpoints():
            async with ws.batch([]) as outcomes:
                pass
        with trio.testing.assert_checkpoints():
            assert [outcome async for outcome in outcomes] == []


async def test_a_bad_item_of_a_large_input_comes_out_of_entering(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch(iter([*venue.orders(3_000), ""]))
        with pytest.raises(InvalidRequest, match="Item 3000 "):
            async with batch:
                pytest.fail("nothing was sent")
        assert len(venue.log) == 0


async def test_misuse_is_named(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(3))
        with pytest.raises(ConfigurationError, match="async with batch"):
            await anext(batch)
        async with batch as outcomes, trio.open_nursery() as nursery:
            nursery.start_soon(anext, outcomes)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await batch.run()
        with pytest.raises(trio.BusyResourceError):
            async with batch:
                pytest.fail("it runs once")
        other = ws.batch(venue.orders(3))
        await other.run()
        with pytest.raises(ConfigurationError, match="run"):
            await anext(other)


async def test_one_task_reads_it_at_a_time(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1) as venue, venue.open() as ws, ws.batch(venue.orders(3)) as outcomes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, outcomes)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(outcomes)
        assert len([outcome async for outcome in outcomes]) == 2


async def test_a_reader_that_never_waits_lets_others_run_and_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(1_000))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery, batch as outcomes:
            await trio.sleep(60)  # all of them have settled
            assert batch.report().final
            nursery.start_soon(other)
            told = [outcome async for outcome in outcomes]
            assert turns >= len(told) // 64 - 1 > 0
            nursery.cancel_scope.cancel()
