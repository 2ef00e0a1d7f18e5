"""REST servers that break every rule, byte by byte: a lookup fails or tells the truth, in time, and never guesses."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import trio

from tests.tools.foreign_rest import open_foreign_rest
from tests.tools.pipe import open_pipe
from tests.tools.venues import open_venue
from trio_cancel import AlreadyClosed, Canceled, CancelRequest, Credentials, LookupFailed, open_trading_ws
from trio_cancel.lookup import OpenRestLookup, OrderState, RestLookup
from trio_cancel.sandbox import Fault, Sandbox, open_sandbox

ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
GOOD = {"id": ID, "external_id": "mine", "status": "canceled", "executed_amount": 0.1}
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

Talk = Callable[[trio.abc.Stream], Awaitable[None]]


def answer(body: bytes, head: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def order(text: str = "", **changes: Any) -> bytes:
    """The answer to a lookup; ``text`` is JSON that takes the place of the executed amount."""
    data = json.dumps(GOOD | changes)
    data = data.replace('"executed_amount": 0.1', f'"executed_amount": {text}') if text else data
    return f'{{"data":{data},"error_code":null,"message":null}}'.encode()


async def says(data: bytes, stream: trio.abc.Stream) -> None:
    while await stream.receive_some(65536):
        await stream.send_all(data)


async def says_and_ends(data: bytes, stream: trio.abc.Stream) -> None:
    await stream.receive_some(65536)
    await stream.send_all(data)


async def repeats(head: bytes, piece: bytes, stream: trio.abc.Stream, *, pause: float = 0.0) -> None:
    await stream.receive_some(65536)
    await stream.send_all(head)
    while True:
        await stream.send_all(piece)
        await trio.sleep(pause)


@asynccontextmanager
async def looking_up(talk: Talk) -> AsyncGenerator[OpenRestLookup]:
    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await talk(stream)
        except BROKEN:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = open_pipe(2**16)
        nursery.start_soon(serve, theirs)
        return ours

    async with trio.open_nursery() as nursery:
        lookup = RestLookup(base_url="http://localhost/trade", dial=dial, timeout=5)
        async with lookup.opened(credentials=Credentials("t0ken-own", "s3cret-own")) as look_up:
            yield look_up
        nursery.cancel_scope.cancel()


HTML = b"<html><body>Bad Gateway</body></html>"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD: dict[str, Talk] = {
    "nothing": lambda stream: stream.aclose(),
    "html": partial(says, answer(HTML, b"Content-Type: text/html\r\n")),
    "html 502": partial(says, answer(HTML, status=b"502 Bad Gateway")),
    "gzip": partial(says, answer(gzip.compress(order()), b"Content-Encoding: gzip\r\n")),
    "gzip bomb": partial(says, answer(gzip.compress(b" " * 2**24), b"Content-Encoding: gzip\r\n")),
    "redirect": partial(says, answer(b"", b"Location: https://evil.test/\r\n", b"302 Found")),
    "redirect with an order": partial(says, answer(order(), b"Location: /\r\n", b"307 Temporary Redirect")),
    "204": partial(says, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a body": partial(says_and_ends, answer(order(), status=b"204 No Content")),
    "205": partial(says, answer(b"", status=b"205 Reset Content")),
    "100 without end": partial(repeats, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "101": partial(says, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    "partial content": partial(says, answer(order(), status=b"206 Partial Content")),
    "chunks that are none": partial(says_and_ends, CHUNKED + b"zz\r\ngarbage\r\n"),
    "a chunk without end": partial(repeats, CHUNKED + b"ffffffff\r\n", b"x" * 65536),
    "chunks without end": partial(repeats, CHUNKED, b"1\r\nx\r\n" * 10_000),
    "chunks that stop": partial(says_and_ends, CHUNKED + b'5\r\n{"dat'),
    "a body without end": partial(repeats, b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    "a body that trickles": partial(repeats, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b" ", pause=0.5),
    "a length that is a lie": partial(says_and_ends, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + order()),
    "a length that is none": partial(says, b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + order()),
    "two lengths": partial(says, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + order()),
    "a head without end": partial(repeats, b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
    "a line without end": partial(repeats, b"HTTP/1.1 200 ", b"O" * 65536),
    "not HTTP": partial(says_and_ends, b"\x16\x03\x01\x00\x00 hello\r\n\r\n"),
    "HTTP/2": partial(says_and_ends, b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18),
    "a status that is none": partial(says_and_ends, b"HTTP/1.1 abc OK\r\n\r\n"),
    "latin-1": partial(says, answer(order().replace(b"mine", b"m\xefne"))),
    "utf-16": partial(says, answer(order().decode().encode("utf-16"))),
    "NaN": partial(says, answer(order("NaN"))),
    "Infinity": partial(says, answer(order("-Infinity"))),
    "a beyond all exponents": partial(says, answer(order("1e99999999999999999999"))),
    "a number in text": partial(says, answer(order('"0.1"'))),
    "a number in a list": partial(says, answer(order("[0.1]"))),
    "true for a number": partial(says, answer(order("true"))),
    "a leading zero": partial(says, answer(order("007"))),
    "no id": partial(says, answer(order(id=None))),
    "another id": partial(says, answer(order(id="OTHER"))),
    "a number for an id": partial(says, answer(order(id=7))),
    "no status": partial(says, answer(order(status=None))),
    "a number for a status": partial(says, answer(order(status=4))),
    "a list of orders": partial(says, answer(order().replace(b'"data":{', b'"data":[{').replace(b'},"e', b'}],"e'))),
    "an error code": partial(says, answer(order().replace(b'"error_code":null', b'"error_code":40401'))),
    "a date beyond the calendar": partial(says, answer(order(update_date="99999-01-01T00:00:00Z"))),
    "a nest": partial(says, answer(b'{"data":' + b"[" * 200_000)),
    "two documents": partial(says, answer(order() + order())),
}


@pytest.mark.parametrize("name", BAD)
async def test_whatever_it_says_is_a_failed_lookup(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(BAD[name]) as look_up:
        began = trio.current_time()
        with pytest.raises(LookupFailed) as caught:
            await look_up(CancelRequest(ID))
        assert trio.current_time() - began <= 5
        assert "own" not in repr(caught.value)
        if name != "a list of orders":
            with pytest.raises(LookupFailed):
                await look_up.open_orders()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1e2", Decimal("1E+2")),
        ("1E-7", Decimal("1E-7")),
        ("0.10000000000000000000000000000000000001", Decimal("0.10000000000000000000000000000000000001")),
        ("123456789012345678901234567890", Decimal(123456789012345678901234567890)),
        ("1" * 400, Decimal("1" * 400)),
        ("0", Decimal(0)),
        ("-0.0", Decimal("-0.0")),
        ("null", None),
    ],
)
async def test_amounts_are_exact(text: str, amount: Decimal | None, autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(partial(says, answer(order(text)))) as look_up:
        state = await look_up(CancelRequest(ID))
        assert str(state.executed_amount) == str(amount)


@pytest.mark.parametrize(
    "data",
    [
        answer(order(), b"Content-Type: text/plain\r\n"),
        answer(order(pair=None, side=None, unheard_of={"of": []})),
        answer(b"\n  " + order() + b"\r\n"),
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(order()), order()),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(order()),
        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(order()), order()),
        answer(order(), b"Connection: close\r\n"),
        answer(order(), b"Retry-After: soon\r\nDate: yesterday\r\n"),
    ],
)
async def test_what_is_odd_and_clear_is_read(data: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(partial(says, data)) as look_up:
        for _ in range(2):
            assert (await look_up(CancelRequest(ID))).on_book is False


async def test_a_status_that_is_not_known_is_neither(autojump_clock: trio.testing.MockClock) -> None:
    async with looking_up(partial(says, answer(order(status="expired")))) as look_up:
        state = await look_up(CancelRequest(ID))
        assert (state.on_book, state.raw_status) == (None, "expired")


@pytest.mark.parametrize("name", ["nothing", "html 502", "a body without end", "chunks that stop", "another id"])
async def test_a_cancel_beside_it_has_its_outcome(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_venue() as venue, looking_up(BAD[name]) as look_up, venue.open(lookup=look_up) as ws:
        began = trio.current_time()
        outcome = await ws.try_cancel("never")
        assert outcome.kind == "not_found"
        assert trio.current_time() - began <= 36
        assert isinstance(await ws.try_cancel(venue.book.create().id), Canceled)


# The truth from a server that is not ours


@pytest.mark.parametrize("base", ["/trade", "/v4"])
@pytest.mark.parametrize("by", ["id", "external_id"])
async def test_every_dont_know_ends_with_the_truth(base: str, by: str) -> None:
    """The WebSocket is the sandbox's, over TLS; the REST side is aiohttp's, over TLS, of the same book."""
    async with open_sandbox(tls=True) as sandbox:
        lost, filled, coming = (
            sandbox.book.create(external_id=f"{name} é/1", amount="0.3") for name in ("lost", "filled", "other")
        )
        late = sandbox.book.create(external_id="late", amount="0.3", delay=1.0)
        for one in (lost, filled):
            sandbox.book.fill(one.id, amount="0.1")
        sandbox.book.cancel(filled.id)
        for key in (lost.id, lost.external_id or ""):
            sandbox.fault_on(key, *[Fault.SILENT_AFTER] * 9)

        def orders(name: str, value: str) -> dict[str, Any] | None:
            return told(sandbox, **{name: value})

        certificate = sandbox._certificate
        assert certificate is not None
        async with (
            open_foreign_rest(sandbox.credentials, orders, tls=certificate.server) as server,
            open_trading_ws(
                sandbox.url,
                credentials=sandbox.credentials,
                ssl_context=sandbox.ssl_context,
                lookup=RestLookup(base_url=f"https://127.0.0.1:{server.port}{base}"),
                look_up_closed=True,
                reply_timeout=0.3,
                give_up_after=3.0,
            ) as ws,
        ):
            named = [
                CancelRequest(one.id) if by == "id" else CancelRequest(external_id=one.external_id)
                for one in (lost, filled, late, coming)
            ]
            first, second, third, fourth = (await ws.cancel_many(named)).outcomes
        assert isinstance(first, AlreadyClosed)
        assert first.after_unanswered
        assert first.order is not None
        assert (first.closed_as, first.order.executed_amount) == ("canceled", Decimal("0.1"))
        assert isinstance(second, AlreadyClosed)
        if by == "id":  # by a name, an order that was closed before may be another one
            assert second.order is not None
            assert (second.closed_as, second.order.executed_amount) == ("canceled", Decimal("0.1"))
        else:
            assert isinstance(second.seen, OrderState)
            assert second.seen.executed_amount == Decimal("0.1")
        assert isinstance(third, Canceled)
        assert isinstance(fourth, Canceled)
        assert not sandbox.book.open_orders(pending=True)


def told(sandbox: Sandbox, **named: str) -> dict[str, Any] | None:
    try:
        one = sandbox.book.get(**named)
    except KeyError:
        return None
    return {
        "id": one.id,
        "external_id": one.external_id,
        "pair": one.pair,
        "side": one.side,
        "status": str(one.status),
        "executed_amount": float(one.executed_amount),
        "update_date": datetime.fromtimestamp(one.update_date / 1000, UTC).isoformat(timespec="milliseconds"),
    }
