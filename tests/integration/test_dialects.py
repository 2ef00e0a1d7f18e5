"""Both dialects of the venue, its odd answers, and the one identity of an order, through the public API."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

import trio_cancel
from tests.tools.venues import open_venue
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    ConfigurationError,
    InvalidRequest,
    InvalidSignature,
    MissingParameters,
    NotFound,
    OrderNotActive,
    RateLimited,
    Rejected,
    Unknown,
    UnlistedRefusal,
    open_trading_ws,
)
from trio_cancel._values.models import canonical_id
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import CustomReply, Fault, RequestRecord, open_sandbox

DIALECTS: list[Literal["page", "openapi"]] = ["page", "openapi"]
OPENAPI: Literal["openapi"] = "openapi"
APITOKEN: Literal["apiToken"] = "apiToken"


def answers(*bodies: dict[str, Any]) -> Any:
    """A script that answers each request with the next of these, in the end with the last; nothing is applied."""
    left = list(bodies)

    def script(record: RequestRecord) -> CustomReply:
        body = left.pop(0) if len(left) > 1 else left[0]
        return CustomReply(json.dumps({"id": record.request_id, **body}), applies=False)

    return script


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_way_of_an_order(dialect: Literal["page", "openapi"], autojump_clock: MockClock) -> None:
    async with open_venue(dialect=dialect) as venue, venue.open() as ws:
        good, before, executed = venue.orders(3)
        venue.book.cancel(before)
        venue.book.fill(executed)
        report = await ws.cancel_many([good, before, executed, "no such order"])
        kinds = ["canceled", "already_closed", "already_closed", "not_found"]
        assert [outcome.kind for outcome in report.outcomes] == kinds
        said = dialect == "openapi"
        closed = [outcome.closed_as for outcome in report.outcomes if isinstance(outcome, AlreadyClosed)]
        assert closed == (["canceled", "executed"] if said else [None, None])
        codes = [outcome.error and outcome.error.error_code for outcome in report.outcomes]
        assert codes == [None, *((40020, 40021, 40400) if said else (40408, 40408, 40401))]
        canceled = report.outcomes[0]
        assert isinstance(canceled, Canceled)
        assert canceled.order.requested_value == (None if said else Decimal(100))
        assert canceled.order.executed_amount == 0
        with pytest.raises(OrderNotActive):
            report.outcomes[2].unwrap()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_wrong_credentials(dialect: Literal["page", "openapi"], autojump_clock: MockClock) -> None:
    async with open_venue(dialect=dialect) as venue:
        (order,) = venue.orders(1)
        for wrong in (trio_cancel.Credentials("sandbox-token", "x"), trio_cancel.Credentials("x", "sandbox-secret")):
            async with open_trading_ws("ws://localhost", credentials=wrong, dial=venue.dial) as ws:
                outcome = await ws.try_cancel(order)
                assert isinstance(outcome, Rejected)
                with pytest.raises(InvalidSignature):
                    outcome.unwrap()
        assert venue.book.get(order).status.active


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_clock_that_is_off_is_named(dialect: Literal["page", "openapi"], autojump_clock: MockClock) -> None:
    async with open_venue(dialect=dialect, clock_skew=60_000) as venue, venue.open() as ws:
        (order,) = venue.orders(1)
        outcome = await ws.try_cancel(order)
        assert isinstance(outcome, Rejected)
        assert outcome.clock is not None
        with pytest.raises(InvalidSignature, match="behind the venue's"):
            outcome.unwrap()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_limit(dialect: Literal["page", "openapi"], autojump_clock: MockClock) -> None:
    async with open_venue(dialect=dialect, rate=5, burst=2) as venue, venue.open() as ws:
        report = await ws.cancel_many(venue.orders(20))
        assert not report.left
        assert ws.statistics().limited
    async with open_venue(dialect=dialect, daily_limit=0) as venue, venue.open() as ws:
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        with pytest.raises(RateLimited, match="Limit Exceeded"):
            outcome.unwrap()


@pytest.mark.parametrize(
    ("body", "kind", "off_book"),
    [
        ({"status": 400, "error": {"error_code": 40020, "message": "Order already canceled."}}, "already_closed", True),
        ({"status": 400, "error": {"error_code": "40020", "message": None}}, "already_closed", True),
        (
            {"status": 400, "error": {"error_code": 40021, "message": "Order executed completely."}},
            "already_closed",
            True,
        ),
        ({"status": 400, "error": {"error_code": 40021, "message": "No orders to cancel."}}, "unknown", None),
        ({"status": 400, "error": {"error_code": 40022, "message": "Order is closing."}}, "unknown", None),
        ({"status": 403, "error": {"error_code": 40300, "message": "Forbidden"}}, "unknown", None),
        ({"status": 409, "message": "Conflict"}, "unknown", None),
        ({"status": 400, "error": "no"}, "unknown", None),
        ({"status": 400}, "unknown", None),
        ({"status": 403, "result": None, "error": {}}, "unknown", None),
        ({"status": 404}, "not_found", None),
        ({"status": 404, "error": "Not found"}, "not_found", None),
        ({"status": 404, "error": {"error_code": 40499, "message": "?"}}, "not_found", None),
        ({"status": 401}, "rejected", False),
        ({"status": 401, "error": "Unauthorized"}, "rejected", False),
        ({"status": 401, "message": "Invalid token", "error_code": 40100}, "rejected", False),
        ({"status": 429, "message": "Limit Exceeded"}, "rejected", False),
        ({"status": 429, "error": ["Limit Exceeded"]}, "rejected", False),
        ({"status": 400, "error": {"error_code": 40010, "message": "x"}}, "rejected", False),
    ],
)
async def test_what_a_refusal_means(
    body: dict[str, Any], kind: str, off_book: bool | None, autojump_clock: MockClock
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order,) = venue.orders(1)
        venue.sandbox.script(answers(body))
        outcome = await ws.try_cancel(order)
        assert (outcome.kind, outcome.off_book) == (kind, off_book)
        assert len(venue.log) == 1  # and it was not tried again
        if isinstance(outcome, Unknown):
            assert isinstance(outcome.cause, UnlistedRefusal)
            assert outcome.error is not None
            assert outcome.error.status == body["status"]


@pytest.mark.parametrize(
    "body",
    [
        {"status": 429, "message": "Too many requests"},
        {"status": 429, "error": "Too many requests"},
        {"status": 429, "error": {"error_code": 429, "message": "Too many requests"}},
        {"status": 429, "result": {}, "error": []},
        {"status": 200, "result": None},
        {"status": 200, "result": {"id": "another", "status": "canceled"}},
        {"status": 200, "result": {"status": "canceled"}},
        {"status": "200", "result": {}},
        {},
    ],
)
async def test_what_is_asked_again(body: dict[str, Any], autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order,) = venue.orders(1)
        script = answers(body, body)
        venue.sandbox.script(lambda record: script(record) if record.number < 2 else None)
        outcome = await ws.try_cancel(order)
        assert outcome.kind == "canceled"
        assert len(outcome.attempts) == 3


@pytest.mark.parametrize("fault", [Fault.SPARSE_RESULT, Fault.ODD_RESULT])
async def test_a_success_in_any_spelling_is_one(fault: Fault, autojump_clock: MockClock) -> None:
    async with open_venue(seed=4) as venue, venue.open() as ws:
        for number in range(20):
            order = venue.book.create(external_id=f"mine-{number}")
            venue.sandbox.fault_on(order.id, fault)
            outcome = await (ws.try_cancel(order.id) if number % 2 else ws.try_cancel(external_id=f"mine-{number}"))
            assert isinstance(outcome, Canceled)
            assert len(outcome.attempts) == 1
            sparse = fault is Fault.SPARSE_RESULT
            assert outcome.order.executed_amount == (None if sparse else 0)
            assert outcome.order.remaining_amount is None
            assert bool(outcome.order.unreadable) is not sparse


async def test_a_field_that_is_missing_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue(dialect=OPENAPI) as venue, venue.open() as ws:
        await ws.cancel_many(venue.orders(50))
    told = [record for record in caplog.records if "requested_value" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING


# One order, one identity


def test_requests_for_one_order_are_equal() -> None:
    upper, lower = CancelRequest("7155ED34-9EC4"), CancelRequest("7155ed34-9ec4")
    assert upper == lower
    assert hash(upper) == hash(lower)
    assert (upper.id, lower.id, upper.key) == ("7155ED34-9EC4", "7155ed34-9ec4", "7155ED34-9EC4")
    assert CancelRequest(external_id="a") != CancelRequest(external_id="A")
    assert CancelRequest("a") != CancelRequest(external_id="a")
    assert CancelRequest("\N{KELVIN SIGN}") != CancelRequest("k")
    assert CancelRequest("Ä") != CancelRequest("ä")
    assert canonical_id("ÄbC") == "Äbc"
    assert pickle.loads(pickle.dumps(upper)) == copy.copy(upper) == lower


async def test_one_order_in_two_spellings_is_canceled_once(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        first, second = venue.orders(2)
        report = await ws.cancel_many([first.lower(), second, first, CancelRequest(first.swapcase())])
        assert [outcome.kind for outcome in report.outcomes] == ["canceled"] * 4
        assert report.outcomes[0] == report.outcomes[2] == report.outcomes[3]
        assert [record.params for record in venue.log] == [{"id": first.lower()}, {"id": second}]  # as it was given
        assert venue.log.applied(first.lower()) is venue.log.applied(first)


async def test_one_order_is_held_once(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order,) = venue.orders(1)
        async with ws.open_order_scope() as orders:
            await orders.add(order)
            await orders.add(order.lower())
            assert len(orders) == 1
            assert order.lower() in orders
            async with ws.open_order_scope() as others:
                with pytest.raises(InvalidRequest, match="Another scope"):
                    await others.add(order.lower())
            assert (await ws.try_cancel(order.lower())).kind == "canceled"
            assert len(orders) == 0  # released by the other spelling
        assert orders.report is not None
        assert len(orders.report) == 0


async def test_a_scope_does_not_ask_again_what_is_not_listed(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order,) = venue.orders(1)
        with pytest.raises(trio_cancel.OrdersLeft):
            async with ws.open_order_scope() as orders:
                await orders.add(order)
                venue.sandbox.script(answers({"status": 409, "message": "Conflict"}))
        assert len(venue.log) == 1
        assert trio.current_time() < 5


@pytest.mark.parametrize("answer", ["canceled", "executed"])
async def test_a_journal_keeps_how_an_order_was_closed(answer: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with open_venue(dialect=OPENAPI) as venue, venue.open(journal=path) as ws:
        (order,) = venue.orders(1)
        if answer == "canceled":
            venue.book.cancel(order)
        else:
            venue.book.fill(order)
        assert (await ws.try_cancel(order.lower())).kind == "already_closed"
        assert (await ws.try_cancel(order)).kind == "already_closed"
    (kept,) = read_journal(path).orders
    assert kept.request.id == order.lower()  # as it was named first
    assert [(cancel.kind, cancel.closed_as) for cancel in kept.cancels] == [("already_closed", answer)] * 2
    assert not kept.left


# External ids and the token's name


@pytest.mark.parametrize("length", [36, 37])
async def test_a_long_external_id_is_told_and_sent(
    length: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        venue.book.create(external_id="x" * length)
        assert (await ws.try_cancel(external_id="x" * length)).kind == "canceled"
        assert venue.log.requests[0].params == {"external_id": "x" * length}
    told = [record for record in caplog.records if "36" in record.getMessage()]
    assert len(told) == length - 36


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_token_may_have_its_other_name(
    dialect: Literal["page", "openapi"], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_venue(dialect=dialect, token_field=APITOKEN) as venue:
        first, second, third = venue.orders(3)
        async with venue.open() as ws:
            outcome = await ws.try_cancel(first)
            assert isinstance(outcome, Rejected)
            error = MissingParameters if dialect == "page" else InvalidSignature
            with pytest.raises(error, match=r"token_field or TRIO_CANCEL_TOKEN_FIELD"):
                outcome.unwrap()
        async with venue.open(token_field="apiToken") as ws:
            assert (await ws.try_cancel(first)).kind == "canceled"
        monkeypatch.setenv("TRIO_CANCEL_TOKEN_FIELD", "apiToken")
        async with venue.open() as ws:
            assert (await ws.try_cancel(second)).kind == "canceled"
        async with venue.open(token_field="api_token") as ws:
            assert (await ws.try_cancel(third)).kind == "rejected"


def test_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = trio_cancel.Credentials("t", "s")
    bads: tuple[Any, ...] = ("token", "", "API_TOKEN", 7, [])
    for bad in bads:
        with pytest.raises(ConfigurationError, match="token_field must be api_token or apiToken"):
            open_trading_ws("wss://localhost", credentials=credentials, token_field=bad)
    monkeypatch.setenv("TRIO_CANCEL_TOKEN_FIELD", "my-secret-token")
    with pytest.raises(ConfigurationError, match="TRIO_CANCEL_TOKEN_FIELD must be") as caught:
        open_trading_ws("wss://localhost", credentials=credentials)
    assert "my-secret-token" not in str(caught.value)
    monkeypatch.setenv("TRIO_CANCEL_TOKEN_FIELD", "")
    open_trading_ws("wss://localhost", credentials=credentials)


async def test_the_sandbox_knows_its_options() -> None:
    for option in ({"dialect": "seed"}, {"token_field": "token"}):
        with pytest.raises(ValueError, match="must be"):
            async with open_sandbox(port=None, **option):  # type: ignore[arg-type]
                pass


def test_an_outcome_says_how_it_was_closed() -> None:
    outcome = AlreadyClosed(CancelRequest("o"), closed_as="executed")
    assert "closed_as='executed'" in repr(outcome)
    assert pickle.loads(pickle.dumps(outcome)).closed_as == "executed"
    assert AlreadyClosed(CancelRequest("o")).closed_as is None
    assert NotFound(CancelRequest("O")) == NotFound(CancelRequest("o"))


def test_the_contract_is_beside_the_code() -> None:
    package = Path(trio_cancel.__file__).parent
    contract = (package / "_venue" / "contract.md").read_text()
    for code in ("40408", "40401", "40020", "40021", "40400", "40100", "40010", "40011"):
        assert code in contract
    for source in package.rglob("*.py"):
        assert "venue.md" not in source.read_text(), source
