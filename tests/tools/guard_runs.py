"""``python -m tests.tools.guard_runs SCENARIO N [--seed S]``: bots, guards and databases that die, stop, or go silent.

A run has a bot that quotes at a sandbox, guards, and a PostgreSQL server, each a process of its own, and a bystander:
a session with ten orders and a journal of its own. What happens to them, and when, comes from the run's seed. In the
end the bot is dead, and the guards and a database work. Checked after each run:

- No order of the bot is on the book, unless its journal names it as left.
- Every order of the bystander is on the book, and its session still has its journal.
- The database has every hold that the bot was told of.
- A session that was taken over has said so; nothing has ended with a traceback that it must not have.

``restarts N`` restarts the database N times under one bot, which must never be taken over. ``all`` is every scenario,
but for ``restarts``. With an asynchronous standby holds that were acknowledged can be lost: there they are counted, and
no fault, unless the standby had them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from tests.tools.postgres import Cluster, Database, a_cluster
from tests.tools.proxy import Proxy, open_proxy
from trio_cancel import TradingWS, open_trading_ws
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import Sandbox, open_sandbox
from trio_cancel.types import LeaseState

BOT = Path(__file__).with_name("guard_bot.py")
LEASE = 1.0
"""Seconds; of the bot. The guards' own is 3 s, and so is the bystander's, which shares a process with all the rest."""
STOPPED = 10 / 3 * LEASE
"""Seconds for which a process is stopped, or a connection silent: as 10 s are to a lease of 3 s."""
LIMIT = 120.0
"""Seconds that a run may take."""
BYSTANDERS = 10


@attrs.define
class Record:
    """What the runs of a scenario found.

    Attributes:
        runs: how many there were.
        orders: how many orders the bots placed.
        held: holds that the bots were told of.
        canceled: orders that guards canceled.
        reported: orders that were on the book in the end: named as left, or else a fault, unless their holds were lost.
        lost: acknowledged holds that the database did not have in the end.
        restarts: of the database.
        taken: take-overs that a session was told of.
        spared: sessions that were silent for long and not taken over.
        seconds: for each run, from the bot's end to an empty book.
        faults: what must not be, in words.
    """

    scenario: str
    runs: int = 0
    orders: int = 0
    held: int = 0
    canceled: int = 0
    reported: int = 0
    lost: int = 0
    restarts: int = 0
    taken: int = 0
    spared: int = 0
    seconds: list[float] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.scenario}: {self.runs} runs, {self.orders} orders, {self.held} acknowledged holds, "
            f"{self.canceled} canceled by guards, {self.reported} on the book in the end, {self.lost} holds lost, "
            f"{self.taken} sessions that said they were taken over, {self.spared} that were spared, "
            f"{self.restarts} restarts; {len(self.faults)} faults"
        )
        if self.seconds:
            median, most = statistics.median(self.seconds), max(self.seconds)
            text += f"; from the bot's end to an empty book {median:.2f} s (median), {most:.2f} s (most)"
        return text


class Bot:
    """A bot in a process of its own, and what it has said."""

    def __init__(self, process: trio.Process, prefix: str) -> None:
        self.process = process
        self.prefix = prefix
        self.lines: list[list[str]] = []
        self.stderr = b""
        self.changed = trio.Condition()
        self.ended_at = 0.0

    def said(self, word: str) -> list[str]:
        return [line[-1] for line in self.lines if line[0] == word]

    async def wait_for(self, word: str, times: int) -> None:
        """Wait until it has said this so often."""
        async with self.changed:
            while len(self.said(word)) < times:
                assert self.process.returncode is None, self.stderr
                await self.changed.wait()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode().split() for line in lines]
            async with self.changed:
                self.changed.notify_all()
        async with self.changed:
            await self.process.wait()
            self.changed.notify_all()

    async def collect(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.stderr += chunk

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.ended_at = time.monotonic()


class Guard:
    """A guard in a process of its own, and the lines that it has printed."""

    def __init__(self, process: trio.Process, out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    def outcomes(self) -> list[dict[str, object]]:
        lines = self._out.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")


class Run:
    """One run: what there is, and what is checked in the end."""

    def __init__(self, name: str, sandbox: Sandbox, cluster: Cluster, folder: Path, record: Record) -> None:
        self.name = name
        self.rng = random.Random(name)
        self.sandbox = sandbox
        self.cluster = cluster
        self.folder = folder
        self.record = record
        self.database: Database = cluster.new_database()
        self.guards: list[Guard] = []
        self.bot: Bot
        self.bystander: TradingWS
        self._nursery: trio.Nursery

    def fault(self, text: str) -> None:
        self.record.faults.append(f"{self.record.scenario} {self.name}: {text}")

    def url(self, journal: str = "", port: int | None = None, *, second: Cluster | None = None) -> str:
        """Return an address; with a second server, that of both."""
        url = self.database.url(journal, port=port)
        if second is not None:
            url = url.replace(f":{self.cluster.port}/", f":{self.cluster.port},127.0.0.1:{second.port}/")
        return url

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRIO_CANCEL_", "RIPIO_"))}
        credentials = self.sandbox.credentials
        return kept | {"RIPIO_API_TOKEN": credentials.api_token, "RIPIO_API_SECRET": credentials.api_secret}

    @asynccontextmanager
    async def world(self, second: Cluster | None = None) -> AsyncGenerator[None]:
        """Have a bystander for the block; whatever was started in it ends with it."""
        address = self.url("bystander", second=second)
        async with trio.open_nursery() as self._nursery:
            try:
                async with (
                    open_trading_ws(
                        self.sandbox.url, credentials=self.sandbox.credentials, journal=address
                    ) as self.bystander,
                    self.bystander.open_order_scope() as orders,
                ):
                    for number in range(BYSTANDERS):
                        name = f"{self.name}-bystander-{number}"
                        await orders.add(external_id=name)
                        orders.placed(external_id=name, id=self.sandbox.book.create(external_id=name).id)
                    yield
                    self._check_bystander()
            finally:
                with trio.CancelScope(shield=True):
                    for guard in self.guards:
                        await _end(guard.process)
                    if hasattr(self, "bot"):
                        await _end(self.bot.process)
                self._nursery.cancel_scope.cancel()

    async def start_guard(self, port: int | None = None, *, second: Cluster | None = None) -> Guard:
        """Start a guard, and wait until it looks."""
        number = len(self.guards)
        out, err = (self.folder / f"{self.name}-{number}.{end}" for end in ("out", "err"))
        command = [
            "guard",
            self.url(port=port, second=second),
            "--credentials",
            str(self.folder / "accounts"),
            "--json",
        ]
        with out.open("wb") as stdout, err.open("wb") as stderr:  # noqa: ASYNC230, RUF100 - they are empty
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "trio_cancel", *command], env=self.environment, stdout=stdout, stderr=stderr
            )
        guard = Guard(process, out, err)
        self.guards.append(guard)
        served = "SELECT count(DISTINCT guard) FROM trio_cancel.guard_account"
        await self.until(lambda: self.database.execute(served)[0][0] > number)
        return guard

    async def start_bot(self, port: int | None = None, *, second: Cluster | None = None, stop_after: int = -1) -> Bot:
        """Start the bot, and wait until it quotes."""
        prefix = f"{self.name}-bot"
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, str(BOT), self.sandbox.url, self.url("bot", port=port, second=second)),
                *(str(LEASE), prefix, str(stop_after)),
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.bot = Bot(process, prefix)
        self._nursery.start_soon(self.bot.listen)
        self._nursery.start_soon(self.bot.collect)
        await self.bot.wait_for("held", 1 if stop_after >= 0 else self.rng.randrange(5, 25))
        return self.bot

    async def until(self, condition: Callable[[], object], within: float = 60.0) -> bool:
        """Wait for what others do; return False if they do not do it in time."""
        with trio.move_on_after(within):
            while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110, RUF100 - another process's doing
                await trio.sleep(0.02)
            return True
        return False

    def on_the_book(self) -> list[str]:
        orders = self.sandbox.book.open_orders(pending=True)
        return [name for order in orders if (name := order.external_id or "").startswith(self.bot.prefix)]

    async def pause(self, most: float, least: float = 0.0) -> None:
        await trio.sleep(self.rng.uniform(least, most))

    async def signal_for(self, process: trio.Process, seconds: float) -> None:
        """Stop a process for a time."""
        process.send_signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    async def expect_taken_over(self) -> None:
        """The session learns that it was taken over, and its program hears of it; unless no guard saw it for so long.

        A guard that does not look often enough, as on a machine that is busy, starts its wait anew.
        """
        epoch = "SELECT max(s.number) FROM trio_cancel.session s JOIN trio_cancel.journal j ON j.id = s.journal "
        if self.database.execute(epoch + "WHERE j.name = 'bot'") == [(1,)]:
            self.record.spared += 1
            return
        with trio.move_on_after(60) as scope:
            await self.bot.process.wait()
        self.bot.ended_at = time.monotonic()
        if scope.cancelled_caught:
            self.fault("the bot did not end after it was taken over")
        elif self.bot.process.returncode != 1 or b"TakenOver" not in self.bot.stderr:
            self.fault(f"the bot ended with {self.bot.process.returncode}: {self.bot.stderr.decode()[-500:]}")
        else:
            self.record.taken += 1

    async def settle(self, cluster: Cluster | None = None, *, loses: bool = False, safe: Sequence[str] = ()) -> None:
        """Wait until the book has nothing of the bot any more, and check.

        Args:
            cluster: the server that is in charge; the run's own unless given.
            loses: acknowledged holds may be missing.
            safe: but none of these.
        """
        self.bot.kill()
        await self.bot.process.wait()
        database = self.database if cluster is None else Database(cluster, self.database.name)
        cleared = await self.until(lambda: not self.on_the_book(), 10.0 if loses else 60.0)
        record, bot = self.record, self.bot
        if cleared:
            record.seconds.append(time.monotonic() - bot.ended_at)
        await trio.sleep(0.1)
        journal = await trio.to_thread.run_sync(read_journal, database.url("bot"))
        known = {order.request.key for order in journal.orders}
        known |= {row[0] for row in database.execute("SELECT key FROM trio_cancel.hold")}
        held = bot.said("held")
        lost = [name for name in held if name not in known]
        left = {order.request.external_id or order.request.key for order in journal.left}
        stand = self.on_the_book()
        record.held += len(held)
        record.orders += len(bot.said("placed"))
        record.lost += len(lost)
        record.reported += len(stand)
        record.canceled += sum(
            outcome.get("status") == "canceled" for guard in self.guards for outcome in guard.outcomes()
        )
        if lost and not loses:
            self.fault(f"the database does not have {len(lost)} of {len(held)} acknowledged holds: {lost}")
        if gone := [name for name in lost if name in safe]:
            self.fault(f"the standby had these holds, and they are lost: {gone}")
        for name in stand:
            if name not in left and not (loses and name in lost):
                self.fault(f"{name} is on the book, and nobody says so")
        for guard in self.guards:
            if "Traceback" in guard.stderr:
                self.fault(f"a guard said {guard.stderr[-800:]}")
        record.runs += 1

    def _check_bystander(self) -> None:
        open_ones = [
            name
            for order in self.sandbox.book.open_orders()
            if (name := order.external_id or "").startswith(f"{self.name}-bystander-")
        ]
        if len(open_ones) != BYSTANDERS:
            self.fault(f"{BYSTANDERS - len(open_ones)} orders of another journal were touched")
        if self.bystander.lease is LeaseState.TAKEN_OVER:
            self.fault("a session that lives was taken over")


async def _end(process: trio.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


# What can happen


async def kill_session(run: Run) -> None:
    async with run.world():
        await run.start_guard()
        bot = await run.start_bot()
        await run.pause(0.3)
        bot.kill()
        await run.settle()


async def kill_guard(run: Run) -> None:
    """One of two, while the bot lives."""
    async with run.world():
        first, _second = await run.start_guard(), await run.start_guard()
        bot = await run.start_bot()
        await run.pause(0.5)
        first.process.kill()
        await run.pause(2 * LEASE)
        if bot.process.returncode is not None:
            run.fault(f"the bot has ended: {bot.stderr!r}")
        bot.kill()
        await run.settle()


async def kill_both(run: Run) -> None:
    """The bot, and a guard as it takes over."""
    async with run.world():
        first, second = await run.start_guard(), await run.start_guard()
        bot = await run.start_bot()
        bot.kill()
        taken = "SELECT 1 FROM trio_cancel.session WHERE prefix LIKE 'guard-%'"
        if run.rng.random() < 0.7:
            await run.until(lambda: run.database.execute(taken))
            await run.pause(0.05)
        else:
            await run.pause(2 * LEASE)
        run.rng.choice((first, second)).process.kill()
        await run.settle()


async def stop_session(run: Run) -> None:
    async with run.world():
        await run.start_guard()
        bot = await run.start_bot()
        await run.pause(0.3)
        await run.signal_for(bot.process, STOPPED)
        await run.expect_taken_over()
        await run.settle()


async def stop_guard(run: Run) -> None:
    """The only one; sometimes the bot dies meanwhile."""
    async with run.world():
        guard = await run.start_guard()
        bot = await run.start_bot()
        await run.pause(0.5)
        dies_at = run.rng.choice((None, run.rng.uniform(0, STOPPED)))
        guard.process.send_signal(signal.SIGSTOP)
        await trio.sleep(STOPPED if dies_at is None else dies_at)
        if dies_at is not None:
            bot.kill()
            await trio.sleep(STOPPED - dies_at)
        guard.process.send_signal(signal.SIGCONT)
        if dies_at is None:
            await run.pause(2 * LEASE, LEASE)
            if bot.process.returncode is not None:
                run.fault(f"the bot has ended: {bot.stderr!r}")
        await run.settle()


async def stop_between(run: Run) -> None:
    """The bot stands still between ``add`` and placing, and places once it is taken over."""
    async with run.world():
        await run.start_guard()
        stop_after = run.rng.randrange(0, 10)
        bot = await run.start_bot(stop_after=stop_after)
        await bot.wait_for("stopping", 1)
        await run.pause(STOPPED, STOPPED / 2)
        bot.process.send_signal(signal.SIGCONT)
        await run.expect_taken_over()
        await run.settle()


async def _black_hole(run: Run, proxy: Proxy, seconds: float) -> None:
    proxy.accepting = False
    for wire in proxy.wires:
        wire.black_hole()
    await trio.sleep(seconds)
    for wire in proxy.wires:
        wire.there.set(open=True)
        wire.back.set(open=True)
    proxy.accepting = True


async def hole_session(run: Run) -> None:
    """The bot does not reach the database any more, and lives; or for a moment only."""
    async with run.world(), open_proxy(run.cluster.port) as proxy:
        await run.start_guard()
        bot = await run.start_bot(proxy.port)
        await run.pause(0.3)
        short = run.rng.random() < 0.3
        await _black_hole(run, proxy, run.rng.uniform(0.05, 0.3) * LEASE if short else STOPPED)
        if short:
            await run.pause(2 * LEASE, LEASE)
            bot.kill()
        else:
            await run.expect_taken_over()
        await run.settle()


async def hole_guard(run: Run) -> None:
    """The guard does not reach the database; sometimes the bot dies meanwhile."""
    async with run.world(), open_proxy(run.cluster.port) as proxy:
        await run.start_guard(proxy.port)
        bot = await run.start_bot()
        await run.pause(0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_black_hole, run, proxy, STOPPED)
            if run.rng.random() < 0.5:
                await run.pause(STOPPED)
                bot.kill()
        if bot.ended_at == 0.0:
            await run.pause(2 * LEASE, LEASE)
            if bot.process.returncode is not None:
                run.fault(f"the bot has ended: {bot.stderr!r}")
        await run.settle()


async def _start(run: Run) -> None:
    """Start the run's server, and keep the sessions of this process alive meanwhile."""
    run.cluster.launch()
    await trio.to_thread.run_sync(run.cluster.wait_until_ready)


async def restart_database(run: Run, times: int = 1) -> None:
    """It goes, in order or not, and comes; nobody is taken over."""
    async with run.world():
        await run.start_guard()
        bot = await run.start_bot()
        for _ in range(times):
            await run.pause(0.5)
            await trio.to_thread.run_sync(run.cluster.stop, run.rng.choice((signal.SIGINT, signal.SIGQUIT)))
            await trio.sleep(run.rng.choice((0.0, run.rng.uniform(0, 2 * LEASE))))
            await _start(run)
            run.record.restarts += 1
            refused = len(bot.said("held"))
            await bot.wait_for("held", refused + 1)
            await run.pause(LEASE)
            sessions = run.database.execute("SELECT count(*) FROM trio_cancel.session")
            if sessions != [(2,)] or bot.process.returncode is not None:
                run.fault(f"a false take-over: {sessions}, {bot.stderr.decode()[-500:]}")
                return
        await run.settle()


@contextmanager
def _two_servers(run: Run, *, synchronous: bool) -> Generator[Cluster]:
    with run.cluster.standby() as standby:
        standby.start()
        if synchronous:
            run.cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
            ends_at = time.monotonic() + 30
            while run.cluster.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
                assert time.monotonic() < ends_at
                time.sleep(0.05)
        try:
            yield standby
        finally:
            standby.stop()


async def _fail_over(run: Run, standby: Cluster) -> None:
    """The primary crashes, and the standby is promoted a moment later; the bot holds anew."""
    await trio.to_thread.run_sync(run.cluster.stop, signal.SIGQUIT)
    await run.pause(LEASE)
    await trio.to_thread.run_sync(standby.execute, "SELECT pg_promote()")
    await run.bot.wait_for("held", len(run.bot.said("held")) + 3)


async def fail_over(run: Run) -> None:
    """To a synchronous standby."""
    with _two_servers(run, synchronous=True) as standby:
        async with run.world(standby):
            await run.start_guard(second=standby)
            bot = await run.start_bot(second=standby)
            await run.pause(0.5)
            await _fail_over(run, standby)
            await run.pause(LEASE)
            bot.kill()
            await run.settle(standby)


async def old_primary(run: Run) -> None:
    """It comes back after the promotion, takes writes, and stands first in everybody's address."""
    with _two_servers(run, synchronous=True) as standby:
        async with run.world(standby):
            await run.start_guard(second=standby)
            bot = await run.start_bot(second=standby)
            await run.pause(0.3)
            await _fail_over(run, standby)
            run.cluster.configure(synchronous_standby_names="")
            await _start(run)
            run.cluster.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'"
            standby.execute(end_all)  # so everybody connects anew, to the first server that takes writes
            await bot.wait_for("held", len(bot.said("held")) + 3)
            await run.pause(LEASE)
            bot.kill()
            await run.settle(standby)
            run.cluster.stop()


def _wait_until_sent(primary: Cluster) -> None:
    """Wait until the standby has on its disk what the primary has written until now."""
    ((upto,),) = primary.execute("SELECT pg_current_wal_insert_lsn()::text")
    for _ in range(600):
        rows = primary.execute(f"SELECT flush_lsn >= '{upto}'::pg_lsn FROM pg_stat_replication")
        if rows and rows[0][0]:
            return
        time.sleep(0.05)
    raise TimeoutError("the standby does not come after the primary")


async def asynchronous(run: Run) -> None:
    """A standby that is behind as the primary crashes: what the guide says can be lost is lost."""
    with _two_servers(run, synchronous=False) as standby:
        async with run.world(standby):
            await run.start_guard(second=standby)
            bot = await run.start_bot(second=standby)
            safe = bot.said("held")
            await trio.to_thread.run_sync(_wait_until_sent, run.cluster)
            await trio.to_thread.run_sync(standby.stop, signal.SIGQUIT)
            before = run.record.lost
            await bot.wait_for("held", len(bot.said("held")) + run.rng.randrange(1, 8))
            await trio.to_thread.run_sync(run.cluster.stop, signal.SIGQUIT)
            standby.launch()
            await trio.to_thread.run_sync(standby.wait_until_ready)
            await trio.to_thread.run_sync(standby.execute, "SELECT pg_promote()")
            await run.pause(LEASE)
            bot.kill()
            await run.settle(standby, loses=True, safe=safe)
            if run.record.lost == before:
                run.fault("nothing was lost, so that this run has shown nothing")


SCENARIOS: dict[str, tuple[Callable[[Run], Awaitable[None]], bool]] = {
    "kill-session": (kill_session, False),
    "kill-guard": (kill_guard, False),
    "kill-both": (kill_both, False),
    "stop-session": (stop_session, False),
    "stop-guard": (stop_guard, False),
    "stop-between": (stop_between, False),
    "hole-session": (hole_session, False),
    "hole-guard": (hole_guard, False),
    "restart-database": (restart_database, False),
    "fail-over": (fail_over, True),
    "old-primary": (old_primary, True),
    "asynchronous": (asynchronous, True),
}
"""Each with whether it needs a server of its own."""


async def run_many(scenario: str, runs: int, seed: str = "1", tell: Callable[[str], object] = lambda _: None) -> Record:
    """Make so many runs of a scenario; return what they found."""
    record = Record(scenario)
    happens: Callable[[Run], Awaitable[None]]
    if scenario == "restarts":
        happens, own = partial(restart_database, times=runs), True
        runs, limit = 1, 60.0 + 15.0 * runs
    else:
        (happens, own), limit = SCENARIOS[scenario], LIMIT
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        async with open_sandbox() as sandbox:
            accounts = folder / "accounts"
            accounts.mkdir()
            credentials = sandbox.credentials
            (accounts / "one.env").write_text(
                f"RIPIO_API_TOKEN={credentials.api_token}\nRIPIO_API_SECRET='{credentials.api_secret}'\n"
            )
            numbers = iter(range(runs))
            while (number := next(numbers, None)) is not None:
                with a_cluster() as cluster:
                    while number is not None:
                        name = f"{seed}-{number}"
                        try:
                            with trio.move_on_after(limit) as scope:
                                await happens(Run(name, sandbox, cluster, folder, record))
                            if scope.cancelled_caught:
                                record.faults.append(f"{scenario} {name}: was not done within {limit:g} s")
                        except Exception as error:  # told in the end, and the next run is made
                            record.faults.append(f"{scenario} {name}: {error!r}")
                        tell(str(record))
                        number = None if own else next(numbers, None)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.guard_runs", description=__doc__)
    parser.add_argument("scenario", choices=[*SCENARIOS, "restarts", "all"])
    parser.add_argument("runs", type=int, nargs="?", default=20)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--verbose", action="store_true", help="tell how far it is")
    arguments = parser.parse_args()
    tell = partial(print, file=sys.stderr, flush=True) if arguments.verbose else lambda _: None
    found: Counter[str] = Counter()
    for scenario in SCENARIOS if arguments.scenario == "all" else (arguments.scenario,):
        record = trio.run(run_many, scenario, arguments.runs, arguments.seed, tell)
        print(record, flush=True)
        for fault in record.faults:
            print("  FAULT", fault, flush=True)
        found[scenario] = len(record.faults)
    return 1 if found.total() else 0


if __name__ == "__main__":
    sys.exit(main())
