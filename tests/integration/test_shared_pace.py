"""Sessions of one account in several processes, and a guard, keep to one rate together through a real database."""

from __future__ import annotations

import pickle
import signal
import sys
import time
from pathlib import Path

import psycopg
import pytest
import trio

from tests.integration.test_guard import all_canceled, open_orders
from tests.integration.test_postgres import until as blocking_until
from tests.integration.test_shared_journal import a_bot, until
from tests.tools.journals import ACCOUNT
from tests.tools.postgres import ADMIN, ADMIN_PASSWORD, Database, a_cluster
from trio_cancel import ConfigurationError, Pacer, open_guard, open_trading_ws
from trio_cancel._engine.shared_rate import Ask
from trio_cancel._journal import postgres as pg
from trio_cancel._journal.address import Server, server_of
from trio_cancel._journal.database import connect
from trio_cancel._journal.pace import _Member, begin, exchange
from trio_cancel.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
RATE = 20.0


def pace(burst: int = 5) -> Pacer:
    return Pacer(RATE, burst, shared=True)


async def test_two_sessions_share_one_rate(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    ids = [sandbox.book.create().id for _ in range(60)]
    began = time.monotonic()
    with trio.fail_after(60):
        async with (
            open_trading_ws(
                sandbox.url, credentials=sandbox.credentials, journal=database.url("a"), pacer=pace()
            ) as first,
            open_trading_ws(
                sandbox.url, credentials=sandbox.credentials, journal=database.url("b"), pacer=pace()
            ) as second,
        ):
            assert database.execute("SELECT rate, burst FROM trio_cancel.pace") == [(RATE, 5)]
            assert len(database.execute("SELECT member FROM trio_cancel.pace_member")) == 2
            reports = []

            async def cancel(ws: object, some: list[str]) -> None:
                reports.append(await ws.cancel_many(some))  # type: ignore[attr-defined]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel, first, ids[:30])
                nursery.start_soon(cancel, second, ids[30:])
    # Not before the rate allows; how much later depends on the machine.
    assert time.monotonic() - began >= (60 - 5 - 2 - RATE / 4) / RATE
    assert sum(report.counts["canceled"] for report in reports) == 60
    assert database.execute("SELECT member FROM trio_cancel.pace_member") == []


async def test_a_guard_keeps_to_the_rate_of_the_sessions(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    names = [f"n{number}" for number in range(40)]
    told: list[float] = []
    with trio.fail_after(60):
        async with (
            a_bot(sandbox, database.url("dead"), *open_orders(sandbox, *names)) as bot,
            open_trading_ws(
                sandbox.url,
                credentials=sandbox.credentials,
                journal=database.url("b"),
                pacer=Pacer(5.0, 5, shared=True),
            ),
            open_guard(database.url(), [sandbox.credentials], on_taken=lambda *_: told.append(time.monotonic())),
        ):
            await until(lambda: len(database.execute("SELECT 1 FROM trio_cancel.pace_member")) == 2)
            killed = time.monotonic()
            bot.send_signal(signal.SIGKILL)
            await until(lambda: told)
    assert told[0] - killed >= (40 - 5 - 2 - 5 / 4) / 5  # seconds; a lease and the cancels alone take a third
    assert database.execute("SELECT guard_at > 0 FROM trio_cancel.pace") == [(True,)]
    assert database.execute("SELECT member FROM trio_cancel.pace_member") == []


async def test_without_the_database_a_session_goes_on_with_its_part(
    trading_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = trading_sandbox
    with a_cluster() as cluster:
        database = cluster.new_database()
        ids = [sandbox.book.create().id for _ in range(20)]
        with trio.fail_after(60):
            async with open_trading_ws(
                sandbox.url, credentials=sandbox.credentials, journal=database.url("a"), pacer=pace(burst=1)
            ) as ws:
                cluster.stop(signal.SIGQUIT)
                report = await ws.cancel_many(ids)
                assert report.counts["canceled"] == 20
                assert "this session goes on with its part" in caplog.text
                cluster.start()
                await until(lambda: "answers again" in caplog.text)
                assert database.execute("SELECT rate FROM trio_cancel.pace") == [(RATE,)]
                database.execute("DELETE FROM trio_cancel.pace")  # as a fail-over might lose it
                await until(lambda: database.execute("SELECT rate FROM trio_cancel.pace"))
                await ws.cancel(sandbox.book.create().id)


async def test_a_shared_pace_needs_a_database(trading_sandbox: Sandbox, tmp_path: Path) -> None:
    for journal in (None, str(tmp_path / "a.journal")):
        with pytest.raises(ConfigurationError, match="shared=True shares through the database"):
            open_trading_ws(trading_sandbox.url, credentials=trading_sandbox.credentials, pacer=pace(), journal=journal)
    with pytest.raises(ConfigurationError, match="shared must be True or False"):
        Pacer(1.0, shared="yes")  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(pace()))
    assert repr(again) == "Pacer(rate=20.0, burst=5, shared=True)"


async def test_another_rate_holds_for_all_from_then_on(
    trading_sandbox: Sandbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = trading_sandbox
    for rate in (RATE, RATE, 10.0):
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, journal=database.url("a"), pacer=Pacer(rate, shared=True)
        ):
            pass
    assert database.execute("SELECT rate FROM trio_cancel.pace") == [(10.0,)]
    assert caplog.text.count("the shared pace of this account was") == 1


def test_tables_of_an_older_format_are_brought_up_to_date(database: Database) -> None:
    database.execute(
        "DROP TABLE trio_cancel.pace_member",
        "DROP TABLE trio_cancel.pace",
        "UPDATE trio_cancel.format SET version = 1",
    )
    server = server_of(database.url(user=ADMIN, password=ADMIN_PASSWORD))
    assert server is not None
    assert pg.migrate(server) == 1
    assert database.execute("SELECT version FROM trio_cancel.format") == [(2,)]
    assert database.execute("SELECT account FROM trio_cancel.pace") == []


async def test_a_pool_that_is_locked_holds_no_take_over_up(trading_sandbox: Sandbox, database: Database) -> None:
    """As by a process that was stopped in the middle of an ask: the guard goes on with its part, and with its looks."""
    sandbox = trading_sandbox
    with trio.fail_after(30):
        async with (
            a_bot(sandbox, database.url("dead"), *open_orders(sandbox, "a", "b")) as bot,
            open_trading_ws(sandbox.url, credentials=sandbox.credentials, journal=database.url("b"), pacer=pace()),
        ):
            with psycopg.connect(database.url(user=ADMIN, password=ADMIN_PASSWORD)) as locking:
                locking.execute("SELECT rate FROM trio_cancel.pace FOR UPDATE")
                async with open_guard(database.url(), [sandbox.credentials]):
                    await until(lambda: database.execute("SELECT guard FROM trio_cancel.guard_account"))
                    bot.send_signal(signal.SIGKILL)
                    await until(lambda: all_canceled(sandbox, "a", "b"))


def test_who_is_stopped_in_the_middle_of_an_ask_locks_the_pool_for_a_second(database: Database) -> None:
    pg.PostgresStore.open(found(database.url("a")), ACCOUNT, "id", 0, 3.0).close()
    first, second = (_Member(found(database.url("a")), pace()) for _ in range(2))
    first.join()
    stopped = connect(found(database.url("a")), 120.0)
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout), stopped.transaction(write=False) as cursor:
        begin(cursor)
        exchange(cursor, first._account, "stopped", "b", Ask(1, waits=False), guard=False)
        blocking_until(lambda: second.join())
        cursor.execute("SELECT 1")
    for one in (first, second):
        one.leave()
    stopped.close()


def test_a_transaction_that_writes_is_ended_by_the_server_where_its_process_stands_still(database: Database) -> None:
    connection = connect(found(database.url("a")), 7.0)
    with connection.transaction() as cursor:
        assert cursor.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("7s",)
    connection.close()


def found(address: str) -> Server:
    server = server_of(address)
    assert server is not None
    return server
