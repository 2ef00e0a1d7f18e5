"""The one door and what it yields: keywords, environment, request ids, the observer, statistics, the clock."""

from __future__ import annotations

import inspect
import logging
import math
import ssl
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.venues import Remembering, open_venue
from trio_cancel import (
    Canceled,
    CancelNotSent,
    CancelRequest,
    ConfigurationError,
    Credentials,
    InvalidRequest,
    InvalidSignature,
    Observer,
    OrderNotActive,
    OrderNotFound,
    OutcomeUnknown,
    RateLimited,
    UnlistedRefusal,
    VenueError,
    VenueUnavailable,
    open_trading_ws,
)
from trio_cancel._client import DEFAULT_URL
from trio_cancel._net.tls import default_ssl_context
from trio_cancel._trio.environment import Environment
from trio_cancel.sandbox import Fault
from trio_cancel.types import Statistics

CREDENTIALS = Credentials("token-nobody-sees", "s3cr3t-nobody-sees")


# The door


def test_the_keywords_are_these() -> None:
    parameters = inspect.signature(open_trading_ws).parameters
    assert list(parameters) == [
        "url",
        "credentials",
        "ssl_context",
        "dial",
        "proxy",
        "allow_insecure",
        "connect_timeout",
        "reply_timeout",
        "give_up_after",
        "retry",
        "pacer",
        "clock_offset",
        "token_field",
        "journal",
        "lease",
        "observer",
        "lookup",
        "look_up_closed",
    ]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "url")
    assert {name: p.default for name, p in parameters.items() if p.default is not None} == {
        "proxy": True,
        "allow_insecure": False,
        "connect_timeout": 10.0,
        "reply_timeout": 12.0,
        "give_up_after": 30.0,
        "lease": 3.0,
        "retry": True,
        "clock_offset": 0.0,
        "look_up_closed": False,
    }


SECONDS = [0, -1, math.inf, math.nan, -math.inf, True, "12", None, 10**400, [1]]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        *((name, value) for name in ("connect_timeout", "reply_timeout", "give_up_after") for value in SECONDS),
        *(("clock_offset", value) for value in (math.inf, math.nan, True, "Auto", "5", None, 10**400)),
        *(("retry", value) for value in ("no", 0, 1, None)),
        *(("allow_insecure", value) for value in ("no", 0, 1, None)),
        ("credentials", ("token", "secret")),
        ("credentials", "token"),
        ("ssl_context", True),
        ("ssl_context", "ca.pem"),
        ("dial", 7),
        ("pacer", 50),
        ("journal", 7),
    ],
)
def test_every_keyword_is_checked_at_once(keyword: str, value: Any) -> None:
    arguments: dict[str, Any] = {"credentials": CREDENTIALS} | {keyword: value}
    with pytest.raises(ConfigurationError, match=keyword) as caught:
        open_trading_ws("wss://localhost", **arguments)
    assert isinstance(caught.value, ValueError)
    assert "nobody-sees" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "http://localhost", "ws://example.com", "wss://", "wss://a b", "wss://u:pw@h", "wss://h#f", 7],
)
def test_a_url_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url") as caught:
        open_trading_ws(url, credentials=CREDENTIALS)
    assert "pw" not in str(caught.value)


def test_plain_ws_leaves_the_machine_only_on_request() -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure=True"):
        open_trading_ws("ws://192.0.2.1", credentials=CREDENTIALS)
    open_trading_ws("ws://192.0.2.1", credentials=CREDENTIALS, allow_insecure=True)
    open_trading_ws("ws://127.0.0.1:1", credentials=CREDENTIALS)


async def dialled(url: str | None, **keywords: Any) -> tuple[str, int]:
    """Where a session would connect to."""
    where: list[tuple[str, int]] = []

    async def dial(host: str, port: int) -> trio.abc.Stream:
        where.append((host, port))
        await trio.lowlevel.checkpoint()
        raise OSError("not here")

    with pytest.raises(Exception, match="not here"):
        async with open_trading_ws(url, dial=dial, **keywords):
            pytest.fail("there is no connection")
    return where[0]


async def test_the_url_falls_back_to_the_environment_and_then_to_the_venue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_CANCEL_URL", "wss://one.example:8443/path")
    assert await dialled(None, credentials=CREDENTIALS) == ("one.example", 8443)
    assert await dialled("wss://two.example", credentials=CREDENTIALS) == ("two.example", 443)
    monkeypatch.setenv("TRIO_CANCEL_URL", "")
    assert await dialled(None, credentials=CREDENTIALS) == ("ws-api.ripio.com", 443)
    monkeypatch.delenv("TRIO_CANCEL_URL")
    assert await dialled(None, credentials=CREDENTIALS) == ("ws-api.ripio.com", 443)
    assert DEFAULT_URL == "wss://ws-api.ripio.com"
    monkeypatch.setenv("TRIO_CANCEL_URL", "ws://one.example")
    with pytest.raises(ConfigurationError):
        open_trading_ws(credentials=CREDENTIALS)


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    monkeypatch.setenv("RIPIO_API_SECRET", "s")
    with pytest.raises(ConfigurationError, match="RIPIO_API_TOKEN"):
        open_trading_ws("wss://localhost")


async def test_credentials_fall_back_to_the_environment(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_venue() as venue:
        monkeypatch.setenv("RIPIO_API_TOKEN", venue.sandbox.credentials.api_token)
        monkeypatch.setenv("RIPIO_API_SECRET", venue.sandbox.credentials.api_secret)
        async with open_trading_ws("ws://localhost", dial=venue.dial) as ws:
            (order_id,) = venue.orders(1)
            assert (await ws.cancel(order_id)).id == order_id


def test_the_default_ssl_context_is_built_once() -> None:
    context = default_ssl_context()
    assert context is default_ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_no_secret_is_in_the_log_a_repr_or_an_error(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_venue(credentials=CREDENTIALS) as venue, venue.open() as ws:
        order_ids = venue.orders(3)
        venue.sandbox.fault_on(order_ids[0], Fault.ERROR_500_BEFORE)
        venue.sandbox.fault_on(order_ids[1], Fault.REFUSE_40011)
        venue.sandbox.fault_on(order_ids[2], Fault.MALFORMED_JSON)
        report = await ws.cancel_many(order_ids)
        await venue.cut()
        await ws.try_cancel("x")
        shown = caplog.text + repr(ws) + repr(report) + repr(ws.statistics()) + repr(vars(ws._session))
        with pytest.raises(VenueError) as caught:
            report.outcomes[1].unwrap()
        shown += repr(caught.value) + str(caught.value)
    assert caplog.records
    assert "s3cr3t" not in shown
    assert "token-nobody-sees" not in shown


# Single cancels


async def test_cancel_gives_the_order_or_raises(autojump_clock: MockClock) -> None:
    async with open_venue(full_results=True) as venue, venue.open(give_up_after=2, reply_timeout=1) as ws:
        order = venue.book.create(external_id="mine", side="sell")
        canceled = await ws.cancel(external_id="mine")
        assert (canceled.id, canceled.external_id, canceled.side, canceled.status) == (
            order.id,
            "mine",
            "sell",
            "canceled",
        )
        with pytest.raises(OrderNotActive) as closed:
            await ws.cancel(order.id)
        assert closed.value.request == CancelRequest(order.id)
        with pytest.raises(OrderNotFound):
            await ws.cancel(CancelRequest(external_id="not mine"))
        limited, down, wrong, silent = venue.orders(4)
        venue.sandbox.fault_on(limited, Fault.REFUSE_DAILY)
        with pytest.raises(RateLimited, match="Limit Exceeded"):
            await ws.cancel(limited)
        venue.sandbox.fault_on(down, *[Fault.ERROR_503_BEFORE] * 99)
        with pytest.raises(OutcomeUnknown) as unknown:
            await ws.cancel(down)
        assert isinstance(unknown.value.cause, VenueUnavailable)
        venue.sandbox.fault_on(wrong, Fault.REFUSE_UNKNOWN_CODE)
        with pytest.raises(OutcomeUnknown, match="418 41899 I am a teapot") as refused:
            await ws.cancel(wrong)
        assert isinstance(refused.value.cause, UnlistedRefusal)
        venue.failures = [OSError("down")] * 99
        await venue.cut()
        await trio.sleep(0.1)
        with pytest.raises(CancelNotSent):
            await ws.cancel(silent)


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        (("a",), {"external_id": "b"}),
        ((CancelRequest("a"),), {"external_id": "b"}),
        (("",), {}),
        ((7,), {}),
        (("a\n",), {}),
    ],
)
async def test_what_names_no_order_is_refused_and_nothing_is_sent(
    autojump_clock: MockClock, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(InvalidRequest):
            await ws.cancel(*arguments, **keywords)
        with pytest.raises(InvalidRequest):
            await ws.try_cancel(*arguments, **keywords)
        assert len(venue.log) == 0


async def test_a_cancel_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with trio.testing.assert_checkpoints():
            await ws.try_cancel("a")
        ws._session.engine.stop(OSError("over"))
        with trio.testing.assert_checkpoints():
            await ws.try_cancel("a")


async def test_many_tasks_may_cancel_at_once(autojump_clock: MockClock) -> None:
    async with open_venue(delay=(0.0, 0.5)) as venue, venue.open() as ws:
        order_ids = venue.orders(300)
        seen = {}

        async def one(order_id: str) -> None:
            seen[order_id] = await ws.cancel(order_id)

        async with trio.open_nursery() as nursery:
            for order_id in order_ids:
                nursery.start_soon(one, order_id)
        assert all(seen[order_id].id == order_id for order_id in order_ids)
        assert ws.statistics().pending == 0


async def test_every_scope_of_every_caller_is_prompt(autojump_clock: MockClock) -> None:
    async with open_venue(delay=10.0) as venue, venue.open() as ws:
        for order_id in venue.orders(20):
            before = trio.current_time()
            with trio.move_on_after(0.5) as scope:
                await ws.cancel(order_id)
            assert scope.cancelled_caught
            assert trio.current_time() == pytest.approx(before + 0.5)


# Request ids


async def test_request_ids_are_used_once(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        for _ in range(3):
            async with venue.open() as ws:
                order_ids = venue.orders(10)
                for order_id in order_ids:
                    venue.sandbox.fault_on(order_id, Fault.ERROR_500_BEFORE)
                await ws.cancel_many(order_ids)
        ids = [record.request_id for record in venue.log]
        assert len(ids) == len(set(ids)) == 60


def test_request_ids_differ_between_processes_and_restarts() -> None:
    prefixes = {Environment().id_prefix() for _ in range(1000)}
    assert len(prefixes) == 1000
    assert all(len(prefix) >= 16 and prefix.isalnum() for prefix in prefixes)


# The observer


async def test_the_observer_is_told_of_every_order_of_a_bulk(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        first, second = venue.orders(20), venue.orders(20)
        await ws.cancel_many([*first, first[0]])
        assert watch.of("request_queued") == [(CancelRequest(order_id),) for order_id in first]
        async with ws.open_cancel_stream(second) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 20
        assert watch.of("request_queued") == [(CancelRequest(order_id),) for order_id in first + second]
        assert ws.statistics().queued == 40


async def test_the_observer_is_told_everything(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue:
        async with venue.open(observer=watch) as ws:
            plain, limited, cut, left = venue.orders(4)
            await ws.cancel(plain)
            assert watch.names() == ["connection_opened", "request_queued", "request_written", "request_answered"]
            ((request, request_id, status, seconds),) = watch.of("request_answered")
            assert request == CancelRequest(plain)
            assert watch.of("request_written") == [(request, request_id)]
            assert status == 200
            assert seconds == 0.0
            venue.sandbox.fault_on(left, Fault.DELAYED)
            with trio.move_on_after(0.001):
                await ws.try_cancel(left)
            await trio.sleep(5)
            ((outcome,),) = watch.of("settled_late")
            assert isinstance(outcome, Canceled)
            venue.sandbox.fault_on(limited, Fault.REFUSE_429)
            await ws.cancel(limited)
            assert watch.of("paced") == [(5.0,)]
            venue.sandbox.fault_on(cut, Fault.DROP_AFTER)
            venue.failures = [OSError("once")]
            await ws.try_cancel(cut)
            assert len(watch.of("connection_failed")) == 1
            assert watch.of("connection_opened") == [(1,), (2,)]
        assert len(watch.of("connection_lost")) == 2


class Failing(Observer):
    """An observer that is broken."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        raise ZeroDivisionError(name)


async def test_a_broken_observer_cannot_hurt_a_cancel(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, venue.open(observer=Failing()) as ws:
        order_ids = venue.orders(20)
        venue.sandbox.fault_on(order_ids[0], Fault.DROP_BEFORE)
        venue.sandbox.fault_on(order_ids[1], Fault.REFUSE_429)
        report = await ws.cancel_many(order_ids)
        assert report.counts["canceled"] == 20
    assert "the observer failed in request_written" in caplog.text


async def test_an_observer_that_overrides_nothing_is_fine(autojump_clock: MockClock) -> None:
    class Silent(Observer):
        pass

    async with open_venue() as venue, venue.open(observer=Silent()) as ws:
        await ws.cancel_many(venue.orders(2))
    for name, value in vars(Observer).items():
        if not name.startswith("_") and inspect.isfunction(value):
            assert name in vars(Remembering), name


# Statistics


async def test_statistics_count_what_was_seen(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(reply_timeout=1, give_up_after=1.5) as ws:
        assert ws.statistics() == Statistics(connections=1, window=8)
        names = ["plain", "twice", "contradicted", "stray", "null", "malformed", "binary", "late"]
        order_ids = dict(zip(names, venue.orders(len(names)), strict=True))
        for name, fault in [
            ("twice", Fault.DUPLICATED),
            ("contradicted", Fault.CONTRADICTED),
            ("stray", Fault.STRAY_BEFORE_REPLY),
            ("null", Fault.NULL_ID),
            ("malformed", Fault.MALFORMED_JSON),
            ("binary", Fault.BINARY),
        ]:
            venue.sandbox.fault_on(order_ids[name], fault)
        for name in names[:-1]:
            await ws.try_cancel(order_ids[name])
        await trio.sleep(1)
        seen = ws.statistics()
        assert (seen.duplicates, seen.contradictions, seen.unknown_id, seen.null_id, seen.binary) == (2, 1, 1, 1, 1)
        assert seen.malformed == 1
        assert seen.queued == seen.settled == 7
        assert seen.written == seen.answered + 3 == 10
        assert seen.pending == seen.late == 0
        assert seen.window > 8
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            seen.queued = 0  # type: ignore[misc]  # that is what is tested
        venue.sandbox.fault_on(order_ids["late"], Fault.DELAYED)
        venue.sandbox.faults = attrs.evolve(venue.sandbox.faults, delay=(1.8, 1.8))
        venue.sandbox.fault_on(order_ids["late"], Fault.SILENT_BEFORE)
        outcome = await ws.try_cancel(order_ids["late"])
        assert outcome.kind == "unknown"
        await trio.sleep(1)
        assert ws.statistics().late == 1


# The clock


@pytest.mark.parametrize("skew", [-20_000, -4_000, 0, 3_000, 60_000])
async def test_the_offset_of_the_clock_is_an_interval_around_the_truth(autojump_clock: MockClock, skew: int) -> None:
    async with open_venue(clock_skew=skew) as venue, venue.open() as ws:
        assert ws.clock is not None
        assert ws.clock.low <= skew <= ws.clock.high
        assert 1000 <= ws.clock.width < 1500
        assert ws.clock.excludes_zero is (abs(skew) > 1500)


@pytest.mark.parametrize(("skew", "accepted"), [(30_000, True), (-30_000, True), (0, True)])
async def test_auto_corrects_by_the_least_amount(autojump_clock: MockClock, skew: int, accepted: bool) -> None:
    async with open_venue(clock_skew=skew) as venue:
        async with venue.open(clock_offset="auto") as ws:
            (order_id,) = venue.orders(1)
            assert ((await ws.try_cancel(order_id)).kind == "canceled") is accepted
            (record,) = venue.log.requests
            assert record.timestamp is not None
            assert abs(record.timestamp - record.received_ms) <= 1500
        if skew:
            async with venue.open() as ws:
                (order_id,) = venue.orders(1)
                with pytest.raises(InvalidSignature, match=r"at least \d+ ms (behind|ahead of)") as caught:
                    await ws.cancel(order_id)
                assert ("behind" in str(caught.value)) is (skew > 0)


async def test_without_skew_nothing_is_corrected(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(clock_offset="auto") as ws:
        assert ws._session.engine.clock.correction == 0.0


async def test_a_venue_whose_own_clock_is_fine_gets_plain_words(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.REFUSE_40011)
        with pytest.raises(InvalidSignature) as caught:
            await ws.cancel(order_id)
        assert "clock" not in str(caught.value)


# Ping


async def test_a_ping_takes_the_round_trip(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        assert await ws.ping() == 0.0
        venue.failures = [OSError("down")] * 9
        await venue.cut()
        await trio.sleep(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await ws.ping()
