"""The opening of a connection at the sandbox: the upgrade request, its answer, and what can go wrong on purpose.

The connection's own task runs this under its own deadline. If it is cancelled anywhere, it leaves a stream that can
only be closed, which its caller does.
"""

from __future__ import annotations

import random
import re
from email.utils import formatdate
from http import HTTPStatus

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import RemoteProtocolError

from trio_cancel.sandbox._delivery import PING, TEXT, frame
from trio_cancel.sandbox._faults import Fault, Faults

READ_SIZE = 64 * 1024
WHOLE_HEAD = re.compile(rb"(?:(?!\n\r?\n).)*\n\r?\n", re.DOTALL)
STATUS = {
    Fault.UPGRADE_401: 401,
    Fault.UPGRADE_403: 403,
    Fault.UPGRADE_429: 429,
    Fault.UPGRADE_503: 503,
    Fault.UPGRADE_ENDLESS: 503,
}


class NoUpgrade(Exception):
    """The connection did not become a WebSocket; the text says why."""


@attrs.frozen
class Upgrade:
    """An upgrade request that could be granted."""

    websocket: WSConnection
    path: str
    from_browser: bool


def response(status: int, headers: dict[str, str], body: bytes = b"", *, endless: bool = False) -> bytes:
    """Return an HTTP response that ends its connection; an ``endless`` one promises more body than it has."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [] if endless else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_upgrade(stream: trio.abc.Stream) -> Upgrade:
    """Read the upgrade request.

    Raises:
        NoUpgrade: if the stream ends, or contains something else; a 400 has been sent if possible.
        trio.BrokenResourceError, trio.ClosedResourceError: as the stream does.
    """
    websocket = WSConnection(ConnectionType.SERVER)
    head = b""  # the HTTP parser bounds it
    while True:
        data = bytes(await stream.receive_some(READ_SIZE))
        head += data
        if not data:
            raise NoUpgrade("the client left before its upgrade request was complete")
        try:
            websocket.receive_data(data)
            for event in websocket.events():
                if isinstance(event, Request):
                    if not WHOLE_HEAD.fullmatch(head):
                        raise ValueError("something follows it that may only follow the 101")  # wsproto would lose it
                    origin = any(name.lower() == b"origin" for name, _ in event.extra_headers)
                    return Upgrade(websocket, event.target.partition("?")[0], origin)
            continue
        except (RemoteProtocolError, ValueError) as error:  # UnicodeError in a header is a ValueError
            problem = error
        await stream.send_all(response(400, {}, b"This is a WebSocket server.\n"))
        raise NoUpgrade(f"no upgrade request: {problem}") from problem


async def answer_upgrade(
    stream: trio.abc.Stream, upgrade: Upgrade, now: int, fault: Fault | None, faults: Faults, rng: random.Random
) -> None:
    """Answer an upgrade request at Unix time ``now`` (ms): with 101, or as the fault says.

    Raises:
        NoUpgrade: if the fault says so.
        trio.BrokenResourceError, trio.ClosedResourceError: as the stream does.
    """
    # Source of the headers: _venue/contract.md, "Connection". A Date has whole seconds, rounded down.
    dated = {"Date": formatdate(now // 1000, usegmt=True), "uWebSockets": "20"}
    if fault is not None and fault in STATUS:
        status = STATUS[fault]
        endless = fault is Fault.UPGRADE_ENDLESS
        if faults.retry_after is not None and status in (429, 503):
            dated["Retry-After"] = f"{faults.retry_after:g}"
        await stream.send_all(response(status, dated, f"{fault}\n".encode(), endless=endless))
        if endless:
            await _trickle_on(stream, faults)
        raise NoUpgrade(str(fault))
    accepted = upgrade.websocket.send(
        AcceptConnection(extra_headers=[(name.encode(), value.encode()) for name, value in dated.items()])
    )
    match fault:
        case None:
            await stream.send_all(accepted)
            return
        case Fault.UPGRADE_GLUED:
            stray = b'{"id":null,"status":503,"result":null,"error":{"error_code":50300,"message":"Starting."}}'
            await stream.send_all(accepted + frame(TEXT, stray) + frame(PING, b"glued"))
            return
        case Fault.UPGRADE_SILENT:
            await trio.sleep(faults.hold)
        case Fault.UPGRADE_GARBAGE:
            await stream.send_all(rng.randbytes(64).replace(b"\n", b"?") + b"\r\n\r\n\x00garbage\r\n\r\n")
        case Fault.UPGRADE_WRONG_ACCEPT:
            await stream.send_all(_with_wrong_key(accepted))
        case Fault.UPGRADE_CUT:
            await stream.send_all(accepted[: rng.randrange(1, len(accepted) - 4)])
    raise NoUpgrade(str(fault))


async def _trickle_on(stream: trio.abc.Stream, faults: Faults) -> None:
    with trio.move_on_after(faults.hold):
        while True:  # bounded by the hold
            await trio.sleep(max(faults.trickle, 0.01))
            await stream.send_all(b"." * 64)


def _with_wrong_key(accepted: bytes) -> bytes:
    return re.sub(rb"(?i)(sec-websocket-accept:)[^\r]*", rb"\1 d3JvbmcgYWNjZXB0IGtleSE9PT0=", accepted)
