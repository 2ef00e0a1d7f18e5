"""The sandbox over sockets and TLS, driven by a client that is not ours; its side door; bad options."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import ssl
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from trio_cancel import open_trading_ws
from trio_cancel._values.models import Credentials
from trio_cancel.sandbox import (
    BookStatus,
    Fault,
    FaultStatus,
    InvalidOrder,
    NoSuchOrder,
    Sandbox,
    SandboxControlError,
    open_sandbox,
    open_sandbox_control,
    serve_sandbox,
)


def signed(credentials: Credentials, request_id: str, **order: str) -> str:
    timestamp = time.time_ns() // 1_000_000
    text = f"{timestamp}{json.dumps(order, separators=(',', ':'))}"
    key = credentials.api_secret.encode()
    signature = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
    params = {"api_token": credentials.api_token, "timestamp": timestamp, "signature": signature, **order}
    return json.dumps({"id": request_id, "method": "order.cancel", "params": params})


@pytest.mark.parametrize("tls", [True, False])
async def test_a_foreign_client_cancels_over_the_socket(tls: bool) -> None:
    async with open_sandbox(tls=tls, rate=1, burst=3, full_results=True) as sandbox:
        order = sandbox.book.create(external_id="my-order-123", amount="0.5")
        sandbox.book.fill(order.id, amount="0.125")

        def client() -> list[dict[str, Any]]:
            with connect(sandbox.url, ssl=sandbox.ssl_context, compression=None) as websocket:
                assert websocket.response is not None
                assert "Date" in websocket.response.headers
                requests = [signed(sandbox.credentials, str(count), external_id="my-order-123") for count in range(4)]
                for request in requests:
                    websocket.send(request)
                return [json.loads(websocket.recv(timeout=5)) for _ in requests]

        first, *rest = await trio.to_thread.run_sync(client)
        assert first["result"]["id"] == order.id
        assert (first["result"]["executed_amount"], first["result"]["side"]) == (0.125, "buy")
        assert [answer["error"]["error_code"] for answer in rest] == [40408, 40408, 42900]
        assert sandbox.book.get(order.id).status is BookStatus.CANCELED
        with trio.fail_after(5):
            while sandbox.log.connections[0].closed_at is None:  # noqa: ASYNC110 - a log has no event
                await trio.sleep(0.01)
        assert sandbox.log.connections[0].close_code == 1000
        assert all(record.sent_at is not None for record in sandbox.log)


async def test_a_client_that_does_not_trust_it_does_not_get_in(tmp_path: Path) -> None:
    async with open_sandbox(tls=True) as sandbox:

        def client() -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(sandbox.url, ssl=ssl.create_default_context(), legacy=True)
            sandbox.write_ca(tmp_path / "ca.pem")
            trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with connect(sandbox.url.replace("127.0.0.1", "localhost"), ssl=trusting):
                pass

        await trio.to_thread.run_sync(client)
        assert sandbox.ca_pem is not None
        assert [record.upgraded_at is not None for record in sandbox.log.connections] == [True]


@pytest.mark.parametrize("tls", [True, False])
async def test_the_side_door_over_the_socket(tls: bool) -> None:
    async with open_sandbox(tls=tls) as sandbox:
        async with open_sandbox_control(sandbox.url, ssl_context=sandbox.ssl_context) as control:
            order = await control.create(external_id="B", amount="0.12345678901234567890", price=7, delay=100)
            assert order == sandbox.book.get(order.id)
            assert await control.open_orders() == []
            assert await control.open_orders(pending=True) == [order]
            market = await control.create(id="A", type="market", price=None)
            assert market.price is None
            assert (await control.fill("A", amount="0.0004", price=5)).status is BookStatus.EXECUTED_PARTIALLY
            assert await control.get("A") == sandbox.book.get("A")
            with pytest.raises(NoSuchOrder):
                await control.get(external_id="C")
            with pytest.raises(SandboxControlError, match="already"):
                await control.create(id="A")
            for wrong in (0.5, float("nan"), "", "x", 0, -1, None, True):
                with pytest.raises(SandboxControlError, match="amount"):
                    await control.create(amount=wrong)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(SandboxControlError, match="price must be a Decimal, an int or a string, not float"):
                await control.create(price=0.5)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(SandboxControlError, match="not float"):
                await control.fill("A", amount=0.5)  # type: ignore[arg-type]  # on purpose
            with pytest.raises(KeyError, match="as it is"):
                raise KeyError("as it is")
        assert len(sandbox.log) == 0
        with pytest.raises(ZeroDivisionError):
            async with open_sandbox_control(sandbox.url, ssl_context=sandbox.ssl_context):
                raise ZeroDivisionError


async def test_faults_are_switched_over_the_socket() -> None:
    async with open_sandbox() as sandbox, open_sandbox_control(sandbox.url) as control:
        order = await control.create()
        await control.fault_on_next(Fault.ERROR_503_BEFORE, Fault.UPGRADE_503)
        await control.fault_on(order.id, Fault.DROP_AFTER)
        await control.set_chances({Fault.DUPLICATED: 0.5})
        assert sandbox.faults.chances == {Fault.DUPLICATED: 0.5}
        assert await control.faults() == FaultStatus({Fault.DUPLICATED: 0.5}, {})
        with pytest.raises(SandboxControlError, match="at most 1 together"):
            await control.set_chances({Fault.DROP_AFTER: 0.6})
        with pytest.raises(SandboxControlError, match="There is no fault 'nonsense': choose from"):
            await control.fault_on_next("nonsense")  # type: ignore[arg-type]  # on purpose
        with pytest.raises(SandboxControlError, match="cannot be written as JSON"):
            await control.set_chances({Fault.DROP_AFTER: float("nan")})
        await control.clear_faults()
        assert await control.faults() == FaultStatus({}, {})
        async with open_trading_ws(sandbox.url, credentials=sandbox.credentials) as ws:
            assert len((await ws.try_cancel(order.id)).attempts) == 1


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ws://127.0.0.1", "ws://127.0.0.1:x", "http://127.0.0.1:80", "ws://[1"]
)
async def test_a_wrong_url_of_a_side_door(url: str) -> None:
    with pytest.raises(SandboxControlError, match=r"A sandbox's url looks like ws://127\.0\.0\.1:8765, not like"):
        async with open_sandbox_control(url):
            pass


async def test_the_side_door_needs_none_of_the_usual_threads() -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    async with open_sandbox() as sandbox:
        before, limiter.total_tokens = limiter.total_tokens, 1
        try:
            async with limiter:
                for host in ("127.0.0.1", "localhost"):
                    with trio.fail_after(5):
                        async with open_sandbox_control(sandbox.url.replace("127.0.0.1", host)) as control:
                            assert await control.open_orders() == []
        finally:
            limiter.total_tokens = before


async def test_no_browser_and_no_other_server_at_the_side_door() -> None:
    async with open_sandbox() as sandbox:

        def browser() -> int:
            with pytest.raises(InvalidStatus) as caught:
                connect(f"{sandbox.url}/sandbox", origin=Origin("https://evil.example"), legacy=True)
            return caught.value.response.status_code

        assert await trio.to_thread.run_sync(browser) == 403
        url = sandbox.url
    with pytest.raises(SandboxControlError, match=f"No sandbox answers at {url}/sandbox"):
        async with open_sandbox_control(url):
            pass


async def test_a_sandbox_that_ends_takes_its_side_door_with_it() -> None:
    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(partial(serve_sandbox, seed=1))
        async with open_sandbox_control(sandbox.url) as control:
            assert (await control.create(id="A")).id == "A"
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), pytest.raises(SandboxControlError, match="still running"):
                await control.get("A")


async def test_leaving_ends_every_connection_at_once() -> None:
    async with open_sandbox() as sandbox:
        websocket = await trio.to_thread.run_sync(partial(connect, sandbox.url, legacy=True))
    with pytest.raises(ConnectionClosed):
        await trio.to_thread.run_sync(partial(websocket.recv, timeout=5))
    await trio.to_thread.run_sync(websocket.close)
    assert sandbox.log.connections[0].note == "the sandbox was closed"


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = InvalidOrder("mine")
    with pytest.raises(InvalidOrder) as caught:
        async with open_sandbox(port=None):
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_what_makes_no_sense() -> None:
    for wrong in ({"delay": -1}, {"delay": (0, float("inf"))}, {"idle_timeout": 0}, {"ping_interval": -1}, {"rate": 0}):
        with pytest.raises(ValueError, match="must be"):
            async with open_sandbox(port=None, **wrong):
                pass
    async with open_sandbox(port=None) as sandbox:
        assert (sandbox.ssl_context, sandbox.ca_pem) == (None, None)
        with pytest.raises(RuntimeError, match="port=None"):
            _ = sandbox.url
        with pytest.raises(RuntimeError, match="tls=True"):
            sandbox.write_ca("nowhere")


async def test_a_port_that_is_taken() -> None:
    async with open_sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
            async with open_sandbox(port=port):
                pass
        assert caught.value.errno == errno.EADDRINUSE


async def test_tls_that_is_never_spoken_is_left() -> None:
    async with open_sandbox(tls=True) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert len(sandbox.log.connections) == 0
