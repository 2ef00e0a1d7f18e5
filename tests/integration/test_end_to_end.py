"""Real sockets and real TLS: with the sandbox, and with a venue that is not ours and checks every signature itself."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
import trio

from tests.tools.foreign import CLIENT_CONTEXT, CREDENTIALS, Answer, ForeignVenue, done, error, open_foreign_venue
from tests.tools.venues import Remembering
from trio_cancel import (
    Canceled,
    Credentials,
    HandshakeFailed,
    InvalidReply,
    InvalidSignature,
    NoReply,
    TradingWS,
    Unknown,
    UnlistedRefusal,
    VenueUnavailable,
    open_trading_ws,
)
from trio_cancel.sandbox import open_sandbox
from trio_cancel.types import SessionState


@pytest.fixture
def venue() -> Iterator[ForeignVenue]:
    with open_foreign_venue() as venue:
        yield venue


@asynccontextmanager
async def connect(url: str, **keywords: Any) -> AsyncIterator[TradingWS]:
    """A session with the foreign venue, which takes no test long."""
    with trio.fail_after(30):
        async with open_trading_ws(url, credentials=CREDENTIALS, ssl_context=CLIENT_CONTEXT, **keywords) as ws:
            yield ws


# With the sandbox


async def test_the_first_path_over_tls() -> None:
    async with open_sandbox(tls=True) as sandbox:
        assert sandbox.url.startswith("wss://")
        order = sandbox.book.create(external_id="my-order-123", amount="0.12345678901234567890")
        sandbox.book.fill(order.id, amount="0.00000000000000000001")
        order_ids = [sandbox.book.create().id for _ in range(1000)]
        async with open_trading_ws(sandbox.url, credentials=sandbox.credentials, ssl_context=sandbox.ssl_context) as ws:
            canceled = await ws.cancel(external_id="my-order-123")
            assert canceled.id == order.id
            assert canceled.executed_amount == Decimal("1e-20")
            assert canceled.requested_amount == Decimal("0.1234567890123456789")
            assert (await ws.try_cancel(order.id)).kind == "already_closed"
            report = await ws.cancel_many(order_ids)
            report.raise_for_left()
            assert 0 <= await ws.ping() < 5
            async with ws.open_cancel_stream(order_ids[:100]) as outcomes:
                assert {outcome.kind async for outcome in outcomes} == {"already_closed"}
        assert all(sandbox.log.applied(order_id) for order_id in order_ids)
        assert len(sandbox.log.connections) == 1
        assert sandbox.log.connections[0].close_code == 1000


async def test_the_same_without_tls_on_this_machine() -> None:
    async with open_sandbox() as sandbox, open_trading_ws(sandbox.url, credentials=sandbox.credentials) as ws:
        order_ids = [sandbox.book.create().id for _ in range(300)]
        assert (await ws.cancel_many(order_ids)).counts["canceled"] == 300


async def test_a_wrong_secret_is_refused_and_named() -> None:
    async with (
        open_sandbox(tls=True) as sandbox,
        open_trading_ws(
            sandbox.url, credentials=Credentials("sandbox-token", "wrong"), ssl_context=sandbox.ssl_context
        ) as ws,
    ):
        with pytest.raises(InvalidSignature, match="40011"):
            await ws.cancel(sandbox.book.create().id)


async def test_certificates_are_checked() -> None:
    async with open_sandbox(tls=True) as sandbox:
        with trio.fail_after(5):
            with pytest.raises(HandshakeFailed, match="not trusted") as caught:
                async with open_trading_ws(sandbox.url, credentials=sandbox.credentials):
                    pytest.fail("it was trusted")
        assert isinstance(caught.value.cause, ssl.SSLCertVerificationError)
        assert caught.value.final


async def test_the_name_in_the_certificate_is_checked(venue: ForeignVenue) -> None:
    async def dial() -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", venue.port)

    with pytest.raises(HandshakeFailed) as caught:
        async with connect("wss://other.example", dial=dial):
            pytest.fail("it was trusted")
    assert isinstance(caught.value.cause, ssl.SSLCertVerificationError)
    async with connect("wss://localhost", dial=dial) as ws:
        await ws.cancel(*venue.orders(1))


# With a venue that is not ours


async def test_a_foreign_venue_accepts_what_we_send(venue: ForeignVenue) -> None:
    order_ids = venue.orders(300)
    venue.open["q"] = 'q"uote\\back/slash'
    venue.open["u"] = "ordem-ç-ã-€-🚀\u2028\x7f\t"
    async with connect(venue.url) as ws:
        assert (await ws.cancel(order_ids[0])).id == order_ids[0]
        assert (await ws.cancel(external_id='q"uote\\back/slash')).id == "q"
        assert (await ws.cancel(external_id="ordem-ç-ã-€-🚀\u2028\x7f\t")).id == "u"
        report = await ws.cancel_many(order_ids)
        assert (report.counts["canceled"], report.counts["already_closed"]) == (299, 1)
        assert (await ws.try_cancel("nobody's")).kind == "not_found"
        assert await ws.ping() < 5
    assert sorted(venue.canceled) == sorted([*order_ids, "q", "u"])
    assert venue.connections == 1
    ids = [request["id"] for request in venue.requests]
    assert len(ids) == len(set(ids))
    request = venue.requests[0]
    assert list(request) == ["id", "method", "params"]
    assert list(request["params"]) == ["api_token", "timestamp", "signature", "id"]


def late(first: str) -> Answer:
    """The first time this, then the truth."""
    said: list[str] = []

    def answer(request: dict[str, Any]) -> str | None:
        if said:
            return done(request, request["params"]["id"], None)
        said.append(first)
        return first.replace("ID", request["id"])

    return answer


def always(text: str) -> Answer:
    return lambda request: text.replace("ID", request["id"])


def ok(**changes: Any) -> str:
    return done({"id": "ID"}, "o", None, **changes)


ERROR = '{"id":"ID","status":%d,"result":null,"error":{"error_code":%d,"message":"%s"}}'


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (always(ERROR % (404, 40401, "Order not found.")), "not_found", 40401),
        (always(ERROR % (400, 40408, "Cannot cancel.")), "already_closed", 40408),
        (always(ERROR % (400, 40011, "Invalid signature.")), "rejected", 40011),
        (always(ERROR % (400, 40010, "Missing required parameters.")), "rejected", 40010),
        (always(ERROR % (400, 49999, "Something new.")), "unknown", 49999),
        (always(ERROR % (403, 1, "No.")), "unknown", 1),
        (always(ERROR % (429, 42900, "Too many requests")), "rejected", 42900),
        (always(ERROR % (429, 42901, "Limit Exceeded")), "rejected", 42901),
        (always(ERROR % (500, 50000, "Oops.")), "unknown", 50000),
        (always(ERROR % (503, 50300, "Later.")), "unknown", 50300),
        (always(ERROR % (408, 40800, "Slow.")), "unknown", 40800),
    ],
)
async def test_every_error_has_its_outcome(venue: ForeignVenue, answer: Answer, kind: str, code: int) -> None:
    good, bad = venue.orders(2)
    venue.answers[bad] = answer
    async with connect(venue.url, give_up_after=0.4) as ws:
        outcome = await ws.try_cancel(bad)
        assert outcome.kind == kind
        assert outcome.error is not None
        assert outcome.error.error_code == code
        if kind == "unknown":
            assert isinstance(outcome, Unknown)
            listed = outcome.error.status in (408, 500, 503)
            assert isinstance(outcome.cause, VenueUnavailable if listed else UnlistedRefusal)
        await survives(venue, ws, good)


async def survives(venue: ForeignVenue, ws: TradingWS, order_id: str) -> None:
    """The connection is still the first one, and works."""
    assert (await ws.cancel(order_id)).id == order_id
    assert ws.statistics().connections == venue.connections == 1


@pytest.mark.parametrize("first", [ERROR % (429, 42900, "Too many requests"), ERROR % (502, 50200, "Bad gateway.")])
async def test_what_may_pass_is_tried_again(venue: ForeignVenue, first: str) -> None:
    good, bad = venue.orders(2)
    venue.answers[bad] = late(first)
    async with connect(venue.url) as ws:
        outcome = await ws.try_cancel(bad)
        assert isinstance(outcome, Canceled)
        assert len(outcome.attempts) == 2
        assert outcome.after_unanswered is ("502" in first)
        await survives(venue, ws, good)


MALFORMED = {
    "no json": "{",
    "empty": "",
    "cut": '{"id":"ID","status":200,"result":{"id":"o","cre',
    "an array": '["ID",200]',
    "no id": '{"status":200,"result":null}',
    "id is a number": '{"id":7,"status":200,"result":null}',
    "more after it": '{"id":"ID","status":200,"result":null}{}',
    "NaN": '{"id":"ID","status":NaN}',
    "deep": "[" * 60_000,
    "a word": "ok",
}
CONTRADICTING = {
    "status is a string": '{"id":"ID","status":"200","result":null}',
    "status is missing": '{"id":"ID","result":null}',
    "no result": '{"id":"ID","status":200,"result":null}',
    "result is a list": '{"id":"ID","status":200,"result":[]}',
    "result is half": '{"id":"ID","status":200,"result":{"id":"o","status":"canceled"}}',
    "an error without a code": '{"id":"ID","status":400,"result":null,"error":{"message":"No."}}',
    "a refusal without an error": '{"id":"ID","status":400,"result":null}',
    "200 with an error": '{"id":"ID","status":200,"result":null,"error":{"error_code":40408,"message":"No."}}',
    "another order": ok(id="another"),
    "another status": ok(status="open"),
    "status of another world": '{"id":"ID","status":700,"result":null,"error":{"error_code":1,"message":"?"}}',
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_answer_settles_nothing(venue: ForeignVenue, name: str) -> None:
    good, bad = venue.orders(2)
    venue.answers[bad] = always(MALFORMED[name])
    async with connect(venue.url, reply_timeout=0.2, retry=False) as ws:
        outcome = await ws.try_cancel(bad)
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, NoReply)
        assert ws.statistics().malformed == 1
        await survives(venue, ws, good)


@pytest.mark.parametrize("name", CONTRADICTING)
async def test_an_answer_that_contradicts_itself_is_unknown(venue: ForeignVenue, name: str) -> None:
    good, bad = venue.orders(2)
    venue.answers[bad] = always(CONTRADICTING[name])
    async with connect(venue.url, retry=False) as ws:
        outcome = await ws.try_cancel(bad)
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, InvalidReply)
        assert len(outcome.attempts) == 1
        await survives(venue, ws, good)


async def test_a_null_id_settles_nothing(venue: ForeignVenue) -> None:
    good, bad = venue.orders(2)
    venue.answers[bad] = always('{"id":null,"status":400,"result":null,"error":{"error_code":40408,"message":"No."}}')
    async with connect(venue.url, reply_timeout=0.2, retry=False) as ws:
        outcome = await ws.try_cancel(bad)
        assert isinstance(outcome, Unknown)
        assert ws.statistics().null_id == 1
        await survives(venue, ws, good)


async def test_binary_duplicate_stray_and_contradicting_answers(venue: ForeignVenue) -> None:
    binary, twice, stray, contradicted, good = venue.orders(5)
    venue.answers[binary] = lambda request: done(request, binary, None).encode()
    venue.answers[twice] = lambda request: [done(request, twice, None)] * 2
    venue.answers[stray] = lambda request: [done({"id": "nobody's"}, stray, None), done(request, stray, None)]
    venue.answers[contradicted] = lambda request: [
        done(request, contradicted, None),
        error(request, 404, 40401, "Order not found."),
    ]
    async with connect(venue.url, reply_timeout=0.2, retry=False) as ws:
        report = await ws.cancel_many([binary, twice, stray, contradicted])
        assert [outcome.kind for outcome in report.outcomes] == ["unknown", "canceled", "canceled", "canceled"]
        await survives(venue, ws, good)
        seen = ws.statistics()
        assert (seen.binary, seen.duplicates, seen.unknown_id, seen.contradictions) == (1, 2, 1, 1)


async def test_large_answers_come_through_whole(venue: ForeignVenue) -> None:
    order_ids = venue.orders(6)
    for number, order_id in enumerate(order_ids):
        size = (100, 60_000, 65_500, 70_000, 300_000, 1_047_000)[number]
        venue.answers[order_id] = lambda request, size=size: done(  # type: ignore[misc]  # a default binds it
            request, request["params"]["id"], None, more="e" * size
        )
    async with connect(venue.url) as ws:
        for order_id in order_ids:
            outcome = await ws.try_cancel(order_id)
            assert isinstance(outcome, Canceled)
            assert len(outcome.attempts) == 1
        assert venue.connections == 1


async def test_the_venues_pings_are_answered() -> None:
    with open_foreign_venue(ping_interval=0.05, ping_timeout=0.5) as venue:
        async with connect(venue.url) as ws:
            order_ids = venue.orders(2)
            await ws.cancel(order_ids[0])
            await trio.sleep(1)  # the venue would have hung up by now
            await survives(venue, ws, order_ids[1])


async def test_compression_is_not_offered_and_not_needed() -> None:
    with open_foreign_venue(compression="deflate") as venue:
        async with connect(venue.url) as ws:
            await ws.cancel_many(venue.orders(10))
        assert len(venue.canceled) == 10


async def test_a_venue_that_restarts_is_found_again(venue: ForeignVenue) -> None:
    watch = Remembering()
    ports = [venue.port]

    async def dial() -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", ports[-1])

    async with connect("wss://localhost", dial=dial, observer=watch) as ws:
        await ws.cancel(*venue.orders(1))
        with open_foreign_venue() as another:
            ports.append(another.port)
            await trio.to_thread.run_sync(venue.stop)
            outcome = await ws.try_cancel(*another.orders(1))
            assert isinstance(outcome, Canceled)
            assert "closed the connection (1001" in str(watch.of("connection_lost")[0][1])
            await trio.to_thread.run_sync(another.stop)


async def test_a_later_venue_that_is_not_trusted_is_tried_again(venue: ForeignVenue) -> None:
    """As behind a load balancer of which one half has the wrong certificate."""
    watch = Remembering()
    async with open_sandbox(tls=True) as other:
        ports = [venue.port]

        async def dial() -> trio.abc.Stream:
            return await trio.open_tcp_stream("127.0.0.1", ports.pop() if len(ports) > 1 else ports[0])

        async with connect("wss://localhost", dial=dial, observer=watch) as ws:
            lost, next_one = venue.orders(2)

            def swap(request: dict[str, Any]) -> str:
                del venue.answers[lost]
                ports.append(int(other.url.rpartition(":")[2]))
                raise ConnectionError("gone")  # ends the connection

            venue.answers[lost] = swap
            assert (await ws.try_cancel(lost)).off_book
            (failed,) = watch.of("connection_failed")
            assert isinstance(failed[0], HandshakeFailed)
            assert isinstance(failed[0].cause, ssl.SSLCertVerificationError)
            assert repr(ws.state) == repr(SessionState.CONNECTED)
            assert isinstance(await ws.try_cancel(next_one), Canceled)


async def test_a_thousand_under_an_interrupting_scope(venue: ForeignVenue) -> None:
    venue.delay = 0.002
    order_ids = venue.orders(1000)
    async with connect(venue.url) as ws:
        batch = ws.batch(order_ids)
        with trio.move_on_after(0.3) as scope:
            await batch.run()
        assert scope.cancelled_caught
        report = batch.report()
        assert len(report) == 1000
        with trio.move_on_after(5):
            while not batch.report().final:  # noqa: ASYNC110 - nobody rings for a report
                await trio.sleep(0.02)
        report = batch.report()
        assert report.final
        assert {outcome.request.id for outcome in report.outcomes if outcome.off_book} == set(venue.canceled)
        received = {request["params"]["id"] for request in venue.requests}
        assert {o.request.id for o in report.outcomes if o.kind == "not_sent"} == set(order_ids) - received
