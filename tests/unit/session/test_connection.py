"""One connection, each rule alone: how it is opened, what it says if it is not, what it takes in, why it ended."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Desk
from tests.tools.venues import open_venue
from trio_cancel import ConnectionLost, HandshakeFailed, Outcome, Unknown
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.names import Names
from trio_cancel._net.proxy import Proxy, Tunnel
from trio_cancel._session import connection as module
from trio_cancel._session.connection import Connection, ConnectOptions, probe
from trio_cancel._trio.environment import Environment

ENDPOINT = parse_endpoint("wss://venue.example/ws")


def one() -> Connection:
    return Connection(1, Desk().engine, Environment(), None)


def unexpected(what: object) -> None:
    raise AssertionError(what)


class Hanging:
    """Stands for `open_stream`: it notes what it is asked for, and never returns."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, dict[str, Any]]] = []

    async def __call__(self, endpoint: Endpoint, **options: Any) -> Any:
        self.asked.append((endpoint, options))
        await trio.sleep_forever()


@pytest.mark.parametrize("way", ["serve", "probe"])
async def test_it_is_opened_as_the_options_say(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        raise AssertionError("it is not called here")

    names, context = Names(), ssl.create_default_context()
    options = ConnectOptions(ENDPOINT, context, dial, connect_timeout=4.0, names=names)
    hanging = Hanging()
    monkeypatch.setattr(module, "open_stream", hanging)
    with pytest.raises(HandshakeFailed) as caught:
        if way == "serve":
            await one().serve(options, unexpected)
        else:
            await probe(options, Environment())
    assert hanging.asked == [(ENDPOINT, {"ssl_context": context, "dial": dial, "names": names})]
    assert trio.current_time() == 4.0
    why = ": the TCP and TLS connection was not made" if way == "serve" else ""
    assert str(caught.value) == f"No connection to {ENDPOINT.origin} within 4 s{why}."


async def test_what_is_not_made_through_a_proxy_names_both(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "open_stream", Hanging())
    tunnel = Tunnel(Proxy("http", "proxy.example", 8080, "proxy="))
    with pytest.raises(HandshakeFailed) as caught:
        await one().serve(ConnectOptions(ENDPOINT, None, tunnel), unexpected)
    assert str(caught.value) == (
        f"No connection to {ENDPOINT.origin} through the proxy {tunnel.proxy.origin} within 10 s: "
        "the TCP and TLS connection was not made."
    )


@pytest.mark.parametrize(("up", "over", "waits"), [(True, False, True), (False, False, False), (True, True, False)])
async def test_it_takes_in_what_lies_in_the_socket_while_it_lives(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, up: bool, over: bool, waits: bool
) -> None:
    connection = one()
    connection._up = up
    seen: list[object] = []

    async def take_in(progress: Any) -> None:
        seen.append(progress())
        connection._after_reading()
        seen.append(progress())
        connection._after_reading()
        seen.append(progress())
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(module, "take_in", take_in)
    if over:
        connection.end(None)
    await connection.take_in()
    assert len(set(seen)) == len(seen) == (3 if waits else 0)


async def test_a_venue_that_sends_too_much_noise_is_left_and_that_is_said(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = one()
    monkeypatch.setattr(connection._engine, "after_reading", lambda: True)
    connection._after_reading()
    assert isinstance(connection._cause, ConnectionLost)
    assert str(connection._cause) == "the venue sent too many messages that are not answers"


async def test_what_ended_the_connection_is_why_an_order_is_unknown(autojump_clock: MockClock) -> None:
    async with open_venue(delay=5.0) as venue, venue.open(retry=False) as ws, trio.open_nursery() as nursery:
        (order_id,) = venue.orders(1)
        outcomes: list[Outcome] = []

        @nursery.start_soon
        async def _() -> None:
            outcomes.append(await ws.try_cancel(order_id))

        await trio.sleep(1)
        await venue.cut()
    (outcome,) = outcomes
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, ConnectionLost)
    assert str(outcome.cause).startswith("the connection was lost before the answer came (")


class Goodbye:
    """A link, its stream and its writer, as the end of a connection sees them: what is to be said takes 0.2 s."""

    def __init__(self, *, closing: bool, poisoned: bool) -> None:
        self.closing, self.poisoned = closing, poisoned
        self.ended, self.flushed = trio.Event(), trio.Event()
        self.write_ahead = None
        self.drained = 0

    @property
    def stream(self) -> Goodbye:
        return self

    async def write(self) -> None:
        await trio.sleep(0.2)
        self.flushed.set()

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
        self.drained += 1

    async def next_message(self) -> None:
        await trio.sleep(100)


@pytest.mark.parametrize(("closing", "poisoned", "takes"), [(True, False, 0.2), (True, True, 0.0), (False, False, 0.0)])
@pytest.mark.parametrize("read", [False, True])
async def test_what_the_peer_did_wrong_is_said_before_the_end(
    autojump_clock: MockClock, closing: bool, poisoned: bool, takes: float, read: bool
) -> None:
    connection = one()
    link: Any = Goodbye(closing=closing, poisoned=poisoned)
    connection.link = link
    if read:
        link.ended.set()
        link.failure = link.close_code = None
    connection.end(None)
    async with trio.open_nursery() as nursery:
        await connection._run(nursery, link)
        assert trio.current_time() == takes
        nursery.cancel_scope.cancel()
    assert link.drained == (1 if read and takes else 0)
