"""The sandbox exchange in a process of its own, and the handle by which the soak places orders and asks for the truth.

``python -m tests.soak.venue SEED CHANCE CA_FILE`` serves until its standard input ends. It answers lines of JSON on
standard output, one for each line of input, in order. What it says of an order comes from its book and its log.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import trio

from trio_cancel import CancelRequest
from trio_cancel.sandbox import BookError, Fault, Faults, NoSuchOrder, RequestRecord, Sandbox, open_sandbox

from .meter import Process

RARE = {Fault.STALL_BEFORE, Fault.STALL_AFTER, Fault.STOP_READING}
"""They cost a session some 25 s each: a fifth of the others' chance."""
UPGRADE, CLOSE = 0.02, 0.03
"""Chance of each fault at those points."""
FATAL = 0.002
"""Chance of a 401, which ends a session for good."""
LOG_LIMIT = 50_000
KEEP = 240.0
"""Seconds for which an order stays on the books: long enough to be asked for, so that this process stays small."""


def faults(chance: float) -> Faults:
    """Return what goes wrong: every fault there is, with this chance for each that can hit a request."""
    chances = {}
    for fault in Fault:
        share = chance if fault.point == "request" else UPGRADE if fault.point == "upgrade" else CLOSE
        chances[fault] = share / 5 if fault in RARE else share
    chances[Fault.UPGRADE_401] = FATAL
    return Faults(chances if chance else {}, hold=40.0)


class _Server:
    """Answers the lines."""

    def __init__(self, sandbox: Sandbox, nursery: trio.Nursery) -> None:
        self._sandbox = sandbox
        self._nursery = nursery
        self._placed: deque[tuple[float, str, str | None]] = deque()

    def answer(self, line: bytes) -> bytes:
        message = json.loads(line)
        result: object = getattr(self, message.pop("ask"))(**message)
        return json.dumps(result).encode() + b"\n"

    def create(self, orders: list[dict[str, Any]]) -> list[str]:
        """Place orders; ``fill``: an amount or "all"; ``fill_after``: seconds until it is filled, if it still can."""
        self._forget()
        book = self._sandbox.book
        ids = []
        for wanted in orders:
            fill, fill_after = wanted.pop("fill", None), wanted.pop("fill_after", None)
            order = book.create(amount=1, **wanted)
            ids.append(order.id)
            self._placed.append((trio.current_time(), order.id, order.external_id))
            if fill is not None and order.status.active:
                book.fill(order.id, amount=None if fill == "all" else fill)
            if fill_after is not None:
                self._nursery.start_soon(self._fill, order.id, fill_after)
        return ids

    async def _fill(self, order: str, after: float) -> None:
        await trio.sleep(after)
        with suppress(BookError):
            self._sandbox.book.fill(order)

    def truth(self, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell what became of orders: where they stand, and every request that named them or was said to."""
        return [self._truth(wanted) for wanted in orders]

    def _truth(self, wanted: dict[str, Any]) -> dict[str, Any]:
        log = self._sandbox.log
        told: dict[str, Any] = {"status": None, "executed": None}
        records: dict[int, RequestRecord] = {}
        for request_id in wanted.pop("attempts"):
            records.update((record.number, record) for record in log.by_request_id(request_id))
        with suppress(NoSuchOrder):
            order = self._sandbox.book.get(**wanted)
            told = {"status": order.status.value, "executed": str(order.executed_amount)}
            records.update((record.number, record) for record in log.by_order(order.id))
        told["records"] = [_told(records[number]) for number in sorted(records)]
        return told

    def figures(self) -> dict[str, Any]:
        """Tell how this process is."""
        log = self._sandbox.log
        return {
            "process": attrs.asdict(Process.now()),
            "connections": sum(record.closed_at is None for record in log.connections),
            "received": log.received,
            "faults": {fault.value: count for fault, count in self._sandbox.fault_counts.items()},
        }

    def _forget(self) -> None:
        # The sandbox keeps every order, as a venue does; here the run is long and the truth is asked for soon.
        book = self._sandbox.book
        while self._placed and self._placed[0][0] < trio.current_time() - KEEP:
            _, order, external_id = self._placed.popleft()
            del book._versions[order]
            if external_id is not None:
                del book._named[external_id]


def _told(record: RequestRecord) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "applied": record.applied_at is not None,
        "status": record.status,
        "error_code": record.error_code,
        "fault": record.fault,
        "answered": record.answered,
    }


async def serve(seed: int, chance: float, ca_file: str) -> None:
    """Serve until standard input ends."""
    async with (
        open_sandbox(tls=True, seed=seed, faults=faults(chance), delay=(0.0, 0.004), log_limit=LOG_LIMIT) as sandbox,
        trio.lowlevel.FdStream(os.dup(0)) as questions,
        trio.lowlevel.FdStream(os.dup(1)) as answers,
        trio.open_nursery() as nursery,
    ):
        sandbox.write_ca(ca_file)
        server = _Server(sandbox, nursery)
        await answers.send_all(json.dumps(sandbox.url).encode() + b"\n")
        async with aclosing(_lines(questions)) as lines:
            async for line in lines:
                await answers.send_all(server.answer(line))
        nursery.cancel_scope.cancel()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes]:
    buffer = bytearray()
    async for data in stream:
        buffer += data
        *lines, rest = buffer.split(b"\n")
        buffer = rest
        for line in lines:
            yield bytes(line)


@attrs.frozen
class Record:
    """What the venue's log says of one request."""

    request_id: str
    applied: bool
    status: int | None
    error_code: int | None
    fault: str | None
    answered: bool


@attrs.frozen
class Truth:
    """What the venue says of one order: where it stands (None: there is none), and every request for it."""

    status: str | None
    executed: str | None
    records: tuple[Record, ...]


class Venue:
    """The venue's process, seen from the soak's. Made by :func:`open_venue`."""

    def __init__(self, questions: trio.abc.SendStream, answers: AsyncGenerator[bytes], ca_file: Path) -> None:
        self._questions, self._answers = questions, answers
        self._turn = trio.Lock()
        self._ca_file = ca_file

    async def start(self) -> None:
        """Wait until it listens."""
        self.url: str = json.loads(await anext(self._answers))
        self.ssl_context = ssl.create_default_context(cafile=self._ca_file)

    async def _ask(self, ask: str, **words: object) -> Any:
        # Shielded: who is cancelled between question and answer would leave the answer to the next.
        with trio.CancelScope(shield=True), trio.fail_after(60):
            async with self._turn:
                await self._questions.send_all(json.dumps({"ask": ask, **words}).encode() + b"\n")
                return json.loads(await anext(self._answers))

    async def create(self, orders: list[dict[str, Any]]) -> list[str]:
        """Place orders; return their ids. See :meth:`_Server.create`."""
        ids: list[str] = await self._ask("create", orders=orders)
        return ids

    async def truth(self, orders: Iterable[tuple[CancelRequest, list[str]]]) -> list[Truth]:
        """Ask what became of orders, each with the ids of the requests that were made for it."""
        asked = [
            {"id": request.id, "attempts": attempts}
            if request.id is not None
            else {"external_id": request.external_id, "attempts": attempts}
            for request, attempts in orders
        ]
        answers = await self._ask("truth", orders=asked)
        return [Truth(t["status"], t["executed"], tuple(Record(**record) for record in t["records"])) for t in answers]

    async def figures(self) -> dict[str, Any]:
        """Ask how the venue's process is."""
        figures: dict[str, Any] = await self._ask("figures")
        return figures


@asynccontextmanager
async def open_venue(seed: int, chance: float) -> AsyncGenerator[Venue]:
    """Run the venue in a process of its own."""
    with TemporaryDirectory(prefix="trio-cancel-soak-") as folder:
        ca_file = Path(folder, "ca.pem")
        command = [sys.executable, "-W", "error", "-m", "tests.soak.venue", str(seed), str(chance), str(ca_file)]
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with process.stdout, aclosing(_lines(process.stdout)) as answers, process.stdin:
                venue = Venue(process.stdin, answers, ca_file)
                await venue.start()
                yield venue
            with trio.move_on_after(5):
                await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
