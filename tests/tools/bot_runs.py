"""``python -m tests.tools.bot_runs N [--seed S] [--jobs J]``: run the bot N times, end it, look at the venue's book.

Every bot is a process of its own. The sandbox runs here: it executes some of their orders, takes up to 20 ms for a
create, drops connections and replies, and refuses now and then. A run is ended at a random moment: before the bot
quotes (1 of 20), else within half a second after it has begun. Its seed decides how and when.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import trio

from trio_cancel.sandbox import BookStatus, Fault, Faults, Sandbox, open_sandbox

BOT = Path(__file__).with_name("bot.py")
WAYS = ("SIGTERM", "SIGINT", "SIGINT, unprepared", "exception", "cancel scope inside", "cancel scope outside")
SPAN = 0.5
"""Seconds after it has begun to quote within which a bot is ended."""
STATUSES = {
    "SIGTERM": (128 + signal.SIGTERM,),
    "SIGINT": (128 + signal.SIGINT,),
    "SIGINT, unprepared": (1, 128 + signal.SIGINT),  # in a group, or not
    "exception": (1,),
    "cancel scope inside": (0,),
    "cancel scope outside": (0,),
}
"""How each of them goes out, once it quotes; 1 also where it tells of an order that was held and never placed."""
EARLY = 0.05
"""Share of the bots that are ended while they start."""
TOGETHER = 50
"""Runs at one sandbox, whose book grows with each."""
LIMIT = 45.0
"""Seconds that a run may take."""
FAULTS = Faults(
    {
        Fault.DROP_BEFORE: 0.01,
        Fault.DROP_AFTER: 0.01,
        Fault.CLOSE_AFTER: 0.01,
        Fault.CUT: 0.01,
        Fault.ERROR_503_BEFORE: 0.02,
        Fault.ERROR_503_AFTER: 0.02,
        Fault.REFUSE_429: 0.01,
        Fault.DELAYED: 0.02,
        Fault.DUPLICATED: 0.02,
    },
    delay=(0.01, 0.2),
)


@attrs.define
class Record:
    """What the runs found.

    Attributes:
        ways: how they were ended, how often.
        statuses: how they went out, for each way.
        orders: how many orders they placed.
        executed: how many of them were executed meanwhile.
        told: how many runs were told of an order that was held and never came.
        left: the orders that were on the book afterwards, and what their bots said.
        wrong: what else must not be: bots that did not end, or in another way than they had to.
    """

    ways: Counter[str] = attrs.field(factory=Counter)
    statuses: dict[str, Counter[int]] = attrs.field(factory=dict)
    early: int = 0
    orders: int = 0
    executed: int = 0
    told: int = 0
    left: list[str] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.ways.total()} runs in {self.seconds:.0f} s, {self.early} of them ended while they started"]
        for way, count in sorted(self.ways.items()):
            statuses = ", ".join(f"{times} x {status}" for status, times in sorted(self.statuses[way].items()))
            lines.append(f"  {way:<22}{count:>5}   exit status: {statuses}")
        lines.append(f"orders placed: {self.orders}, of which executed meanwhile: {self.executed}")
        lines.append(f"runs that told of an order which was held and never placed: {self.told}")
        lines.append(
            f"orders left: {len(self.left)}; bots that went out in another way than they had to: {len(self.wrong)}"
        )
        return "\n".join(lines)


async def run_many(runs: int, seed: str, jobs: int = 3, tell: Callable[[str], object] = lambda _: None) -> Record:
    """Make so many runs, several at a time; return what they found."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So it is in the background of a shell; the bots would inherit it, and never hear a Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    record = Record()
    began = trio.current_time()
    for first in range(0, runs, TOGETHER):
        numbers = iter(range(first, min(first + TOGETHER, runs)))
        async with open_sandbox(faults=FAULTS, delay=(0.0, 0.005), seed=first) as venue, trio.open_nursery() as market:
            market.start_soon(execute, venue, random.Random(seed))
            async with trio.open_nursery() as nursery:
                for _ in range(jobs):
                    nursery.start_soon(work, venue, seed, numbers, record, tell)
            market.cancel_scope.cancel()
            tell(f"{record.ways.total()} runs, {len(record.left)} orders left, {len(record.wrong)} went out wrongly")
    record.seconds = trio.current_time() - began
    return record


async def work(
    venue: Sandbox, seed: str, numbers: Iterator[int], record: Record, tell: Callable[[str], object]
) -> None:
    for number in numbers:
        await run_one(venue, f"run-{seed}-{number}", record, tell)


async def execute(venue: Sandbox, rng: random.Random) -> None:
    """Be the market: execute an order, or some of it, now and then."""
    while True:
        await trio.sleep(0.02)
        if orders := venue.book.open_orders():
            order = rng.choice(orders)
            venue.book.fill(order.id, amount=rng.choice((None, order.remaining_amount / 2)))


async def run_one(venue: Sandbox, name: str, record: Record, tell: Callable[[str], object]) -> None:
    """Run one bot to its end, and look what it has left."""
    left: list[str] = []
    wrong: list[str] = []
    rng = random.Random(name)
    way = rng.choice(WAYS)
    early = rng.random() < EARLY
    seconds = rng.uniform(0, 0.7 if early else SPAN)
    words = {"exception": "exception", "cancel scope inside": "inside", "cancel scope outside": "outside"}
    word = words.get(way, "unprepared" if way.endswith("unprepared") else "signal")
    by_signal = word in ("unprepared", "signal")
    environment = {
        **os.environ,
        "BOT": name,
        "RIPIO_API_TOKEN": venue.credentials.api_token,
        "RIPIO_API_SECRET": venue.credentials.api_secret,
    }
    bot = await trio.lowlevel.open_process(
        [sys.executable, str(BOT), venue.url, word, *([] if by_signal else [str(seconds)])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    said = bytearray()
    stderr = bytearray()
    quoting = trio.Event()

    async def listen() -> None:
        assert bot.stdout is not None
        async for chunk in bot.stdout:
            said.extend(chunk)
            if b"quoting" in said:
                quoting.set()

    async def collect() -> None:
        assert bot.stderr is not None
        async for chunk in bot.stderr:
            stderr.extend(chunk)

    async def end() -> None:
        if not early:
            await quoting.wait()
        await trio.sleep(seconds)
        bot.send_signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGINT)

    with trio.move_on_after(LIMIT) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(collect)
            if by_signal:
                nursery.start_soon(end)
            await bot.wait()
            nursery.cancel_scope.deadline = trio.current_time() + 1  # its last words
            if not quoting.is_set():
                nursery.cancel_scope.cancel()
    if limit.cancelled_caught:
        bot.kill()
        await bot.wait()
        wrong.append(f"{name} ({way} after {seconds:.3f} s) did not end within {LIMIT:g} s: {stderr!r}")
    assert bot.returncode is not None
    record.ways[way] += 1
    record.early += not quoting.is_set()
    record.statuses.setdefault(way, Counter())[bot.returncode] += 1
    orders = [order for order in venue.book if (order.external_id or "").startswith(f"{name}-")]
    record.orders += len(orders)
    told = b"may still be on the book" in stderr
    record.told += told
    if quoting.is_set() and bot.returncode not in (*STATUSES[way], *([1] if told else [])):
        wrong.append(f"{name} ({way} after {seconds:.3f} s) went out with {bot.returncode}: {stderr!r}")
    for order in orders:
        record.executed += order.status is BookStatus.EXECUTED_COMPLETELY
        if order.status.active or order.status is BookStatus.PENDING_CREATION:
            left.append(f"{order.external_id} ({order.status}), {way} after {seconds:.3f} s: {said!r} {stderr!r}")
    record.left += left
    record.wrong += wrong
    for line in (*left, *wrong):
        tell(line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.bot_runs", description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=20)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--jobs", type=int, default=3)
    arguments = parser.parse_args()
    record = trio.run(run_many, arguments.runs, arguments.seed, arguments.jobs, partial(print, flush=True))
    print(record)
    return 1 if record.left or record.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
