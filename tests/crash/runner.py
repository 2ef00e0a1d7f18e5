"""Runs children, kills them, and compares what their journals say with what the venue's book says.

Checked after each run: no order that is off the book is missing from the journal; no hold that the child was told of is
missing; after ``resume`` no order that was held is on the book, and a second ``resume`` finds nothing to do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.tools.timings import wait_for
from trio_cancel import open_trading_ws
from trio_cancel._cli import run_async
from trio_cancel.journal import JournalContents, read_journal
from trio_cancel.sandbox import SandboxControl, open_sandbox_control
from trio_cancel.sandbox._server import DEFAULT_CREDENTIALS

HERE = Path(__file__).parent
BULK, HELD = 300, 12
"""Orders of a bulk cancel, and of a scope."""
LINES = {"bulk": 16, "scope": 36}
"""Lines that a child says about its work, about; it is killed after one of them."""
LATER = 0.004
"""Seconds after that line within which it is killed."""
EARLY = 0.05
"""Share of the children that are killed while they start."""
LIMIT = 60.0
"""Seconds for a run."""


@attrs.define
class Record:
    """What the runs found.

    Attributes:
        runs: how many there were, by kind.
        moments: how far the children had come, by kind.
        orders: how many orders the children were given.
        applied: cancels that the venue had applied before ``resume``.
        held: holds that the children were told of.
        left: orders that the journals said were left.
        faults: what must not be, in words.
    """

    runs: Counter[str] = attrs.field(factory=Counter)
    moments: Counter[str] = attrs.field(factory=Counter)
    orders: int = 0
    applied: int = 0
    held: int = 0
    left: int = 0
    faults: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        moments = ", ".join(f"{count} {moment}" for moment, count in sorted(self.moments.items()))
        return (
            f"{self.runs.total()} processes killed ({self.runs['bulk']} bulk cancels, {self.runs['scope']} order "
            f"scopes; {moments}): {self.orders} orders, {self.applied} cancels applied before the successor came, "
            f"{self.held} holds, {self.left} orders left in the journals; {len(self.faults)} faults"
        )


async def run_many(runs: int, seed: str, tell: Callable[[str], object] = lambda _: None) -> Record:
    """Make so many runs; return what they found."""
    record = Record()
    os.environ["RIPIO_API_TOKEN"] = DEFAULT_CREDENTIALS.api_token
    os.environ["RIPIO_API_SECRET"] = DEFAULT_CREDENTIALS.api_secret
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as monkeypatch:
        wait_for(monkeypatch, settle=1.0, ask_again=0.1)  # this venue's creates take 0.2 s at most
        async with open_venue() as url, open_sandbox_control(url) as venue:
            for number in range(runs):
                with trio.fail_after(LIMIT):
                    run = Run(f"{seed}-{number}", url, venue, Path(directory, f"{number}.journal"), record)
                    await run.run()
                if (number + 1) % 50 == 0:
                    tell(f"{number + 1} runs, {len(record.faults)} faults")
    return record


@asynccontextmanager
async def open_venue() -> AsyncGenerator[str]:
    """Run the sandbox in a process of its own; yield its url."""
    process = await trio.lowlevel.open_process(
        [sys.executable, HERE / "venue.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.receive_some()).decode().strip()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class Run:
    """One process, from its start to its successor's end."""

    def __init__(self, seed: str, url: str, venue: SandboxControl, path: Path, record: Record) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.kind = self.rng.choice(("bulk", "scope"))
        self.url = url
        self.venue = venue
        self.path = path
        self.record = record
        self.said: list[list[str]] = []

    async def run(self) -> None:
        record = self.record
        record.runs[self.kind] += 1
        if self.kind == "bulk":
            names = [(await self.venue.create()).id for _ in range(BULK)]
        else:
            names = [f"{self.seed}-{number}" for number in range(HELD)]
        record.orders += len(names)
        await self._kill_a_child(names)
        contents = read_journal(self.path) if self.path.exists() else None
        self._note_moment(contents)
        before = await self._on_the_book()
        if contents is not None:
            record.left += len(contents.left)
            await self._resume(first=True)
            await self._resume(first=False)
        after = await self._on_the_book()
        self._check(names, contents, before, after)
        async with open_trading_ws(self.url, credentials=DEFAULT_CREDENTIALS) as ws:
            await ws.cancel_many(after.values())  # nothing of this run gets into the next one
        for file in self.path.parent.glob(f"{self.path.name}*"):
            file.unlink()

    async def _kill_a_child(self, names: list[str]) -> None:
        command = [sys.executable, str(HERE / "child.py"), self.kind, self.url, str(self.path), self.seed, *names]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        text = b""
        early = self.rng.random() < EARLY
        lines = 1 + self.rng.randrange(LINES[self.kind])  # the first one is that it is ready
        far_enough = trio.Event()

        async def listen() -> None:
            nonlocal text
            async for chunk in process.stdout:  # type: ignore[union-attr]  # as asserted
                text += chunk
                if text.count(b"\n") >= lines or b"done" in text:
                    far_enough.set()
            far_enough.set()  # it has died

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            if early:
                await trio.sleep(self.rng.uniform(0, 0.7))
            else:
                await far_enough.wait()
                await trio.sleep(self.rng.uniform(0, LATER))
            process.send_signal(signal.SIGKILL)
        if await process.wait() != -signal.SIGKILL:
            self._fault(f"the child ended by itself with {process.returncode}")
        self.said = [line.split() for line in text.decode().split("\n")[:-1]]

    def _note_moment(self, contents: JournalContents | None) -> None:
        words = [line[0] for line in self.said]
        if "ready" not in words:
            moment = "while starting"
        elif "done" in words:
            moment = "after its end"
        elif "leaving" in words:
            moment = "while a scope was left"
        elif contents is not None and contents.orders:
            moment = "in the middle"
        else:
            moment = "before its first order"
        self.record.moments[moment] += 1

    async def _on_the_book(self) -> dict[str, str]:
        """What is on the book, by external id where there is one: the venue's ids."""
        return {order.external_id or order.id: order.id for order in await self.venue.open_orders(pending=True)}

    async def _resume(self, *, first: bool) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = await run_async(["resume", str(self.path)])
        # Where the process died before it could note the venue's id, "closed" may be an older order of the name.
        kinds = {
            line["cause_type"] for line in map(json.loads, out.getvalue().splitlines()) if line["status"] == "unknown"
        }
        if status not in ((0, 1, 3) if first else (0,)) or kinds - {"NotSurelyThisOrder"}:
            self._fault(f"resume, {'first' if first else 'second'} time: status {status}: {kinds} {err.getvalue()}")

    def _check(
        self, names: list[str], contents: JournalContents | None, before: dict[str, str], after: dict[str, str]
    ) -> None:
        known = {order.request.key: order for order in contents.orders} if contents is not None else {}
        placed = {line[1] for line in self.said if line[0] == "placed"}
        held = {line[1] for line in self.said if line[0] == "held"}
        discarded = {line[1] for line in self.said if line[0] == "discarded"}
        existing = set(names) if self.kind == "bulk" else placed
        self.record.applied += len(existing - set(before) - discarded)
        self.record.held += len(held)
        for name in existing - set(after) - discarded:
            if name not in known:
                self._fault(f"{name} is off the book, and the journal does not know it")
        for name in held:
            if name not in known or not known[name].holds:
                self._fault(f"{name} was held, and the journal does not know it")
        for name in set(names) & set(after) - discarded:
            if self.kind == "scope":
                self._fault(f"{name} was held, and is on the book after resume")
            elif name in known:
                self._fault(f"the cancel of {name} was intended, and it is on the book after resume")

    def _fault(self, text: str) -> None:
        self.record.faults.append(f"run {self.seed} ({self.kind}): {text}")
