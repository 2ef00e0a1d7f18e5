"""A guard and real processes: what a killed bot held is taken off the book by another machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.integration.test_postgres import open_it
from tests.integration.test_shared_journal import a_bot, environment, run, status, until
from tests.tools.postgres import BOT_PASSWORD, Database, a_cluster
from tests.tools.venues import Remembering
from trio_cancel import (
    CancelRequest,
    ConfigurationError,
    Credentials,
    JournalError,
    Observer,
    open_guard,
    open_trading_ws,
)
from trio_cancel._guard.status import read_overview
from trio_cancel._journal.address import server_of
from trio_cancel.journal import read_journal
from trio_cancel.lookup import OrderLookup, OrderState, RestLookup
from trio_cancel.sandbox import BookStatus, Sandbox
from trio_cancel.types import CancelReport

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


def open_orders(sandbox: Sandbox, *names: str) -> list[str]:
    """Place orders; return them as a bot's arguments."""
    return [f"{name}={sandbox.book.create(external_id=name).id}" for name in names]


def all_canceled(sandbox: Sandbox, *names: str) -> bool:
    return {status(sandbox, name) for name in names} == {BookStatus.CANCELED}


@pytest.fixture
def folder(tmp_path: Path, trading_sandbox: Sandbox) -> Path:
    """A folder with the credentials of an account."""
    credentials = trading_sandbox.credentials
    (tmp_path / "mm.env").write_text(
        f"RIPIO_API_TOKEN={credentials.api_token}\nRIPIO_API_SECRET='{credentials.api_secret}'\n"
    )
    return tmp_path


@asynccontextmanager
async def a_guard(sandbox: Sandbox, database: Database, folder: Path) -> AsyncGenerator[trio.Process]:
    """A guard in a process of its own, once it has begun."""
    before = len(database.execute("SELECT id FROM trio_cancel.guard"))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trio_cancel", "guard", database.url(), "--credentials", str(folder), "--json"],
        env=environment(sandbox) | {"RIPIO_API_TOKEN": "", "RIPIO_API_SECRET": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        await until(lambda: len(database.execute("SELECT id FROM trio_cancel.guard")) > before)
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_what_a_killed_bot_held_is_off_the_book(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox, address = trading_sandbox, database.url("mm-1")
    told: list[tuple[str, CancelReport]] = []
    named = open_orders(sandbox, "a", "b")
    sandbox.book.create(external_id="c")  # of this one only the external id is known
    with trio.fail_after(30):
        async with (
            open_guard(database.url(), [sandbox.credentials], on_taken=lambda *taken: told.append(taken)) as guard,
            a_bot(sandbox, address, *named, "c") as bot,
        ):
            assert all(status(sandbox, name) is BookStatus.OPEN for name in "abc")
            assert guard.unserved == ()
            bot.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, "a", "b"))
            await until(lambda: status(sandbox, "c") is BookStatus.CANCELED)
            await until(lambda: told)
            assert told[0][0] == "mm-1"
            assert sorted(str(outcome.request.key) for outcome in told[0][1].outcomes) == ["a", "b", "c"]
    assert database.execute("SELECT id FROM trio_cancel.guard") == []


class Odd(BaseException):
    """What no handler expects."""


@pytest.mark.parametrize(
    "error", [ValueError("no"), Odd("odd"), GeneratorExit()], ids=lambda error: type(error).__name__
)
async def test_on_taken_may_raise_what_it_likes(
    error: BaseException, trading_sandbox: Sandbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The take-over is done: it is neither made again nor told as failed, and the next one is told, too."""
    sandbox, told = trading_sandbox, []

    def on_taken(name: str, report: CancelReport) -> None:
        told.append(name)
        raise error

    with trio.fail_after(60):
        async with open_guard(database.url(), [sandbox.credentials], on_taken=on_taken):
            for name in ("a", "b"):
                named = open_orders(sandbox, name)
                async with a_bot(sandbox, database.url(f"mm-{name}"), *named) as bot:
                    bot.send_signal(signal.SIGKILL)
                    await until(lambda name=name: f"mm-{name}" in told)  # type: ignore[misc]
    assert told == ["mm-a", "mm-b"]
    assert all_canceled(sandbox, "a", "b")
    assert sum(record.message.startswith("on_taken failed") for record in caplog.records) == 2
    assert "tries again" not in caplog.text


async def test_on_taken_may_end_the_program(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    named = open_orders(sandbox, "a")

    def on_taken(name: str, report: CancelReport) -> None:
        raise SystemExit(3)

    with trio.fail_after(60), pytest.raises(SystemExit) as caught:
        async with (
            open_guard(database.url(), [sandbox.credentials], on_taken=on_taken),
            a_bot(sandbox, database.url("mm-1"), *named) as bot,
        ):
            bot.send_signal(signal.SIGKILL)
            await trio.sleep_forever()
    assert caught.value.code == 3
    assert all_canceled(sandbox, "a")


async def test_a_bot_that_lives_is_not_touched(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    named = open_orders(sandbox, "a")
    async with open_guard(database.url(), [sandbox.credentials]), a_bot(sandbox, database.url("mm-1"), *named):
        await trio.sleep(3)
        assert status(sandbox, "a") is BookStatus.OPEN
        assert database.execute("SELECT epoch, state FROM trio_cancel.journal") == [(1, "live")]


async def test_of_two_guards_the_second_succeeds_the_first(
    trading_sandbox: Sandbox, database: Database, folder: Path
) -> None:
    sandbox = trading_sandbox
    with trio.fail_after(60):
        async with (
            a_guard(sandbox, database, folder) as first,
            a_guard(sandbox, database, folder) as second,
            a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a")) as bot,
            a_bot(sandbox, database.url("mm-2"), *open_orders(sandbox, "b")) as other,
        ):
            bot.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, "a"))
            assert status(sandbox, "b") is BookStatus.OPEN
            # One of them took it.
            assert database.execute("SELECT max(number) FROM trio_cancel.session WHERE journal = 1") == [(2,)]
            first.send_signal(signal.SIGKILL)
            other.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, "b"))
            assert second.stdout is not None
            said = b""
            while b'"external_id":"b"' not in said:
                said += await second.stdout.receive_some()
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
    assert not read_journal(database.url("mm-2")).left


async def test_a_guard_that_dies_in_a_take_over_is_succeeded(
    trading_sandbox: Sandbox, database: Database, folder: Path
) -> None:
    """Its journal is live with its own lease, of which no beat comes any more."""
    sandbox = trading_sandbox
    async with a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a")) as bot:
        bot.send_signal(signal.SIGKILL)
        await bot.wait()
    database.execute(
        "UPDATE trio_cancel.journal SET epoch = epoch + 1, beat = beat + 1, lease_ms = 1000",
        "INSERT INTO trio_cancel.session SELECT id, epoch, 'guard-x', 0, 0, 0 FROM trio_cancel.journal",
    )
    done = await run(sandbox, "guard", database.url(), "--credentials", str(folder), "--once", "--json")
    assert all_canceled(sandbox, "a")
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["canceled"]
    assert BOT_PASSWORD.encode() not in done.stdout + done.stderr


async def test_an_order_that_is_not_found_is_asked_for_until_its_session_has_ended(
    trading_sandbox: Sandbox, database: Database
) -> None:
    """The process was stopped between holding an order and placing it: its order comes once the guard has asked."""
    sandbox = trading_sandbox
    asked: list[CancelReport] = []
    with trio.fail_after(60):
        async with (
            open_guard(database.url(), [sandbox.credentials], on_taken=lambda _, report: asked.append(report)),
            a_bot(sandbox, database.url("mm-1"), "late") as bot,
        ):
            bot.send_signal(signal.SIGSTOP)
            await until(lambda: asked)
            assert [outcome.kind for outcome in asked[0].outcomes] == ["not_found"]
            left = await trio.to_thread.run_sync(read_journal, database.url("mm-1"))
            assert [order.request.external_id for order in left.left] == ["late"]
            sandbox.book.create(external_id="late")  # as a create does that was on its way
            await until(lambda: all_canceled(sandbox, "late"))


async def test_a_hold_ends_once_its_session_has_said_that_it_ended(
    trading_sandbox: Sandbox, database: Database
) -> None:
    """It was stopped, wakes, learns that it was taken over and ends: then nothing of it is on its way any more."""
    sandbox = trading_sandbox
    asked: list[CancelReport] = []
    with trio.fail_after(90):
        async with (
            open_guard(database.url(), [sandbox.credentials], on_taken=lambda _, report: asked.append(report)),
            a_bot(sandbox, database.url("mm-1"), "never") as bot,
        ):
            bot.send_signal(signal.SIGSTOP)
            await until(lambda: asked)
            bot.send_signal(signal.SIGCONT)
            assert await bot.wait() == 1
            state = "SELECT state FROM trio_cancel.journal"
            with trio.fail_after(60):
                while database.execute(state) != [("free",)]:  # noqa: ASYNC110 - the database's doing
                    await trio.sleep(0.1)
    assert len(asked) > 2
    assert {outcome.kind for report in asked for outcome in report.outcomes} == {"not_found"}


async def test_a_database_that_is_restarted_costs_nobody_the_journal(trading_sandbox: Sandbox) -> None:
    sandbox = trading_sandbox
    with a_cluster() as cluster:
        database = await trio.to_thread.run_sync(cluster.new_database)
        named = open_orders(sandbox, "a")
        async with open_guard(database.url(), [sandbox.credentials]), a_bot(sandbox, database.url("mm-1"), *named):
            for pause in (0.0, 0.3, 0.9, 2.0):
                await trio.to_thread.run_sync(cluster.stop)
                await trio.sleep(pause)
                await trio.to_thread.run_sync(cluster.start)
                await trio.sleep(1.5)
            assert database.execute("SELECT epoch, state FROM trio_cancel.journal") == [(1, "live")]
            assert status(sandbox, "a") is BookStatus.OPEN


async def test_a_name_that_another_journal_has_is_left_alone(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    reports: list[CancelReport] = []
    async with a_bot(sandbox, database.url("old"), "a") as old:
        old.send_signal(signal.SIGKILL)
        await old.wait()
    async with a_bot(sandbox, database.url("new"), *open_orders(sandbox, "a")):
        async with open_guard(
            database.url(), [sandbox.credentials], on_taken=lambda _, report: reports.append(report)
        ) as guard:
            with trio.fail_after(20):
                await guard.wait_until_seen_to()
        assert [outcome.kind for outcome in reports[0].outcomes] == ["not_sent"]
        assert status(sandbox, "a") is BookStatus.OPEN


async def test_the_restarted_bot_opens_its_journal_beside_a_guard(trading_sandbox: Sandbox, database: Database) -> None:
    sandbox = trading_sandbox
    async with open_guard(database.url(), [sandbox.credentials]):
        async with a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a"), "never-placed") as bot:
            bot.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, "a"))
        with trio.fail_after(20):
            async with open_trading_ws(
                sandbox.url, credentials=sandbox.credentials, journal=database.url("mm-1")
            ) as ws:
                assert [order.request.external_id for order in ws.left_behind] == ["never-placed"]
                await until(lambda: ws.guarded)


async def test_a_journal_without_credentials_is_named(
    trading_sandbox: Sandbox, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = trading_sandbox
    (tmp_path / "other.env").write_text("RIPIO_API_TOKEN=another\nRIPIO_API_SECRET=one\n")
    async with a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a")) as bot:
        async with open_guard(database.url(), [Credentials("another", "one")]) as guard:
            await until(lambda: guard.unserved == ("mm-1",))
            assert "no credentials for the journal mm-1" in caplog.text
        bot.send_signal(signal.SIGKILL)
        await bot.wait()
    done = await run(sandbox, "guard", database.url(), "--credentials", str(tmp_path), "--once", "--json", check=False)
    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"journal": "mm-1", "status": "unserved"}]
    assert status(sandbox, "a") is BookStatus.OPEN


def test_what_cannot_be_used_is_refused_at_once() -> None:
    for address in ("a.file", "postgresql://db/x?journal=mm-1"):
        with pytest.raises(ConfigurationError, match="whole database"):
            open_guard(address, [Credentials("token", "secret")])
    with pytest.raises(ConfigurationError, match="at least one account"):
        open_guard("postgresql://db/x", [])


async def test_a_stdout_that_nobody_reads_holds_no_take_over_up(
    trading_sandbox: Sandbox, database: Database, folder: Path
) -> None:
    """The pipe is full after some hundred lines; the next journal is seen to all the same."""
    sandbox = trading_sandbox
    many = [f"{number:04}-{'x' * 60}" for number in range(400)]
    with trio.fail_after(60):
        async with (
            a_guard(sandbox, database, folder) as guard,
            a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, *many)) as first,
            a_bot(sandbox, database.url("mm-2"), *open_orders(sandbox, "b")) as second,
        ):
            first.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, *many))
            await trio.sleep(1)  # the lines are written now, as far as the pipe takes them
            second.send_signal(signal.SIGKILL)
            await until(lambda: all_canceled(sandbox, "b"))
            guard.send_signal(signal.SIGTERM)
            assert await guard.wait() == 0


async def test_the_status_tells_of_journals_and_guards(
    trading_sandbox: Sandbox, database: Database, folder: Path
) -> None:
    sandbox = trading_sandbox

    async def look() -> tuple[int, list[dict[str, object]], dict[str, dict[str, object]]]:
        done = await run(sandbox, "guard", database.url(), "--status", "--json", check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        journals = {line["journal"]: line for line in lines if "journal" in line}
        return done.returncode, [line for line in lines if "name" in line], journals

    async with a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a", "b"), lease=10.0) as bot:
        status, guards, journals = await look()
        assert (status, guards) == (1, [])
        assert journals["mm-1"].items() >= {"state": "live", "orders": 2, "watched": False, "lease": 10.0}.items()
        async with a_guard(sandbox, database, folder):
            await until(lambda: database.execute("SELECT guard FROM trio_cancel.guard_account"))
            status, guards, journals = await look()
            assert status == 0
            assert guards[0].items() >= {"lives": True, "accounts": 1}.items()
            assert journals["mm-1"]["watched"] is True
        bot.kill()
        database.execute("UPDATE trio_cancel.journal SET seen = seen - interval '1 hour'")
        status, _, journals = await look()
        assert (status, journals["mm-1"]["state"], journals["mm-1"]["orders"]) == (1, "expired", 2)


async def test_a_database_that_goes_away_ends_once_with_a_sentence(
    trading_sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_cancel._guard.guard.AWAY", 1.0)
    with a_cluster() as cluster:
        database = cluster.new_database()
        async with (
            a_bot(trading_sandbox, database.url("mm-1"), "a", lease=10.0),
            open_guard(database.url(), [trading_sandbox.credentials]) as guard,
        ):
            cluster.pause()
            with pytest.raises(JournalError, match=r"has not answered for 1 s \(.+\); check the server"):
                await guard.wait_until_seen_to()
            cluster.go_on()
            await until(lambda: not guard._tasks._failing)
            guard._tasks.check_sight()


def test_a_role_that_can_only_read_sees_the_status(database: Database) -> None:
    open_it(database.url("mm-1")).close()
    database.execute(
        "CREATE ROLE reader LOGIN PASSWORD 'p' IN ROLE pg_read_all_data",
        "ALTER ROLE reader SET default_transaction_read_only = on",
    )
    try:
        server = server_of(database.url(user="reader", password="p"))
        assert server is not None
        assert [(one.name, one.state, one.orders) for one in read_overview(server).journals] == [("mm-1", "free", 0)]
    finally:
        database.execute("DROP ROLE reader")


class Archive:
    """A lookup of a venue that has executed every order, and remembers it longer over REST than over the WebSocket."""

    def __init__(self) -> None:
        self.asked_with: list[Credentials] = []

    @asynccontextmanager
    async def opened(self, *, credentials: Credentials, **_ways: object) -> AsyncGenerator[OrderLookup]:
        self.asked_with.append(credentials)

        async def look_up(request: CancelRequest) -> OrderState:
            return OrderState(status="executed_completely", seen_at=time.time(), id=request.id)

        yield look_up


async def test_a_guard_tells_an_observer_and_looks_up_what_is_not_found(
    trading_sandbox: Sandbox, database: Database
) -> None:
    sandbox, watch, archive = trading_sandbox, Remembering(), Archive()
    async with open_guard(database.url(), [sandbox.credentials], lookup=archive, observer=watch):
        await until(lambda: watch.of("guard_looked") == [(0, 0, 0)])
        async with a_bot(sandbox, database.url("mm-1"), "a=7155ED34-9EC4-4733-8B32-1E4319CB662F") as bot:
            await until(lambda: (1, 0, 0) in watch.of("guard_looked"))
            bot.kill()
            await until(lambda: watch.of("guard_took_over"))
        await until(lambda: watch.of("guard_looked")[-1] == (0, 0, 0))
    assert archive.asked_with == [sandbox.credentials]
    assert watch.of("connection_opened") == [(1,)]
    ((journal, report),) = watch.of("guard_took_over")
    assert journal == "mm-1"
    assert isinstance(report, CancelReport)
    assert report.counts["already_closed"] == 1
    assert not watch.of("guard_blind")


async def test_a_guard_tells_an_observer_that_it_is_blind(trading_sandbox: Sandbox) -> None:
    watch = Remembering()
    with a_cluster() as cluster:
        database = cluster.new_database()
        async with open_guard(database.url(), [trading_sandbox.credentials], observer=watch):
            await until(lambda: watch.of("guard_looked"))
            cluster.stop()
            await until(lambda: watch.of("guard_blind"))
            cluster.start()
            await until(lambda: len(watch.of("guard_looked")) == 2)
        assert len(watch.of("guard_blind")) == 1


async def test_an_observer_that_raises_stops_no_take_over(
    trading_sandbox: Sandbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Observer):
        def guard_looked(self, live: int, left: int, unserved: int) -> None:
            raise RuntimeError("no")

        def guard_took_over(self, journal: str, report: CancelReport) -> None:
            raise RuntimeError("no")

    sandbox = trading_sandbox
    async with open_guard(database.url(), [sandbox.credentials], observer=Raising()):
        async with a_bot(sandbox, database.url("mm-1"), *open_orders(sandbox, "a")) as bot:
            bot.kill()
            await until(lambda: all_canceled(sandbox, "a"))
        await until(lambda: "the observer failed in guard_took_over" in caplog.text)
    assert "the observer failed in guard_looked" in caplog.text


def test_a_lookup_with_credentials_of_its_own_is_refused() -> None:
    credentials = Credentials("t", "s")
    for lookup in (RestLookup(credentials=credentials), object()):
        with pytest.raises(ConfigurationError, match="a RestLookup without credentials of its own"):
            open_guard("postgresql://127.0.0.1/trading", [credentials], lookup=lookup)  # type: ignore[arg-type] # wrong
