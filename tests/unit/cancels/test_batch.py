"""Bulk cancels that can be interrupted and still account for every order."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.desk import refusal
from tests.tools.venues import Remembering, open_venue
from trio_cancel import (
    Canceled,
    CancelRequest,
    ConfigurationError,
    HandshakeFailed,
    InvalidRequest,
    NotSent,
    NotWritten,
    OrdersLeft,
    Pacer,
    Rejected,
    Unknown,
)
from trio_cancel.sandbox import CustomReply, Fault
from trio_cancel.types import Batch, InvalidItem


async def test_a_thousand_in_the_order_given(autojump_clock: MockClock) -> None:
    async with open_venue(delay=(0.001, 0.1), seed=1) as venue, venue.open() as ws:
        order_ids = venue.orders(1000)
        report = await ws.cancel_many(order_ids)
        assert [outcome.request.id for outcome in report.outcomes] == order_ids
        assert report.counts["canceled"] == len(report) == 1000
        assert report.final
        assert not report.left
        assert ws.statistics().pending == 0
        assert len(venue.log) == 1000


async def test_one_bad_order_does_not_spoil_the_rest(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(reply_timeout=1, give_up_after=2) as ws:
        good, partly, closed, silent, refused = venue.orders(5)
        venue.book.fill(partly, amount="0.0004")
        venue.book.cancel(closed)
        venue.sandbox.fault_on(silent, *[Fault.SILENT_BEFORE] * 10)
        venue.sandbox.fault_on(refused, Fault.REFUSE_UNKNOWN_CODE)
        report = await ws.cancel_many([good, "never seen", partly, closed, silent, refused])
        assert [outcome.kind for outcome in report.outcomes] == [
            "canceled",
            "not_found",
            "canceled",
            "already_closed",
            "unknown",
            "unknown",
        ]
        (filled,) = report.partly_filled
        assert filled.request.id == partly
        assert str(filled.order.executed_amount) == "0.0004"
        assert [outcome.request.id for outcome in report.left] == ["never seen", silent, refused]


async def test_a_duplicate_is_canceled_once_and_reported_twice(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        first, second = venue.orders(2)
        batch = ws.batch([first, second, first, CancelRequest(first), CancelRequest(external_id=first)])
        assert len(batch) == 5
        report = await batch.run()
        assert [outcome.kind for outcome in report.outcomes] == ["canceled"] * 4 + ["not_found"]
        assert report.outcomes[0] == report.outcomes[2] == report.outcomes[3]
        assert len(venue.log.by_order(first)) == 1
        assert len(report) == 5


@pytest.mark.parametrize(
    "kind", [list, tuple, set, iter, lambda ids: dict.fromkeys(ids).keys(), lambda ids: (x for x in ids)]
)
async def test_any_iterable_will_do(autojump_clock: MockClock, kind: type) -> None:
    async with open_venue() as venue, venue.open() as ws:
        report = await ws.cancel_many(kind(venue.orders(3)))
        assert report.counts["canceled"] == 3


async def test_nothing_at_all_is_an_empty_report(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with trio.testing.assert_checkpoints():
            report = await ws.cancel_many([])
        assert len(report) == 0


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ("an-order-id", "not one str"),
        (b"bytes", "not one bytes"),
        (bytearray(b"bytes"), "not one bytearray"),
        ({"id": "a"}, r"not a mapping \(dict\); give list\(mapping\)"),
        (MappingProxyType({"a": 1}), "not a mapping"),
        ([{"id": "a"}], "Item 0 of the requests: .*not dict"),
        ([b"a"], "Item 0 of the requests: .*not bytes"),
        (["fine", "with its newline\n"], r"Item 1 of the requests: id .* ends with a line feed"),
        (["fine", " "], "Item 1 of the requests: id ' ' ends with a blank"),
        (CancelRequest("a"), "not one CancelRequest"),
        (7, "an iterable, not int"),
        (None, "an iterable, not NoneType"),
        (["fine", ""], "Item 1 of the requests: id must not be empty"),
        (["fine", "fine", 7], "Item 2 of the requests: .*not int"),
        ([None], "Item 0 of the requests: .*not NoneType"),
        (["\ud800"], "Item 0 of the requests: .*UTF-8"),
    ],
)
async def test_what_is_no_request_is_named_before_anything_is_sent(
    autojump_clock: MockClock, requests: list[str], said: str
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(InvalidRequest, match=said):
            ws.batch(requests)
        with pytest.raises(InvalidRequest, match=said):
            await ws.cancel_many(requests)
        assert len(venue.log) == 0


async def test_invalid_items_are_reported_and_the_rest_is_canceled(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(5)
        odd: list[Any] = [ids[0], f"{ids[1]}\n", ids[2], {"id": ids[3]}, "", None, ids[4], ids[0], b"x"]
        for report in (await ws.cancel_many(odd, invalid="report"), await ws.batch(odd, invalid="report").run()):
            assert [outcome.request.id for outcome in report.outcomes] == [ids[0], ids[2], ids[4], ids[0]]
            assert not report.left
            assert [item.index for item in report.invalid] == [1, 3, 4, 5, 8]
            assert [item.item for item in report.invalid] == [odd[index] for index in (1, 3, 4, 5, 8)]
            for item in report.invalid:
                assert isinstance(item, InvalidItem)
                assert isinstance(item.error, InvalidRequest)
                assert str(item) == str(item.error)
                assert str(item).startswith(f"Item {item.index} of the requests: ")
            assert len(report.outcomes) + len(report.invalid) == len(odd)
            with pytest.raises(OrdersLeft, match=r"5 items of the input name no order: Item 1 .*; and 2 more") as left:
                report.raise_for_left()
            assert left.value.report is report
        assert {order.id for order in venue.book.open_orders()} == {ids[1], ids[3]}


async def test_a_stray_newline_stops_no_other_cancel(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(5000)
        report = await ws.cancel_many([*ids[:2500], "\n", *ids[2500:]], invalid="report")
        assert report.counts["canceled"] == 5000
        assert [(item.index, item.item) for item in report.invalid] == [(2500, "\n")]


async def test_an_input_of_invalid_items_alone_is_reported(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch(["", " "], invalid="report")
        assert len(batch) == 0
        assert [item.index for item in batch.report().invalid] == [0, 1]
        assert [item.index for item in (await batch.run()).invalid] == [0, 1]
        assert (await ws.cancel_many(["a"])).invalid == ()
        assert len(venue.log) == 1


async def test_another_word_for_invalid_is_refused(autojump_clock: MockClock) -> None:
    word: Any = "skip"
    async with open_venue() as venue, venue.open() as ws:
        for call in (lambda: ws.batch([], invalid=word), lambda: ws.open_cancel_stream([], invalid=word)):
            with pytest.raises(ConfigurationError, match='invalid must be "raise" or "report", not \'skip\''):
                call()
        with pytest.raises(ConfigurationError, match="invalid must be"):
            await ws.cancel_many(["a"], invalid=word)
        for requests in ("an-id", {"a": 1}, 7, b"x"):
            with pytest.raises(InvalidRequest):
                await ws.cancel_many(requests, invalid="report")  # type: ignore[arg-type]  # that is what is tested
        assert len(venue.log) == 0


async def test_an_iterable_that_fails_fails_before_anything_is_sent(autojump_clock: MockClock) -> None:
    def failing() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(ZeroDivisionError):
            await ws.cancel_many(failing())
        assert len(venue.log) == 0


async def test_the_input_is_taken_when_the_batch_is_made(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(2)
        batch = ws.batch(order_ids)
        order_ids.append("later")
        report = await batch.run()
        assert len(report) == 2


async def test_a_batch_runs_once(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(0.5)
            with pytest.raises(trio.BusyResourceError):
                await batch.run()
        with pytest.raises(trio.BusyResourceError):
            await batch.run()
        assert batch.report().counts["canceled"] == 1


async def test_the_report_tells_what_is_known_at_any_time(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        order_ids = venue.orders(20)
        batch = ws.batch(order_ids)
        before = batch.report()
        assert before.counts["not_sent"] == 20
        assert not before.final
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(0.5)
            during = batch.report()
            assert (during.counts["unknown"], during.counts["not_sent"]) == (8, 12)
            assert not any(outcome.final for outcome in during.outcomes)
            assert len(during.outcomes[0].attempts) == 1
            await trio.sleep(1)
            later = batch.report()
            assert (later.counts["canceled"], later.counts["unknown"]) == (8, 12)
            assert [outcome.final for outcome in later.outcomes] == [True] * 8 + [False] * 12
        after = batch.report()
        assert after.final
        assert after.counts["canceled"] == 20


async def test_a_refusal_for_now_is_not_final_while_it_will_be_tried_again(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(pacer=Pacer(0.1)) as ws:
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.REFUSE_429)
        batch = ws.batch([order_id])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(5)
            (outcome,) = batch.report().outcomes
            assert isinstance(outcome, Rejected)
            assert not outcome.final
        (outcome,) = batch.report().outcomes
        assert isinstance(outcome, Canceled)


async def test_interrupted_it_still_accounts_for_every_order(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue(delay=1.0) as venue, venue.open(observer=watch) as ws:
        order_ids = venue.orders(30)
        batch = ws.batch(order_ids)
        with trio.move_on_after(1.5) as scope:
            await batch.run()
        assert scope.cancelled_caught
        assert trio.current_time() == 1.5  # at once
        report = batch.report()
        assert [outcome.request.id for outcome in report.outcomes] == order_ids
        written = 8 + 16  # each of the eight answers gave back a place and made one
        assert (report.counts["canceled"], report.counts["unknown"], report.counts["not_sent"]) == (8, 16, 6)
        for outcome in report.outcomes:
            if isinstance(outcome, NotSent):
                assert outcome.final
                assert isinstance(outcome.cause, NotWritten)
                assert "interrupted" in str(outcome.cause)
                assert not venue.log.by_order(outcome.request.key)
            elif isinstance(outcome, Unknown):
                assert not outcome.final  # its answer can still come
        await trio.sleep(1)
        assert len(venue.log) == written  # no further order was written
        late = batch.report()
        assert late.final
        assert (late.counts["canceled"], late.counts["not_sent"]) == (written, 6)
        assert len(watch.of("settled_late")) == 16
        assert ws.statistics().pending == 0


async def test_interrupted_and_then_cut_off_the_rest_is_unknown_for_good(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(10))
        with trio.move_on_after(0.5):
            await batch.run()
        await venue.cut()
        await trio.sleep(1)
        report = batch.report()
        assert report.final
        assert (report.counts["unknown"], report.counts["not_sent"]) == (8, 2)
        assert len(venue.dials) == 2
        await trio.sleep(100)
        assert len(venue.log) == 8  # nothing is tried again for a caller who has left


async def test_interrupted_before_it_began_nothing_is_sent(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(3))
        with trio.CancelScope() as scope:
            scope.cancel()
            await batch.run()
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert len(venue.log) == 0
        assert batch.report().counts["not_sent"] == 3
        assert batch.report().final


async def test_after_the_session_the_report_still_tells(autojump_clock: MockClock) -> None:
    async with open_venue(delay=5.0) as venue:
        async with venue.open() as ws:
            batch: Batch = ws.batch(venue.orders(10))
            with trio.move_on_after(1):
                await batch.run()
        report = batch.report()
        assert report.final
        assert report.counts["unknown"] == 8


async def test_two_batches_share_the_window(autojump_clock: MockClock) -> None:
    async with open_venue(delay=0.1) as venue, venue.open() as ws:
        one, two = venue.orders(100), venue.orders(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.cancel_many, one)
            nursery.start_soon(ws.cancel_many, two)
        first_half = [record.order_id for record in venue.log][:100]
        assert 30 < len(set(first_half) & set(one)) < 70


async def test_a_single_cancel_does_not_wait_for_a_batch(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(pacer=Pacer(10, burst=1)) as ws:
        (priority,) = venue.orders(1)
        batch = ws.batch(venue.orders(100))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(1)
            before = trio.current_time()
            await ws.cancel(priority)
            assert trio.current_time() - before < 0.2
            assert batch.report().counts["not_sent"] > 80


async def test_the_end_of_the_session_and_of_the_run_may_fall_together(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(3)
        for order_id in order_ids:
            venue.sandbox.fault_on(order_id, *[Fault.SILENT_BEFORE] * 9)
        batch = ws.batch(order_ids)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def run() -> None:
                with scope:
                    await batch.run()

            nursery.start_soon(run)
            await trio.sleep(1)
            scope.cancel()
            ws._session._fail(HandshakeFailed("over"))
        assert batch.report().counts["unknown"] == 3
        assert batch.report().final


async def test_fifty_a_second_are_found_out(autojump_clock: MockClock) -> None:
    async with open_venue(rate=50, burst=10) as venue, venue.open() as ws:
        report = await ws.cancel_many(venue.orders(1000))
        assert report.counts["canceled"] == 1000
        refused = sum(record.status == 429 for record in venue.log)
        assert refused < 0.05 * len(venue.log)
        assert ws.statistics().limited == refused
        assert trio.current_time() < 40


async def test_a_pacer_keeps_several_sessions_of_one_account_below_the_limit(autojump_clock: MockClock) -> None:
    pacer = Pacer(45, burst=5)
    async with open_venue(rate=50, burst=10) as venue:
        async with venue.open(pacer=pacer) as one, venue.open(pacer=pacer) as two, trio.open_nursery() as nursery:
            nursery.start_soon(one.cancel_many, venue.orders(200))
            nursery.start_soon(two.cancel_many, venue.orders(200))
        assert sum(record.status == 429 for record in venue.log) == 0
        assert venue.log.applied_count == 400
        assert trio.current_time() == pytest.approx(395 / 45, rel=0.1)


async def test_the_daily_limit_ends_it(autojump_clock: MockClock) -> None:
    async with open_venue(daily_limit=20) as venue, venue.open() as ws:
        report = await ws.cancel_many(venue.orders(30))
        assert (report.counts["canceled"], report.counts["rejected"]) == (20, 10)
        assert len(venue.log) == 30
        assert trio.current_time() < 1


@pytest.mark.parametrize("applies", [True, False])
async def test_an_answer_that_cannot_be_read_is_unknown(autojump_clock: MockClock, applies: bool) -> None:
    async with open_venue() as venue, venue.open() as ws:
        good, bad = venue.orders(2)

        def script(record: object) -> CustomReply | None:
            request_id = getattr(record, "request_id", None)
            if getattr(record, "params", {}).get("id") != bad:
                return None
            return CustomReply(f'{{"id":"{request_id}","status":200,"result":"?"}}', applies=applies)

        venue.sandbox.script(script)
        report = await ws.cancel_many([bad, good])
        assert [outcome.kind for outcome in report.outcomes] == ["unknown", "canceled"]
        assert refusal("r", 400)


async def test_a_large_input_that_names_no_order_somewhere_names_none_for_good(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch([*map(str, range(1500)), "", *map(str, range(1500, 4000))])
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="Item 1500"):
                await batch.check()
        with pytest.raises(InvalidRequest, match="Item 1500"):
            batch.report()
        with pytest.raises(InvalidRequest, match="Item 1500"):
            await batch.run()
        assert len(venue.log) == 0


async def test_a_large_input_is_taken_when_the_batch_is_made(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        given = [f"o-{number}" for number in range(3000)]
        batch = ws.batch(given)
        given[2000:] = ["another"] * 7
        assert len(batch) == 3000
        assert [outcome.request.id for outcome in batch.report().outcomes][1999:2002] == ["o-1999", "o-2000", "o-2001"]


async def test_what_is_named_again_slices_later_has_the_outcome_of_its_order(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        some = [f"o-{number}" for number in range(1500)]
        given = [some[0], *some, *some]  # all but the first came one earlier than their places say
        batch = ws.batch(given)
        assert len(batch) == 3001
        assert [outcome.request.id for outcome in batch.report().outcomes] == given


async def test_the_report_says_why_nothing_is_known_yet(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(20))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(0.5)
            said = {str(outcome.cause) for outcome in batch.report().outcomes if isinstance(outcome, Unknown | NotSent)}
            assert said == {"no answer has come yet", "its turn has not come yet"}


async def test_who_reads_on_after_the_block_is_told_why_the_rest_was_not_sent(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(20))
        async with batch:
            await trio.sleep(0.5)
        outcomes = [outcome async for outcome in batch]
        not_sent = [outcome for outcome in outcomes if isinstance(outcome, NotSent)]
        assert (len(outcomes), len(not_sent)) == (20, 12)
        assert {str(outcome.cause) for outcome in not_sent} == {"the batch was interrupted before its turn came"}


async def test_what_a_batch_refuses_it_says(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1.0) as venue, venue.open() as ws:
        batch = ws.batch(venue.orders(1))
        assert repr(batch) == "<Batch>"
        with pytest.raises(ConfigurationError) as refused:
            await anext(batch)
        assert str(refused.value) == (
            "A batch yields its outcomes in its block, and after that: async with batch as outcomes: …."
        )
        async with batch, trio.open_nursery() as nursery:
            nursery.start_soon(batch.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError) as busy:
                await anext(batch)
            assert str(busy.value) == "another task waits for this batch's next outcome"
        with pytest.raises(trio.BusyResourceError) as again:
            await batch.run()
        assert str(again.value) == "a batch runs once; make another for another run"
        run = ws.batch(venue.orders(1))
        await run.run()
        with pytest.raises(ConfigurationError) as told:
            await anext(run)
        assert str(told.value) == (
            "A batch yields its outcomes in its block, and after that: run() returns all its outcomes."
        )
        with pytest.raises(InvalidRequest) as mapping:
            await ws.cancel_many({})
        assert str(mapping.value) == (
            "A bulk cancel needs an iterable of order ids, not a mapping (dict); give list(mapping) for its keys, "
            "mapping.values() for its values, or CancelRequest(**mapping) for one order."
        )


async def test_a_batch_says_how_many_of_its_orders_have_not_been_asked_for(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        source = ws.batch(venue.orders(10))._source
        taken = source.take(3)
        assert [order.priority for order in taken] == [False] * 3  # single cancels overtake them
        assert source.behind() == 7
        source.refuse(NotWritten("for a test"))
        assert source.behind() == 0


async def test_none_is_lost_of_a_batch_of_which_none_was_asked_for(autojump_clock: MockClock) -> None:
    async with open_venue(delay=5.0) as venue, venue.open() as ws:
        ids = venue.orders(3)
        busy, batch = ws.batch(venue.orders(100)), ws.batch(ids)
        async with busy:
            await trio.sleep(0.5)
            async with batch:
                pass
            outcomes = [outcome async for outcome in batch]
        assert [(outcome.kind, outcome.request.id) for outcome in outcomes] == [
            ("not_sent", order_id) for order_id in ids
        ]


async def test_what_was_asked_for_and_is_not_written_says_why_as_the_rest_does(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        source = ws.batch(venue.orders(3))._source
        source.take(2)
        said = [
            (str(outcome.cause), outcome.final) for outcome in source.report().outcomes if isinstance(outcome, NotSent)
        ]
        assert said == [("its turn has not come yet", False)] * 3
        source.refuse(NotWritten("it has ended"))
        assert [(str(o.cause), o.final) for o in source.report().outcomes if isinstance(o, NotSent)] == [
            ("it has ended", True)
        ] * 3


async def test_an_order_is_one_in_a_request_of_the_users_own_class_too(autojump_clock: MockClock) -> None:
    class Mine(CancelRequest):
        pass

    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        report = await ws.cancel_many([order_id, Mine(order_id), Mine(external_id="mm-1")])
        assert [outcome.kind for outcome in report.outcomes] == ["canceled", "canceled", "not_found"]
        assert len(venue.log.by_order(order_id)) == 1
