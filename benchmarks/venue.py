"""The venue of the benchmarks: a picows server on uvloop that answers every cancel at once with a 200.

It runs in its own process, pinned to its own core, and is the same for every competitor. It decodes each request and
echoes the request's id and the order's id (or external id) in a reply of the documented shape; it verifies nothing, so
that it is never the bottleneck. Each reply is a frame of its own and, over TLS, a record of its own, as a venue sends
them. `GET /cpu` answers with the processor seconds that it has used, so that a run can say whether it was a bottleneck.

Once it listens it prints one line of JSON: its two URLs and the path of its certificate authority. It ends when its
standard input does, so it never outlives the run that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import pathlib
import ssl
import sys
import tempfile
import time

import msgspec
import picows
import trustme
import uvloop

from benchmarks.cores import pin

_ORDER_ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
_EXTERNAL_ID = "my-order-123"
_REPLY = (
    b'{"id":%b,"status":200,"result":{"id":%b,"create_date":"2024-03-27T13:27:19.853Z",'
    b'"update_date":"2024-03-27T13:30:45.123Z","executed_amount":0,"remaining_amount":0.001,"remaining_value":100,'
    b'"requested_amount":0.001,"requested_value":100,"total_value":100,"status":"canceled","type":"limit",'
    b'"price":100000,"pair":"BTC_BRL","external_id":%b}}'
)


class _Params(msgspec.Struct):
    id: str = _ORDER_ID
    external_id: str = _EXTERNAL_ID


class _Request(msgspec.Struct):
    id: str
    params: _Params


class Addresses(msgspec.Struct):
    """Where the venue is reached: what its process prints."""

    ws: str
    wss: str
    ca: str


_decode = msgspec.json.Decoder(_Request).decode
_quote = msgspec.json.Encoder().encode


def answer(request: bytes | memoryview) -> bytes:
    """The reply to one request.

    Raises:
        msgspec.DecodeError: The request is not a cancel.
    """
    decoded = _decode(request)
    params = decoded.params
    return _REPLY % (_quote(decoded.id), _quote(params.id), _quote(params.external_id))


class _Listener(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            transport.send(picows.WSMsgType.TEXT, answer(frame.get_payload_as_memoryview()))
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()


def _route(request: picows.WSUpgradeRequest) -> picows.WSListener | picows.WSUpgradeResponseWithListener:
    if request.path == b"/cpu":
        used = str(time.process_time()).encode()
        return picows.WSUpgradeResponseWithListener(picows.WSUpgradeResponse.create_ok_response(used), None)
    return _Listener()


async def serve(directory: pathlib.Path) -> None:
    """Serve ws:// and wss:// on two ports of the loopback interface until standard input ends."""
    authority = trustme.CA()
    ca = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    plain = await picows.ws_create_server(_route, "127.0.0.1", 0, backlog=2048)
    secure = await picows.ws_create_server(
        _route, "127.0.0.1", 0, backlog=2048, ssl=context, websocket_handshake_timeout=60
    )
    ports = [server.sockets[0].getsockname()[1] for server in (plain, secure)]
    addresses = Addresses(f"ws://127.0.0.1:{ports[0]}/", f"wss://127.0.0.1:{ports[1]}/", str(ca))
    print(msgspec.json.encode(addresses).decode(), flush=True)
    gc.freeze()
    parent_gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, parent_gone.set)
    async with plain, secure:
        await parent_gone.wait()


def main() -> None:
    """Run the venue until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.venue")
    parser.add_argument("--core", type=int, default=None)
    pin(parser.parse_args().core)
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(pathlib.Path(directory)))


if __name__ == "__main__":
    main()
