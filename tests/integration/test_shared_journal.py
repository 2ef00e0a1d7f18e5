"""Sessions whose journal is in a real database, over real sockets: dead and stopped processes, a database that goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.tools.postgres import ADMIN, ADMIN_PASSWORD, BOT_PASSWORD, Cluster, Database, a_cluster
from trio_cancel import JournalError, TakenOver, open_trading_ws
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import BookStatus, Sandbox
from trio_cancel.types import LeaseState

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

BOT = """
import sys, trio
from trio_cancel import open_trading_ws

async def main(url, journal, lease, *names):
    async with open_trading_ws(url, journal=journal, lease=float(lease)) as ws:
        async with ws.open_order_scope() as orders:
            for name, _, order_id in (name.partition("=") for name in names):
                await orders.add(external_id=name)
                if order_id:
                    orders.placed(external_id=name, id=order_id)
            await trio.sleep(0.5)  # what is told is recorded soon
            print("holding", flush=True)
            await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIO_CANCEL_")} | {
        "RIPIO_API_TOKEN": sandbox.credentials.api_token,
        "RIPIO_API_SECRET": sandbox.credentials.api_secret,
        "TRIO_CANCEL_URL": sandbox.url,
    }


@asynccontextmanager
async def a_bot(sandbox: Sandbox, address: str, *names: str, lease: float = 1.0) -> AsyncGenerator[trio.Process]:
    """A process that holds orders, once it does."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", BOT, sandbox.url, address, str(lease), *names],
        env=environment(sandbox),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"holding" in await process.stdout.receive_some()
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what others do."""
    with trio.fail_after(30):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - another process's doing
            await trio.sleep(0.01)


def status(sandbox: Sandbox, name: str) -> BookStatus:
    return sandbox.book.get(external_id=name).status


async def run(sandbox: Sandbox, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "trio_cancel", *arguments],
        env=environment(sandbox),
        capture_stdout=True,
        capture_stderr=True,
        check=check,
    )


async def test_what_a_killed_process_held_is_canceled_from_another_machine(
    trading_sandbox: Sandbox, database: Database
) -> None:
    sandbox, address = trading_sandbox, database.url("mm-1")
    named = [f"{name}={sandbox.book.create(external_id=name).id}" for name in ("a", "b")]
    async with a_bot(sandbox, address, *named) as bot:
        refused = await run(sandbox, "resume", address, check=False)
        assert refused.returncode == 2
        assert b"is being written by another session" in refused.stderr
        bot.send_signal(signal.SIGKILL)
        await bot.wait()
    listed = await run(sandbox, "journal", address, "--json")
    assert [json.loads(line)["external_id"] for line in listed.stdout.splitlines()] == ["a", "b"]
    done = await run(sandbox, "resume", address)
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["canceled", "canceled"]
    assert [status(sandbox, name) for name in ("a", "b")] == [BookStatus.CANCELED] * 2
    again = await run(sandbox, "resume", address)
    assert b"nothing was left" in again.stderr
    compacted = await run(sandbox, "journal", address, "--compact", "--days", "0")
    assert b"forgotten" in compacted.stderr
    missing = await run(sandbox, "resume", database.url("another"), "--missing-ok")
    assert f"there is no journal postgresql://127.0.0.1:{database.cluster.port}" in missing.stderr.decode().replace(
        " at ", " "
    )
    for said in (refused, listed, done, again, compacted, missing):
        assert BOT_PASSWORD.encode() not in said.stdout + said.stderr


async def test_the_tables_are_made_by_a_command(trading_sandbox: Sandbox, postgres: Cluster) -> None:
    database = postgres.new_database(tables=False)
    address = database.url(user=ADMIN, password=ADMIN_PASSWORD)
    for done in ("were made", "were up to date"):
        made = await run(trading_sandbox, "journal", address, "--migrate")
        said = f"postgresql://127.0.0.1:{postgres.port}/{database.name} {done} (format 2)"
        assert said in made.stderr.decode()
    refused = await run(trading_sandbox, "journal", database.url(), "--migrate", check=False)
    assert refused.returncode == 2
    assert b"permission denied" in refused.stderr
    for wrong in (["a.file", "--migrate"], [address, "--migrate", "--left"]):
        refused = await run(trading_sandbox, "journal", *wrong, check=False)
        assert refused.returncode == 2
        assert b"--migrate" in refused.stderr
        assert ADMIN_PASSWORD.encode() not in refused.stderr


async def test_a_stopped_process_that_wakes_leaves_its_successors_order_alone(
    trading_sandbox: Sandbox, database: Database
) -> None:
    """Its successor has taken the journal over and placed a new order of the same name."""
    sandbox, address = trading_sandbox, database.url("mm-1")
    sandbox.book.create(external_id="a")
    async with a_bot(sandbox, address, "a") as bot:
        bot.send_signal(signal.SIGSTOP)
        async with open_trading_ws(sandbox.url, credentials=sandbox.credentials, journal=address) as ws:
            assert [order.request.external_id for order in ws.left_behind] == ["a"]
            assert (await ws.try_cancel(external_id="a")).kind == "canceled"
            await ws.dismiss(external_id="a")
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="a")
                new = sandbox.book.create(external_id="a")
                asked = len(sandbox.log)
                bot.send_signal(signal.SIGCONT)
                assert bot.stderr is not None
                said = b""
                with trio.fail_after(30):
                    async for chunk in bot.stderr:
                        said += chunk
                    assert await bot.wait() == 1
                assert b"TakenOver: The journal postgresql://127.0.0.1" in said
                assert b"a (not_sent)" in said
                assert len(sandbox.log) == asked
                assert sandbox.book.get(new.id).status is BookStatus.OPEN
                assert orders.held
                orders.placed(external_id="a", id=new.id)
        assert sandbox.book.get(new.id).status is BookStatus.CANCELED
    said_so = "SELECT acknowledged IS NOT NULL FROM trio_cancel.session ORDER BY number LIMIT 1"
    assert database.execute(said_so) == [(True,)]


async def test_a_take_over_ends_the_blocks_at_once(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    with trio.fail_after(10):
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, journal=database.url("mm-1"), lease=1.0
        ) as ws:
            order = sandbox.book.create(external_id="a")
            with pytest.raises(TakenOver) as caught:
                async with ws.open_order_scope() as orders:
                    await orders.add(external_id="a")
                    orders.placed(external_id="a", id=order.id)
                    take = "UPDATE trio_cancel.journal SET epoch = epoch + 1, beat = beat + 1"
                    await trio.to_thread.run_sync(database.execute, take)
                    await trio.sleep_forever()
            assert caught.value.report is not None
            assert [outcome.kind for outcome in caught.value.report.outcomes] == ["canceled"]
            assert ws.lease is LeaseState.TAKEN_OVER


async def test_while_the_database_is_away_cancels_go_on(trading_sandbox: Sandbox) -> None:
    sandbox = trading_sandbox
    with a_cluster() as cluster:
        database = await trio.to_thread.run_sync(cluster.new_database)
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, journal=database.url("mm-1"), lease=1.0
        ) as ws:
            order = sandbox.book.create()
            async with ws.open_order_scope() as orders:
                await orders.add(order.id)
                await trio.to_thread.run_sync(cluster.stop)
                await until(lambda: ws.lease is LeaseState.UNCERTAIN)
                with pytest.raises(JournalError):
                    await orders.add(external_id="new")
                report = await orders.cancel_all()
                assert [(outcome.kind, outcome.unrecorded) for outcome in report.outcomes] == [("canceled", True)]
                await trio.to_thread.run_sync(cluster.start)
                await until(lambda: ws.lease is LeaseState.SURE)
                await orders.add(external_id="new")
                orders.discard(external_id="new")
        assert not read_journal(database.url("mm-1")).left


async def test_a_black_hole_between_session_and_database(trading_sandbox: Sandbox) -> None:
    """A server that says nothing any more: the first hold waits for as long as it may, the next ones do not."""
    sandbox = trading_sandbox
    with a_cluster() as cluster:
        database = await trio.to_thread.run_sync(cluster.new_database)
        async with (
            open_trading_ws(
                sandbox.url, credentials=sandbox.credentials, journal=database.url("mm-1"), lease=1.0
            ) as ws,
            ws.open_order_scope() as orders,
        ):
            cluster.pause()
            try:
                with trio.fail_after(10), pytest.raises(JournalError):
                    await orders.add(external_id="a")
                with trio.fail_after(2), pytest.raises(JournalError):  # well under the 3 s of the first
                    await orders.add(external_id="b")
                order = sandbox.book.create()
                with trio.fail_after(10):
                    assert (await ws.try_cancel(order.id)).kind == "canceled"
            finally:
                cluster.go_on()
            await until(lambda: ws.lease is LeaseState.SURE)
            await orders.add(external_id="c")
            orders.discard(external_id="c")


async def test_a_session_knows_whether_a_guard_watches(trading_sandbox: Sandbox, database: Database) -> None:
    async with open_trading_ws(
        trading_sandbox.url, credentials=trading_sandbox.credentials, journal=database.url("mm-1"), lease=1.0
    ) as ws:
        assert ws.guarded is False
        database.execute(
            "INSERT INTO trio_cancel.guard (name) VALUES ('one')",
            "INSERT INTO trio_cancel.guard_account SELECT g.id, a.id FROM trio_cancel.guard g, trio_cancel.account a",
        )

        def beaten() -> bool:
            database.execute("UPDATE trio_cancel.guard SET beat = beat + 1")
            return ws.guarded is True

        await until(beaten)


async def test_a_session_on_a_file_has_no_lease(trading_sandbox: Sandbox, tmp_path: Any) -> None:
    async with open_trading_ws(
        trading_sandbox.url, credentials=trading_sandbox.credentials, journal=tmp_path / "j"
    ) as ws:
        assert (ws.lease, ws.guarded) == (None, None)


async def test_many_sessions_of_a_process(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox

    async def one(number: int) -> None:
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, journal=database.url(f"j{number}"), lease=3.0
        ) as ws:
            order = sandbox.book.create(external_id=f"o{number}")
            async with ws.open_order_scope() as orders:
                await orders.add(order.id)
                await trio.sleep(3.5)  # longer than a lease: the beats keep it
            assert ws.lease is LeaseState.SURE

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, number)
    assert {status(sandbox, f"o{number}") for number in range(30)} == {BookStatus.CANCELED}
    assert database.execute("SELECT DISTINCT state FROM trio_cancel.journal") == [("free",)]
