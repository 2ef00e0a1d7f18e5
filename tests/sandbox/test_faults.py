"""Every fault does what its name says, is counted, and tells the log; chance, tables and scripts pick it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from wsproto.events import CloseConnection, Ping
from wsproto.utilities import LocalProtocolError

from tests.tools.sandbox_client import Client, world
from trio_cancel.sandbox import (
    BookStatus,
    CustomReply,
    Fault,
    Faults,
    Point,
    RequestRecord,
    open_sandbox,
)

OK = ("1", 200, None)
BEFORE: dict[Fault, list[Any]] = {
    Fault.DROP_BEFORE: [],
    Fault.CLOSE_BEFORE: ["close 1012"],
    Fault.SILENT_BEFORE: [("2", 200, None)],
    Fault.ACTS_LATE: [("2", 200, None)],
    Fault.STALL_BEFORE: [],
    Fault.STOP_READING: [],
    Fault.ERROR_500_BEFORE: [("1", 500, 50000), ("2", 200, None)],
    Fault.ERROR_503_BEFORE: [("1", 503, 50300), ("2", 200, None)],
    Fault.ERROR_408_BEFORE: [("1", 408, 40800), ("2", 200, None)],
    Fault.REFUSE_429: [("1", 429, 42900), ("2", 200, None)],
    Fault.REFUSE_DAILY: [("1", 429, 42901), ("2", 200, None)],
    Fault.REFUSE_40011: [("1", 400, 40011), ("2", 200, None)],
    Fault.REFUSE_UNKNOWN_CODE: [("1", 418, 41899), ("2", 200, None)],
}
GONE = ("2", 400, 40408)
AFTER: dict[Fault, list[Any] | None] = {  # None: looked at in a test of its own
    Fault.DROP_AFTER: [],
    Fault.CLOSE_AFTER: ["close 1012"],
    Fault.SILENT_AFTER: [GONE],
    Fault.STALL_AFTER: [],
    Fault.ERROR_500_AFTER: [("1", 500, 50000), GONE],
    Fault.ERROR_503_AFTER: [("1", 503, 50300), GONE],
    Fault.ERROR_408_AFTER: [("1", 408, 40800), GONE],
    Fault.DELAYED: [GONE, OK],
    Fault.LATE: [GONE, OK],
    Fault.DUPLICATED: [OK, OK, GONE],
    Fault.CONTRADICTED: [OK, ("1", 404, 40401), GONE],
    Fault.FRAGMENTED: None,
    Fault.TRICKLED: [OK, GONE],
    Fault.STRAY_BEFORE_REPLY: None,
    Fault.UNKNOWN_ID: None,
    Fault.NULL_ID: [(None, 500, 50000), GONE],
    Fault.MALFORMED_JSON: None,
    Fault.WRONG_SCHEMA: None,
    Fault.BINARY: ["binary", GONE],
    Fault.OTHER_ORDER: [OK, GONE],
    Fault.OTHER_STATUS: [OK, GONE],
    Fault.OK_WITH_ERROR: [("1", 200, 40408), GONE],
    Fault.OK_WITHOUT_RESULT: [OK, GONE],
    Fault.SPARSE_RESULT: [OK, GONE],
    Fault.ODD_RESULT: [OK, GONE],
    Fault.OVERSIZE: None,
    Fault.BAD_UTF8: ["broken 1007"],
    Fault.RESERVED_BIT: ["broken 1002"],
    Fault.BAD_CLOSE: ["broken 1002"],
    Fault.CUT: None,
}


def test_the_tables_name_every_fault() -> None:
    at_request = {fault for fault in Fault if fault.point is Point.REQUEST}
    assert set(BEFORE) | set(AFTER) == at_request
    assert {fault for fault in at_request if fault.applies} == set(AFTER)
    assert len({fault for fault in Fault if fault.point is Point.UPGRADE}) == 10
    assert len({fault for fault in Fault if fault.point is Point.CLOSE}) == 3


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
async def test_each_fault_of_a_request(fault: Fault, autojump_clock: MockClock) -> None:
    async with world() as (sandbox, client, _):
        order = sandbox.book.create(external_id="x")
        sandbox.fault_on(order.id, fault)
        await client.open()
        await client.cancel(sandbox, "1", external_id="x")
        await wait_all_tasks_blocked()
        applied = sandbox.log.applied(order.id)
        assert (applied is not None) == fault.applies
        (record,) = sandbox.log
        assert (record.fault, record.note) == (fault, str(fault))
        with suppress(trio.BrokenResourceError, LocalProtocolError):  # the connection may be over
            await client.cancel(sandbox, "2", id=order.id)
        await trio.sleep(50)
        expected = AFTER[fault] if fault.applies else BEFORE[fault]
        if expected is not None:
            assert client.replies[1:] == expected
        assert sandbox.fault_counts == {fault: 1}
        silent = {Fault.SILENT_BEFORE, Fault.SILENT_AFTER, Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.STOP_READING}
        silent |= {Fault.STALL_BEFORE, Fault.STALL_AFTER, Fault.CLOSE_BEFORE, Fault.CLOSE_AFTER, Fault.ACTS_LATE}
        assert (record.sent_at is None) == (fault in silent)
        assert (record.replies == ()) == (fault in silent)


async def said(fault: Fault, seed: int) -> list[Any]:
    async with world(seed=seed) as (sandbox, client, _):
        sandbox.book.create(id="A", external_id="\xe7-\U0001f680")
        sandbox.fault_on("A", fault)
        await client.open()
        await client.cancel(sandbox, "1", id="A")
        await trio.sleep(5)
        return client.replies[1:]


@pytest.mark.parametrize("seed", range(5))
async def test_faults_with_many_shapes(seed: int, autojump_clock: MockClock) -> None:
    fragmented = await said(Fault.FRAGMENTED, seed)
    assert fragmented[-1] == OK
    assert 1 <= fragmented.count("ping") == len(fragmented) - 1 <= 4
    stray, reply = await said(Fault.STRAY_BEFORE_REPLY, seed)
    assert reply == OK
    assert stray[0].startswith("unknown-")
    assert (await said(Fault.UNKNOWN_ID, seed))[0][0].startswith("unknown-")
    (oversize,) = await said(Fault.OVERSIZE, seed)
    assert len(oversize) > 2**21
    assert await said(Fault.CUT, seed) == []
    (malformed,) = await said(Fault.MALFORMED_JSON, seed)
    assert isinstance(malformed, str)
    assert await said(Fault.WRONG_SCHEMA, seed) != [OK]


async def test_what_the_wrong_results_say(autojump_clock: MockClock) -> None:
    async with world() as (sandbox, client, _):
        await client.open()
        for fault in (Fault.OTHER_ORDER, Fault.OTHER_STATUS, Fault.OK_WITHOUT_RESULT):
            sandbox.book.create(id=fault)
            sandbox.fault_on(fault, fault)
            await client.cancel(sandbox, fault, id=fault)
        await trio.sleep(1)
        other, status, nothing = (json.loads(text) for text in client.seen[1:])
        assert other["id"] == Fault.OTHER_ORDER
        assert other["result"]["id"] != Fault.OTHER_ORDER
        assert (status["result"]["id"], status["result"]["status"]) == (Fault.OTHER_STATUS, "open")
        assert nothing.get("result") is None


UPGRADES: dict[Fault, list[Any]] = {
    Fault.UPGRADE_401: [401],
    Fault.UPGRADE_403: [403],
    Fault.UPGRADE_429: [429],
    Fault.UPGRADE_503: [503],
    Fault.UPGRADE_ENDLESS: [503],
    Fault.UPGRADE_SILENT: [],
    Fault.UPGRADE_GARBAGE: ["garbage"],
    Fault.UPGRADE_WRONG_ACCEPT: ["garbage"],
    Fault.UPGRADE_CUT: [],
    Fault.UPGRADE_GLUED: ["open", (None, 503, 50300), "ping"],
}


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.point is Point.UPGRADE])
async def test_each_fault_of_an_upgrade(fault: Fault, autojump_clock: MockClock) -> None:
    async with world(faults=Faults(hold=20, retry_after=3)) as (sandbox, client, _):
        sandbox.fault_on_upgrade(fault)
        await client.open()
        await trio.sleep(30)
        assert client.replies == UPGRADES[fault]
        assert sandbox.fault_counts == {fault: 1}
        (connection,) = sandbox.log.connections
        assert connection.fault is fault
        assert (b"Retry-After: 3\r\n" in client.raw) == (
            fault in (Fault.UPGRADE_429, Fault.UPGRADE_503, Fault.UPGRADE_ENDLESS)
        )
        if fault is Fault.UPGRADE_GLUED:
            assert connection.closed_at is None
        else:
            held = fault in (Fault.UPGRADE_ENDLESS, Fault.UPGRADE_SILENT)
            assert connection.note == fault
            assert connection.closed_at is not None
            assert (20 if held else 0) <= connection.closed_at <= (22 if held else 2)


async def test_without_retry_after(autojump_clock: MockClock) -> None:
    async with world(faults=Faults(retry_after=None)) as (sandbox, client, _):
        sandbox.fault_on_upgrade(None, Fault.UPGRADE_401)
        sandbox.fault_on_upgrade(Fault.UPGRADE_503)
        await client.open()
        for _ in range(2):
            ours, theirs = memory_stream_pair()
            sandbox.accept(theirs)
            client = Client(ours)
            await client.open()
            await client.read()
        assert client.seen == [503]
        assert b"Retry-After" not in client.raw


CLOSES: dict[Fault | None, tuple[list[Any], float]] = {
    None: (["close 1000"], 0),
    Fault.CLOSE_IGNORED: ([], 20),
    Fault.CLOSE_WITHOUT_END: (["close 1000"], 20),
    Fault.CLOSE_PINGED: (["ping", "ping", "ping", "close 1000"], 0),
}


@pytest.mark.parametrize("fault", CLOSES)
async def test_each_fault_of_a_close(fault: Fault | None, autojump_clock: MockClock) -> None:
    async with world(faults=Faults(hold=20)) as (sandbox, client, _):
        sandbox.fault_on_close(fault)
        await client.open()
        await trio.sleep(0.1)
        await client.stream.send_all(client.protocol.send(CloseConnection(1000)))
        await trio.sleep(30)
        seen, ended_at = CLOSES[fault]
        assert client.seen == ["open", *seen]
        assert client.ended_at == pytest.approx(ended_at + 0.1, abs=0.01)
        (connection,) = sandbox.log.connections
        assert (connection.close_code, connection.fault, connection.note) == (1000, fault, "closed by the client")


async def test_a_stalled_connection_does_not_answer_the_close_and_is_dropped_after_its_hold(
    autojump_clock: MockClock,
) -> None:
    async with world(faults=Faults(hold=20)) as (sandbox, client, _):
        first, second = sandbox.book.create(), sandbox.book.create()
        sandbox.fault_on(first.id, Fault.STALL_AFTER)
        await client.open()
        await client.cancel(sandbox, "1", id=first.id)
        await client.cancel(sandbox, "2", id=second.id)
        await client.stream.send_all(client.protocol.send(Ping(b"?")))
        await client.stream.send_all(client.protocol.send(CloseConnection(1000)))
        await trio.sleep(60)
        assert client.seen == ["open"]
        assert client.ended_at == 20
        assert sandbox.log.applied(second.id) is sandbox.log.by_request_id("2")[0]
        assert sandbox.log.by_request_id("2")[0].note == "the connection was given up before the answer"


async def test_a_script_comes_first_and_may_say_anything(autojump_clock: MockClock) -> None:
    def script(record: RequestRecord) -> Fault | CustomReply | None:
        match record.request_id:
            case "1":
                return CustomReply(f"no {record.order_id}")
            case "2":
                return CustomReply(b"\xff", applies=False)
            case "3":
                return Fault.REFUSE_429
        return None

    async with world() as (sandbox, client, _):
        for name in "AB":
            sandbox.book.create(id=name)
        sandbox.script(script)
        sandbox.fault_on("B", None, Fault.ERROR_500_BEFORE)
        await client.open()
        for request_id, order_id in (("1", "A"), ("2", "B"), ("3", "B"), ("4", "B"), ("5", "B")):
            await client.cancel(sandbox, request_id, id=order_id)
        await trio.sleep(1)
        assert client.replies == ["open", "no A", "binary", ("3", 429, 42900), ("4", 200, None), ("5", 500, 50000)]
        assert sandbox.book.get("A").status is sandbox.book.get("B").status is BookStatus.CANCELED
        assert [record.applied_at is not None for record in sandbox.log] == [True, False, False, True, False]
        assert sandbox.fault_counts == {Fault.REFUSE_429: 1, Fault.ERROR_500_BEFORE: 1}


async def test_a_fault_that_needs_a_result_spares_a_refusal(autojump_clock: MockClock) -> None:
    async with world() as (sandbox, client, _):
        sandbox.script(lambda _: Fault.OTHER_ORDER)
        await client.open()
        await client.cancel(sandbox, "1", id="nothing")
        await trio.sleep(1)
        assert client.replies[1:] == [("1", 404, 40401)]
        assert sandbox.fault_counts == {}


def test_chances_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="request"):
        Faults({Fault.CUT: 0.6, Fault.OVERSIZE: 0.5})
    with pytest.raises(ValueError, match="close"):
        Faults({Fault.CLOSE_PINGED: -0.1})
    assert Faults({Fault.CUT: 1, Fault.UPGRADE_CUT: 1}).chances[Fault.CUT] == 1
    assert Fault.CUT not in Faults.each(0.01, but=[Fault.CUT]).chances
    assert Faults.each(0.5, only=[Fault.CUT]).chances == {Fault.CUT: 0.5}


async def test_faults_are_planned_where_they_can_fire() -> None:
    async with open_sandbox(port=None) as sandbox:
        with pytest.raises(ValueError, match="upgrade"):
            sandbox.fault_on("A", Fault.UPGRADE_401)
        with pytest.raises(ValueError, match="request"):
            sandbox.fault_on_upgrade(Fault.CUT)
        with pytest.raises(ValueError, match="request"):
            sandbox.fault_on_close(Fault.CUT)


async def test_chance_reaches_nearly_every_fault_and_the_log_agrees_with_the_book(autojump_clock: MockClock) -> None:
    faults = Faults.each(0.02, but=[Fault.OVERSIZE])
    async with world(seed=5, faults=faults, delay=(0.0, 0.2), full_results=True) as (sandbox, _, nursery):
        for number in range(400):
            order = sandbox.book.create(external_id=f"x-{number}")
            ours, theirs = memory_stream_pair()
            sandbox.accept(theirs)
            client = Client(ours)
            nursery.start_soon(client.read)
            await client.open()
            await trio.sleep(0.01)
            if client.seen == ["open"]:
                await client.cancel(sandbox, f"{number}", id=order.id)
        await trio.sleep(300)
        assert sandbox.faults is faults
    lines = list(sandbox.log.lines())
    fired = sandbox.fault_counts
    assert sum(fired.values()) > 200
    assert len([fault for fault in fired if fault.point is Point.REQUEST]) > 30
    applied = [record for record in sandbox.log if record.applied_at is not None]
    assert len(applied) == sandbox.log.applied_count
    assert {record.order_id for record in applied} == {
        order.id for order in sandbox.book if order.status is BookStatus.CANCELED
    }
    sandbox.faults = Faults()
    assert sandbox.faults.chances == {}
    assert len(lines) == len(sandbox.log) + len(sandbox.log.connections)
