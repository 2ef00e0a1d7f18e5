"""A scripted client for the sandbox, on wsproto over memory streams, at a time that the mock clock gives."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, TextMessage
from wsproto.events import Request as UpgradeRequest
from wsproto.utilities import RemoteProtocolError

from trio_cancel.sandbox import Sandbox, SandboxOptions, open_sandbox

START = 1_700_000_000_000


def clock() -> int:
    return START + round(trio.current_time() * 1000)


@attrs.define
class Client:
    """A scripted client on wsproto: what came, in order, as short words, until the sandbox ends the stream."""

    stream: trio.abc.Stream
    protocol: WSConnection = attrs.Factory(lambda: WSConnection(ConnectionType.CLIENT))
    seen: list[Any] = attrs.Factory(list)
    raw: bytes = b""
    answers_close: bool = True
    ended_at: float | None = None

    async def open(self, path: str = "/", **headers: str) -> None:
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.stream.send_all(self.protocol.send(UpgradeRequest("sandbox", path, extra_headers=extra)))
        await wait_all_tasks_blocked()

    async def cancel(self, sandbox: Sandbox, request_id: str, **order: str) -> None:
        signed = f"{clock()}{json.dumps(order, separators=(',', ':'))}"
        key = sandbox.credentials.api_secret.encode()
        signature = base64.b64encode(hmac.digest(key, signed.encode(), hashlib.sha256)).decode()
        params = {"api_token": sandbox.credentials.api_token, "timestamp": clock(), "signature": signature, **order}
        await self.say(json.dumps({"id": request_id, "method": "order.cancel", "params": params}))

    async def say(self, text: str) -> None:
        await self.stream.send_all(self.protocol.send(TextMessage(text)))

    async def read(self) -> None:
        text = ""
        while data := bytes(await self.stream.receive_some()):
            self.raw += data
            if self.protocol.state in (ConnectionState.CLOSED, ConnectionState.REJECTING):
                continue
            try:
                self.protocol.receive_data(data)
                for event in self.protocol.events():
                    match event:
                        case AcceptConnection():
                            self.seen.append("open")
                        case RejectConnection(status_code=status):
                            self.seen.append(status)
                        case TextMessage(data=part, message_finished=finished):
                            text += part
                            if finished:
                                self.seen.append(text)
                                text = ""
                        case BytesMessage():
                            self.seen.append("binary")
                        case Ping():
                            self.seen.append("ping")
                            if self.protocol.state is ConnectionState.OPEN:
                                await self.stream.send_all(self.protocol.send(event.response()))
                        case CloseConnection(code=code):
                            broken = self.protocol.state is ConnectionState.OPEN
                            self.seen.append(f"broken {code}" if broken else f"close {code}")
                            if self.protocol.state is ConnectionState.REMOTE_CLOSING and self.answers_close:
                                await self.stream.send_all(self.protocol.send(event.response()))
            except RemoteProtocolError:
                self.seen.append("garbage")
        self.ended_at = trio.current_time()

    @property
    def replies(self) -> list[tuple[Any, ...]]:
        """What was said, as (id, status, error code); what is no such reply stays as it came."""
        said = []
        for item in self.seen:
            try:
                document = json.loads(item)
                said.append((document["id"], document["status"], (document.get("error") or {}).get("error_code")))
            except (TypeError, ValueError, KeyError, AttributeError):
                said.append(item)
        return said


@asynccontextmanager
async def world(**options: Any) -> AsyncGenerator[tuple[Sandbox, Client, trio.Nursery]]:
    settings: SandboxOptions = {"port": None, "clock": clock, "seed": 1, "ping_interval": None}
    async with open_sandbox(**{**settings, **options}) as sandbox, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        client = Client(ours)
        nursery.start_soon(client.read)
        yield sandbox, client, nursery
        nursery.cancel_scope.cancel()
