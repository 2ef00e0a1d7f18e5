"""The competitors: one module each, with an `open_client(job)` written as a user of that library would write it.

They all sign alike, encode and decode JSON with the fastest parser that suits them, match each reply by its id, read
the status in it, and run with the settings that serve them best (no compression, queues and buffers large enough).
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, cast

import attrs

from benchmarks.job import Job


@attrs.frozen
class Client:
    """One open connection's ways to cancel; a way that a competitor does not have is None.

    Attributes:
        one: Cancels an order when nothing else is in flight.
        task: The same in one of many tasks, while others are in flight.
        bulk: Cancels many orders with at most `IN_FLIGHT` unanswered; returns how many are canceled.
        is_canceled: Says of what `one` and `task` return whether the venue has canceled the order.
    """

    one: Callable[[str], Awaitable[object]] | None = None
    task: Callable[[str], Awaitable[object]] | None = None
    bulk: Callable[[Sequence[str]], Awaitable[int]] | None = None
    is_canceled: Callable[[object], bool] = bool


class OpenClient(Protocol):
    """Opens a connection to the venue that the job names, for as long as the block lasts."""

    def __call__(self, job: Job, /) -> AbstractAsyncContextManager[Client]:
        """Return the block."""


@attrs.frozen
class Peer:
    """One competitor: where its code is, what runs it, which works it takes part in, and its place in the charts."""

    label: str
    module: str
    runtime: Literal["trio", "asyncio", "uvloop"]
    works: tuple[str, ...] = ("single", "tasks", "bulk", "tails")
    imports: str = ""

    def load(self) -> OpenClient:
        """Import the competitor's module."""
        return cast("OpenClient", importlib.import_module(f"benchmarks.peers.{self.module}").open_client)


OURS = "ours"
BEFORE = "before"
"""Ours at another commit, whose checkout the command line names."""
BY_HAND = "trio-websocket"
AIOHTTP = "aiohttp"
AIOHTTP_WINDOW = "aiohttp-window"
WEBSOCKETS_UVLOOP = "websockets-uvloop"
WEBSOCKETS_TRIO = "websockets-trio"
BARE_STREAM = "bare-stream"
BARE_LOOP = "bare-loop"
PICOWS = "picows"

PEERS: dict[str, Peer] = {
    OURS: Peer("trio_cancel", "ours", "trio", imports="trio_cancel"),
    BEFORE: Peer("trio_cancel before", "ours", "trio", works=()),
    BY_HAND: Peer("trio-websocket by hand", "trio_websocket_by_hand", "trio", imports="trio, trio_websocket"),
    WEBSOCKETS_TRIO: Peer("websockets.trio", "websockets_trio", "trio", imports="trio, websockets.trio.client"),
    "websockets-asyncio": Peer(
        "websockets, asyncio", "websockets_asyncio", "asyncio", imports="asyncio, websockets.asyncio.client"
    ),
    WEBSOCKETS_UVLOOP: Peer(
        "websockets, uvloop", "websockets_asyncio", "uvloop", imports="uvloop, websockets.asyncio.client"
    ),
    AIOHTTP: Peer("aiohttp, uvloop", "aiohttp_client", "uvloop", imports="uvloop, aiohttp"),
    AIOHTTP_WINDOW: Peer("aiohttp, uvloop: callbacks", "aiohttp_client", "uvloop", works=("bulk", "tails")),
    PICOWS: Peer("picows, uvloop: futures", "picows_futures", "uvloop", imports="uvloop, picows"),
    "picows-callbacks": Peer("picows, uvloop: callbacks", "picows_callbacks", "uvloop", works=("bulk",)),
    "ccxt": Peer("ccxt.pro", "ccxt_exchange", "uvloop", imports="ccxt.pro"),
    BARE_STREAM: Peer("bare trio stream", "bare_trio_stream", "trio", works=("single", "call")),
    BARE_LOOP: Peer("bare trio loop, a heap of the same size", "", "trio", works=("tails",)),
}
