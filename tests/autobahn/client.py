"""An echo client for Autobahn's fuzzing server, over the library's own WebSocket layer. Run by hand, no test of pytest.

It uses what a connection of the library uses: ``upgrade``, ``on_texts`` for what is peeled off, ``next_message`` for
what comes the slow way (fragmented, binary, large), control frames written by the one writer. README.md beside this
file says how to run it and what the counts are.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import time
from collections import Counter
from pathlib import Path

import attrs
import trio

from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.frames import encode_texts
from trio_cancel._net.stream import ByteStream, open_stream
from trio_cancel._net.websocket import Link, upgrade
from trio_cancel._trio.wakeup import Wakeup

AGENT = "trio_cancel"
CASE_DEADLINE = 60.0
FLUSH_TIME = 1.0


def encode(message: str | bytes) -> bytes:
    """One whole client frame with the message in it."""
    if isinstance(message, str):
        return encode_texts([message.encode()], os.urandom(4))[0]
    return b"\x82" + encode_texts([message], os.urandom(4))[0][1:]


class Echo:
    """One connection that sends every message back.

    Attributes:
        peeled: payloads that came by ``on_texts``.
        slow: messages that came by ``next_message``.
    """

    def __init__(self) -> None:
        self.peeled: list[bytes] = []
        self.slow: list[str | bytes] = []
        self._bell = Wakeup()
        self._outgoing: list[bytes] = []
        self._idle = trio.Event()

    async def run(self, endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> None:
        """Serve one connection to its end."""
        stream: ByteStream | None = None
        try:
            async with trio.open_nursery() as nursery:
                link = await upgrade(
                    nursery,
                    await open_stream(endpoint, ssl_context=ssl_context),
                    endpoint,
                    on_texts=self._on_texts,
                    wake=self._bell.ring,
                    wall_clock=time.time,
                )
                stream = link.stream
                nursery.start_soon(self._write, link)
                while (message := await link.next_message()) is not None:
                    self.slow.append(message)
                    self._send(encode(message))
                await link.ended.wait()
                with trio.move_on_after(FLUSH_TIME):
                    # As a connection of the library ends: our Close leaves, and nothing stays unread.
                    self._bell.ring()
                    await self._idle.wait()
                    await stream.drain()
                nursery.cancel_scope.cancel()
        finally:
            if stream is not None:
                stream.close()

    def _on_texts(self, payloads: list[bytes]) -> None:
        self.peeled += payloads
        self._send(encode_texts(payloads, os.urandom(4 * len(payloads)))[0])

    def _send(self, frame: bytes) -> None:
        self._outgoing.append(frame)
        self._bell.ring()

    async def _write(self, link: Link) -> None:
        try:
            while True:
                await self._bell.wait()
                # What was received before the peer's Close is still answered; nothing follows our own.
                closing = link.closing
                frames, self._outgoing = self._outgoing, []
                control = link.take_control()
                chunks = frames + control if closing else control + frames
                if chunks or link.stream.pending_output:
                    await link.stream.send(chunks)
                if link.ended.is_set():
                    self._idle.set()
        except trio.BrokenResourceError:
            self._idle.set()


@attrs.frozen
class Server:
    """Autobahn's fuzzing server."""

    url: str
    ssl_context: ssl.SSLContext | None

    async def ask(self, path: str) -> Echo:
        """Serve one connection to its end."""
        echo = Echo()
        with trio.fail_after(CASE_DEADLINE):
            await echo.run(parse_endpoint(self.url + path), self.ssl_context)
        return echo


async def run_cases(server: Server, only: list[str]) -> None:
    """Run every case that the server offers, or the ones that are named."""
    count = int((await server.ask("/getCaseCount")).peeled[0])
    peeled = slow = 0
    for number in range(1, count + 1):
        case = json.loads((await server.ask(f"/getCaseInfo?case={number}")).peeled[0])["id"]
        if only and not any(f"{case}.".startswith(f"{name}.") for name in only):
            continue
        began = trio.current_time()
        echo = await server.ask(f"/runCase?case={number}&agent={AGENT}")
        peeled += len(echo.peeled)
        slow += len(echo.slow)
        seconds = trio.current_time() - began
        print(f"{case:8}{seconds:6.2f} s, echoed {len(echo.peeled)} peeled, {len(echo.slow)} slow", flush=True)
    await server.ask(f"/updateReports?agent={AGENT}")
    print(f"messages echoed: {peeled} peeled, {slow} the slow way")


def counts(reports: Path) -> str:
    """The server's verdicts by group of cases, and every case whose verdict or close is not OK, as text."""
    groups: dict[int, Counter[str]] = {}
    cases = json.loads((reports / "index.json").read_text())[AGENT]
    lines = []
    for case, verdict in cases.items():
        behaviour, close = verdict["behavior"], verdict["behaviorClose"]
        groups.setdefault(int(case.partition(".")[0]), Counter()).update((behaviour, f"close {close}"))
        if behaviour != "OK" or close != "OK":
            lines.append(f"{case}: {behaviour}, close {close}")
    lines += [
        f"group {group}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(groups[group].items()))
        for group in sorted(groups)
    ]
    return "\n".join(lines)


def main() -> None:
    """See README.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="ws://127.0.0.1:9001")
    parser.add_argument("--ca", metavar="FILE", help="trusted certificate, PEM, for a wss:// url")
    parser.add_argument("--reports", metavar="FOLDER", type=Path, help="the server's outdir: print its verdicts")
    parser.add_argument("cases", nargs="*", help="cases or groups, such as 6.4; all when left out")
    words = parser.parse_args()
    context = None if words.ca is None else ssl.create_default_context(cafile=words.ca)
    trio.run(run_cases, Server(words.url.rstrip("/"), context), words.cases)
    if words.reports is not None:
        print(counts(words.reports))


if __name__ == "__main__":
    main()
