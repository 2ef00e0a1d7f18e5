"""Lookups against the sandbox's REST side, over sockets and over pipes, and against a server that is not ours."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
import trio
import trustme

from tests.tools.foreign_rest import open_foreign_rest
from tests.tools.pipe import open_pipe
from tests.tools.proxies import open_test_proxy
from tests.tools.venues import Venue, open_venue
from trio_cancel import (
    CancelRequest,
    ConfigurationError,
    Credentials,
    InvalidRequest,
    LookupFailed,
    Pacer,
    SessionClosed,
    open_trading_ws,
)
from trio_cancel._cli._app import run_async
from trio_cancel.lookup import OpenRestLookup, OrderState, OrderStatus, RestLookup
from trio_cancel.sandbox import Fault, Faults, RestFault, Sandbox, open_sandbox


def dial_rest(sandbox: Sandbox) -> Any:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = open_pipe(2**20)
        sandbox.accept_rest(theirs)
        return ours

    return dial


def wall() -> float:
    return 1_700_000_000 + trio.current_time()


def rest_of(venue: Venue, **keywords: Any) -> RestLookup:
    return RestLookup(base_url="http://localhost/trade", dial=dial_rest(venue.sandbox), **keywords)


@asynccontextmanager
async def looking_up(**options: Any) -> AsyncGenerator[tuple[Venue, OpenRestLookup]]:
    """A sandbox and an open lookup, both on trio's clock."""
    async with (
        open_venue(clock=lambda: int(1000 * wall()), **options) as venue,
        rest_of(venue).opened(credentials=venue.sandbox.credentials, wall_clock=wall) as look_up,
    ):
        yield venue, look_up


async def failure(look_up: OpenRestLookup, request: CancelRequest) -> LookupFailed:
    with pytest.raises(LookupFailed) as caught:
        await look_up(request)
    return caught.value


# The truth, over TLS


@pytest.mark.parametrize("base", ["/trade", "/v4"])
async def test_over_tls_with_the_sessions_credentials_and_trust(base: str) -> None:
    async with open_sandbox(tls=True, rest_port=0) as sandbox:
        order = sandbox.book.create(external_id="my-order-123", amount="0.3")
        sandbox.book.fill(order.id, amount="0.1", price="99999.5")
        lookup = RestLookup(base_url=sandbox.rest_url.replace("/trade", base))
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, ssl_context=sandbox.ssl_context, lookup=lookup
        ) as ws:
            state = await ws.look_up(order.id)
            assert state.status is OrderStatus.PARTIALLY_EXECUTED
            assert state.on_book is True
            assert (state.executed_amount, state.requested_amount) == (Decimal("0.1"), Decimal("0.3"))
            assert [(fill.amount, fill.price) for fill in state.fills] == [(Decimal("0.1"), Decimal("99999.5"))]
            await ws.cancel(order.id)
            state = await ws.look_up(external_id="my-order-123")
            assert (state.id, state.external_id, state.on_book) == (order.id, "my-order-123", False)
        assert {record.target.rpartition("/orders")[0] for record in sandbox.rest_log.requests} == {base}
        assert sandbox.rest_log.accepted == 1  # one connection, kept open


async def test_an_untrusted_certificate_is_named() -> None:
    async with (
        open_sandbox(tls=True, rest_port=0) as sandbox,
        RestLookup(base_url=sandbox.rest_url).opened(credentials=sandbox.credentials) as look_up,
    ):
        error = await failure(look_up, CancelRequest("A"))
        assert "not trusted" in str(error)
        assert "https://127.0.0.1" in str(error)


async def test_nobody_listens() -> None:
    async with RestLookup(base_url="http://127.0.0.1:9/trade").opened(credentials=Credentials("t", "s")) as look_up:
        assert "No connection to http://127.0.0.1:9" in str(await failure(look_up, CancelRequest("A")))


# A server that is not ours


@pytest.mark.parametrize("base", ["/trade", "/v4"])
@pytest.mark.parametrize("external_id", ["my-order-123", "a b/c?d#e%f+g&h;i=j", "ordem-é-ü", "%2F", "..."])
async def test_against_a_server_that_is_not_ours(base: str, external_id: str) -> None:
    authority = trustme.CA()
    server_context, client_context = _contexts(authority)
    credentials = Credentials("token", "sécret/+=")
    data = {"id": "7155ED34", "external_id": external_id, "status": "canceled", "executed_amount": 0.1}

    def orders(name: str, value: str) -> dict[str, Any] | None:
        return data if data[name] == value else None

    async with (
        open_foreign_rest(credentials, orders, tls=server_context) as server,
        RestLookup(base_url=f"https://127.0.0.1:{server.port}{base}", ssl_context=client_context).opened(
            credentials=credentials
        ) as look_up,
    ):
        state = await look_up(CancelRequest(external_id=external_id))
        assert (state.id, state.executed_amount) == ("7155ED34", Decimal("0.1"))
        assert (await look_up(CancelRequest("7155ED34"))).on_book is False
        error = await failure(look_up, CancelRequest("another"))
        assert (error.status, error.error_code) == (404, 40400)
        assert len(set(server.peers)) == 1
    other = RestLookup(base_url="http://127.0.0.1:1/trade")
    assert repr(other).count("http") == 1


def _contexts(authority: trustme.CA) -> tuple[Any, Any]:
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_wrong_credentials_are_refused_by_a_server_that_is_not_ours() -> None:
    async with (
        open_foreign_rest(Credentials("token", "secret"), lambda name, value: {}) as server,
        RestLookup(base_url=f"http://127.0.0.1:{server.port}/trade").opened(
            credentials=Credentials("token", "other")
        ) as look_up,
    ):
        assert (await failure(look_up, CancelRequest("A"))).status == 401


# What goes wrong

FAILS = {
    RestFault.ERROR_400: 400,
    RestFault.ERROR_401: 401,
    RestFault.ERROR_403: 403,
    RestFault.ERROR_404: 404,
    RestFault.ERROR_429: 429,
    RestFault.ERROR_500: 500,
    RestFault.ERROR_503: 503,
    RestFault.HTML_502: 502,
    RestFault.HTML_200: 200,
    RestFault.STALLED: None,
    RestFault.GARBAGE: None,
    RestFault.CUT: None,
    RestFault.MALFORMED_JSON: 200,
    RestFault.WRONG_SCHEMA: 200,
    RestFault.NO_DATA: 200,
    RestFault.OTHER_ORDER: None,
    RestFault.OVERSIZE: None,
}


@pytest.mark.parametrize("fault", sorted(FAILS))
@pytest.mark.parametrize("by", ["id", "external_id"])
async def test_a_fault_is_a_failed_lookup_and_the_next_one_works(
    fault: RestFault, by: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with looking_up(seed=3) as (venue, look_up):
        order = venue.book.create(external_id="mine")
        request = CancelRequest(**{by: order.id if by == "id" else "mine"})
        # A second one, for those that are sent once more.
        twice = fault in (RestFault.CUT, RestFault.GARBAGE)
        venue.sandbox.fault_on_rest(fault, *([fault] if twice else []))
        began = trio.current_time()
        error = await failure(look_up, request)
        assert error.status == FAILS[fault]
        assert trio.current_time() - began <= 5.0
        if fault is RestFault.ERROR_429:
            assert error.retry_after == 1.0
        assert (await look_up(request)).status is OrderStatus.OPEN
        assert {record.fault for record in venue.sandbox.rest_log.requests} == {fault, None}


async def test_a_connection_that_went_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        order = venue.book.create()
        venue.sandbox.fault_on_rest(RestFault.DROPPED)
        assert (await look_up(CancelRequest(order.id))).status is OrderStatus.OPEN
        assert venue.sandbox.rest_log.accepted == 2


async def test_a_slow_body_is_read(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        order = venue.book.create()
        venue.sandbox.fault_on_rest(RestFault.SLOW)
        error = await failure(look_up, CancelRequest(order.id))  # 500 bytes at 20 ms each take longer than 5 s
        assert "within 5 s" in str(error)
    async with open_venue() as venue, rest_of(venue, timeout=60).opened(credentials=venue.sandbox.credentials) as slow:
        order = venue.book.create()
        venue.sandbox.fault_on_rest(RestFault.SLOW)
        assert (await slow(CancelRequest(order.id))).status is OrderStatus.OPEN


async def test_an_unknown_status_is_neither_on_nor_off_the_book(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        order = venue.book.create()
        venue.sandbox.fault_on_rest(RestFault.OTHER_STATUS)
        state = await look_up(CancelRequest(order.id))
        assert (state.status, state.raw_status, state.on_book) == (OrderStatus.OTHER, "under_review", None)


async def test_a_replica_lags(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(rest_lag=20.0) as (venue, look_up):
        order = venue.book.create(external_id="mine")
        request = CancelRequest(external_id="mine")
        assert (await failure(look_up, request)).status == 404
        await trio.sleep(10)
        venue.book.fill(order.id, amount="0.0004")
        venue.book.cancel(order.id)
        await trio.sleep(15)
        assert (await look_up(request)).status is OrderStatus.OPEN
        await trio.sleep(10)
        state = await look_up(request)
        assert state.status is OrderStatus.CANCELED
        assert [fill.amount for fill in state.fills] == [Decimal("0.0004")]


async def test_a_reused_external_id_names_the_order_that_had_it_then(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(rest_lag=5.0) as (venue, look_up):
        first = venue.book.create(external_id="mine")
        venue.book.cancel(first.id)
        await trio.sleep(10)
        second = venue.book.create(external_id="mine")
        assert (await look_up(CancelRequest(external_id="mine"))).id == first.id
        await trio.sleep(10)
        assert (await look_up(CancelRequest(external_id="mine"))).id == second.id


async def test_a_create_that_is_queued(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        order = venue.book.create(delay=5.0)
        assert (await look_up(CancelRequest(order.id))).status is OrderStatus.PENDING_CREATION
        await trio.sleep(6)
        assert (await look_up(CancelRequest(order.id))).status is OrderStatus.OPEN


async def test_timestamps_are_checked(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(clock_skew=60_000) as (venue, look_up):
        order = venue.book.create()
        error = await failure(look_up, CancelRequest(order.id))
        assert (error.status, error.error_code) == (401, 40100)
        assert "Invalid timestamp" in str(error)
        offset = await look_up.server_time()
        assert offset.low <= 60_000 <= offset.high
        assert offset.excludes_zero


async def test_the_limit_is_shared_with_the_websocket(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(rate=1.0, burst=1) as (venue, look_up):
        order = venue.book.create()
        await look_up(CancelRequest(order.id))
        assert (await failure(look_up, CancelRequest(order.id))).status == 429


async def test_open_orders_page_by_page(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        ids = venue.orders(150)
        other = venue.book.create(pair="ETH_BRL", side="sell")
        venue.book.cancel(ids[0])
        first = await look_up.open_orders()
        second = await look_up.open_orders(2)
        assert ([first.last, second.last], len(first.orders)) == ([False, True], 100)
        assert [order.id for order in (*first.orders, *second.orders)] == [*ids[1:], other.id]
        assert [order.id for order in (await look_up.open_orders(pair="ETH_BRL", side="sell")).orders] == [other.id]
        assert (await look_up.open_orders(pair="ETH_BRL", side="buy")).orders == ()


async def test_no_secret_is_seen(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    credentials = Credentials("t0ken-very-own", "s3cret-very-own")
    async with open_venue(credentials=credentials) as venue:
        lookup = rest_of(venue, credentials=credentials)
        async with lookup.opened() as look_up:
            for fault in (None, RestFault.ERROR_401, RestFault.CUT, RestFault.CUT, RestFault.STALLED):
                venue.sandbox.fault_on_rest(fault)
            texts = [repr(await failure(look_up, CancelRequest("A"))) for _ in range(4)]
        seen = "".join([*texts, repr(lookup), repr(look_up), caplog.text])
        assert "very-own" not in seen


async def test_cancelling_a_lookup_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up() as (venue, look_up):
        order = venue.book.create()
        venue.sandbox.fault_on_rest(RestFault.STALLED)
        with trio.move_on_after(1) as scope:
            await look_up(CancelRequest(order.id))
        assert scope.cancelled_caught
        assert (await look_up(CancelRequest(order.id))).status is OrderStatus.OPEN


# Through a session


async def test_a_session_looks_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue() as venue:
        order = venue.book.create(external_id="mine")
        async with venue.open(lookup=rest_of(venue)) as ws:
            assert (await ws.look_up(order.id)).status is OrderStatus.OPEN
            assert (await ws.look_up(external_id="mine")).id == order.id
            assert (await ws.look_up(CancelRequest(order.id))).id == order.id
            with pytest.raises(InvalidRequest):
                await ws.look_up()  # type: ignore[call-overload]  # what the test is about
            with pytest.raises(LookupFailed, match="404"):
                await ws.look_up("never")
        with pytest.raises(SessionClosed):
            await ws.look_up(order.id)


async def test_a_session_without_a_lookup_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(ConfigurationError, match="lookup=RestLookup"):
            await ws.look_up("A")


async def test_a_lookup_of_ones_own(autojump_clock: trio.testing.MockClock) -> None:
    answers: list[Any] = [
        OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id="a"),
        OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id="B"),
        "canceled",
        KeyError("broken"),
        LookupFailed("no", status=500),
    ]

    async def mine(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]  # wrong on purpose, some of them

    async with open_venue() as venue, venue.open(lookup=mine) as ws:
        assert (await ws.look_up("A")).id == "a"
        for words in ("another order", "returned str", "KeyError"):
            with pytest.raises(LookupFailed, match=words):
                await ws.look_up("A")
        with pytest.raises(LookupFailed) as caught:
            await ws.look_up("A")
        assert caught.value.status == 500


async def test_a_lookup_that_never_returns_ends(autojump_clock: trio.testing.MockClock) -> None:
    async def mine(request: CancelRequest) -> OrderState:
        await trio.sleep_forever()
        raise AssertionError

    async with open_venue() as venue, venue.open(lookup=mine) as ws:
        with pytest.raises(LookupFailed, match="did not return within"):
            await ws.look_up("A")


async def test_few_lookups_are_under_way_at_once(autojump_clock: trio.testing.MockClock) -> None:
    now = most = 0

    async def mine(request: CancelRequest) -> OrderState:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1
        return OrderState(status=OrderStatus.OPEN, seen_at=1.0, id=request.id)

    async with open_venue() as venue, venue.open(lookup=mine) as ws, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ws.look_up, f"A{number}")
    assert most == 4


async def test_a_later_cancel_loses_at_most_one_interval(autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue() as venue:
        ids = venue.orders(6)
        async with venue.open(lookup=rest_of(venue), pacer=Pacer(1.0, burst=5)) as ws:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(ws.look_up, ids[5])
                await trio.sleep(0.5)
                report = await ws.cancel_many(ids[:5])
                assert report.counts["canceled"] == 5
                written = [record.received_at - began for record in venue.log.requests]
                assert max(written) <= 1.5 + 0.001  # without lookups: all of the burst at 0.5
            looked = [record.received_at - began for record in venue.sandbox.rest_log.requests]
            assert looked[0] < 0.1
            assert not [at for at in looked if 0.1 < at <= max(written)]  # none while a cancel waited


async def test_lookups_learn_from_429(autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue(rate=2.0, burst=1) as venue:
        order = venue.book.create()
        async with venue.open(lookup=rest_of(venue)) as ws:
            await ws.look_up(order.id)
            with pytest.raises(LookupFailed, match="429"):
                await ws.look_up(order.id)
            assert ws.statistics().rate == 5.0
            venue.sandbox.fault_on_rest(RestFault.ERROR_429)
            with pytest.raises(LookupFailed):
                await ws.look_up(order.id)
            before = trio.current_time()
            await ws.look_up(order.id)
            assert trio.current_time() - before >= 1.0  # Retry-After


# How it is set up


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"base_url": "ftp://host"}, "https://"),
        ({"base_url": "wss://host"}, "https://"),
        ({"base_url": 7}, "https://"),
        ({"base_url": "https://"}, "names no host"),
        ({"base_url": "https://host:0"}, "port"),
        ({"base_url": "https://user:pw@host/trade"}, "user name or password"),
        ({"base_url": "https://host/trade?x=1"}, "query"),
        ({"base_url": "https://host/trade#x"}, "fragment"),
        ({"base_url": "https://ho st/trade"}, "whitespace"),
        ({"base_url": "http://host/trade"}, "show the API token"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"credentials": "token"}, "credentials"),
        ({"ssl_context": "ca.pem"}, "ssl_context"),
        ({"dial": 7}, "dial"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        RestLookup(**keywords)
    assert "wss://" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host/trade", "https://host", "https://[::1]:8443/v4/", "http://127.0.0.1:1"])
def test_base_urls(url: str) -> None:
    assert RestLookup(base_url=url, allow_insecure=True).base_url == url


@pytest.mark.parametrize("lookup", ["https://api.ripio.com/trade", 7, {}])
def test_what_is_no_lookup_is_refused_at_once(lookup: Any) -> None:
    with pytest.raises(ConfigurationError, match="lookup must be"):
        open_trading_ws("wss://localhost", credentials=Credentials("t", "s"), lookup=lookup)


async def test_a_dial_without_an_address_cannot_connect_lookups(autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue() as venue:
        with pytest.raises(ConfigurationError, match="takes no address"):
            async with venue.open(lookup=RestLookup()):
                raise AssertionError


async def test_the_sessions_dial_connects_lookups_too() -> None:
    dialled: list[tuple[str, int]] = []

    async def dial(host: str, port: int) -> trio.abc.Stream:
        dialled.append((host, port))
        return await trio.open_tcp_stream(host, port)

    async with open_sandbox(tls=True, rest_port=0) as sandbox:
        order = sandbox.book.create()
        async with open_trading_ws(
            sandbox.url,
            credentials=sandbox.credentials,
            ssl_context=sandbox.ssl_context,
            dial=dial,
            lookup=RestLookup(base_url=sandbox.rest_url),
        ) as ws:
            await ws.look_up(order.id)
    assert len(set(dialled)) == 2


# Proxies


@pytest.mark.parametrize("exempt", ["venue.test", "rest.test", ""])
async def test_whether_a_proxy_is_used_is_judged_by_the_rest_host(
    exempt: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_sandbox(tls=True, rest_port=0) as sandbox, open_test_proxy("http") as proxy:
        order = sandbox.book.create()
        context = sandbox.ssl_context
        assert context is not None
        context.check_hostname = False
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", exempt)
        port = int(sandbox.rest_url.rpartition(":")[2].partition("/")[0])
        rest = RestLookup(base_url=f"https://rest.test:{port}/trade", timeout=5)
        for url in (sandbox.url, sandbox.url.replace("127.0.0.1", "venue.test")):
            if exempt == "venue.test" and "venue.test" in url:
                continue  # nobody can resolve it but the proxy
            proxy.asked.clear()
            async with open_trading_ws(url, credentials=sandbox.credentials, ssl_context=context, lookup=rest) as ws:
                if exempt == "rest.test":
                    with pytest.raises(LookupFailed, match="cannot be resolved"):
                        await ws.look_up(order.id)
                else:
                    assert (await ws.look_up(order.id)).status is OrderStatus.OPEN
            assert (("rest.test", port) in proxy.asked) == (exempt != "rest.test")
        # Without a session, and on the command line.
        proxy.asked.clear()
        async with rest.opened(credentials=sandbox.credentials, ssl_context=context) as look_up:
            if exempt != "rest.test":
                assert (await look_up(CancelRequest(order.id))).status is OrderStatus.OPEN
                assert proxy.asked == [("rest.test", port)]
        monkeypatch.setenv("RIPIO_API_TOKEN", sandbox.credentials.api_token)
        monkeypatch.setenv("RIPIO_API_SECRET", sandbox.credentials.api_secret)
        monkeypatch.setenv("TRIO_CANCEL_URL", sandbox.url)
        sandbox.write_ca(tmp_path / "ca.pem")
        closed = sandbox.book.cancel(sandbox.book.create().id)
        options = ["--rest-url", rest.base_url, "--ca-file", str(tmp_path / "ca.pem")]
        for words in (["show", order.id], ["cancel", "--look-up", closed.id], ["doctor"]):
            proxy.asked.clear()
            await run_async([*words, *options])
            assert (("rest.test", port) in proxy.asked) == (exempt != "rest.test")
        proxy.asked.clear()
        await run_async(["show", order.id, *options, "--proxy", "none"])
        assert proxy.asked == []
        capsys.readouterr()


async def test_an_explicit_proxy_is_used_for_both() -> None:
    async with open_sandbox(tls=True, rest_port=0) as sandbox, open_test_proxy("http") as proxy:
        order = sandbox.book.create()
        async with open_trading_ws(
            sandbox.url,
            credentials=sandbox.credentials,
            ssl_context=sandbox.ssl_context,
            proxy=f"http://127.0.0.1:{proxy.port}",
            lookup=RestLookup(base_url=sandbox.rest_url),
        ) as ws:
            assert (await ws.look_up(order.id)).status is OrderStatus.OPEN
        assert len({port for _, port in proxy.asked}) == 2


async def test_a_cancel_acts_late(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        open_venue(faults=Faults(acts_late=(8.0, 8.0))) as venue,
        rest_of(venue).opened(credentials=venue.sandbox.credentials) as look_up,
    ):
        order = venue.book.create()
        request = CancelRequest(order.id)
        venue.sandbox.fault_on(order.id, Fault.ACTS_LATE)
        async with venue.open(reply_timeout=2, retry=False) as ws:
            assert (await ws.try_cancel(order.id)).kind == "unknown"
            assert (await look_up(request)).status is OrderStatus.OPEN
            await trio.sleep(7)
            assert (await look_up(request)).status is OrderStatus.CANCELED
        assert venue.log.applied(order.id) is venue.log.requests[0]
