"""``trio-cancel resume`` and ``trio-cancel journal``, in this process, on journals that dead processes left."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.tools.timings import wait_for
from trio_cancel import Credentials, open_trading_ws
from trio_cancel._cli import _journal, _resume, run, run_async
from trio_cancel._journal.lock import HAS_FLOCK, is_locked
from trio_cancel._journal.rows import Changes, HoldRow, IntentRow, OutcomeRow, micros
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import Account
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import Sandbox


@attrs.define
class Shell:
    """Runs command lines on a journal against the sandbox, and reads what they print."""

    sandbox: Sandbox
    path: Path
    capture: pytest.CaptureFixture[str]
    out: str = ""
    error: str = ""

    async def __call__(self, command: str, *words: str) -> int:
        status = await run_async([command, str(self.path), *words])
        self.out, self.error = self.capture.readouterr()
        assert "Traceback" not in self.error
        assert "sandbox-secret" not in self.out + self.error
        return status

    @property
    def told(self) -> dict[str, str]:
        """What became of each order."""
        records = [json.loads(line) for line in self.out.splitlines()]
        return {record["external_id"] or record["id"]: record["status"] for record in records}

    def die(
        self,
        *,
        holds: tuple[tuple[str, bool], ...] = (),
        cancels: tuple[tuple[str, bool, str | None], ...] = (),
        ago: float = 1.0,
        url: str | None = None,
        clock: tuple[int | None, int | None] = (-10_000, 10_000),
        placed: tuple[tuple[int, str | None], ...] = (),
    ) -> None:
        """Leave what a process leaves that dies: (key, is external) and (key, is external, kind of outcome).

        ``placed``: (position of the hold, the venue's id), for holds of which the venue was known to have the order.
        """
        at = micros(time.time() - ago)
        store = SQLiteStore.open(self.path, Account(url or self.sandbox.url, self.sandbox.credentials), "dead", at)
        number, session = store.begun.number, store.begun.session
        held: list[HoldRow] = [(number + i, session, int(ext), key, at, *clock) for i, (key, ext) in enumerate(holds)]
        number += len(held)
        intents: list[IntentRow] = [(number + i, session, int(e), k, at) for i, (k, e, _) in enumerate(cancels)]
        outcomes: list[OutcomeRow] = [
            (number + i, kind, at, None) for i, (_, _, kind) in enumerate(cancels) if kind is not None
        ]
        told = [(store.begun.number + i, at, order_id) for i, order_id in placed]
        store.commit(Changes(holds=held, placed=told, intents=intents, outcomes=outcomes))
        store.close()


@pytest.fixture
async def shell(
    trading_sandbox: Sandbox,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("RIPIO_API_TOKEN", trading_sandbox.credentials.api_token)
    monkeypatch.setenv("RIPIO_API_SECRET", trading_sandbox.credentials.api_secret)
    monkeypatch.setenv("TRIO_CANCEL_URL", "wss://not.the.journals.example")
    wait_for(monkeypatch, settle=0.3, ask_again=0.05)
    return Shell(trading_sandbox, tmp_path / "the.journal", capfd)


def place(sandbox: Sandbox, *names: str) -> None:
    for name in names:
        sandbox.book.create(external_id=name)


async def test_resume_cancels_what_was_left_and_the_second_time_nothing(shell: Shell) -> None:
    place(shell.sandbox, "held", "tried", "unknown", "refused", "settled")
    shell.die(
        holds=(("held", True),),
        cancels=(
            ("tried", True, None),
            ("unknown", True, "unknown"),
            ("refused", True, "rejected"),
            ("settled", True, "canceled"),
        ),
    )
    assert await shell("resume") == 0
    assert shell.told == {"held": "canceled", "tried": "canceled", "unknown": "canceled"}
    assert {order.external_id for order in shell.sandbox.book.open_orders()} == {"refused", "settled"}
    requests = len(shell.sandbox.log)
    assert await shell("resume") == 0
    assert (shell.out, shell.error) == ("", "trio-cancel: nothing was left\n")
    assert len(shell.sandbox.log) == requests


async def test_resume_by_the_venues_ids_and_in_text(shell: Shell) -> None:
    order = shell.sandbox.book.create()
    shell.die(holds=((order.id, False),), ago=1e6)
    assert await shell("resume", "--json") == 0
    assert shell.told[order.id] == "canceled"
    assert "1 order: 1 canceled" in shell.error


async def test_an_order_that_never_came_is_asked_for_until_it_cannot_come(shell: Shell) -> None:
    shell.die(holds=(("never placed", True),), cancels=(("mistyped", True, None),))
    assert await shell("resume") == 1
    assert shell.told == {"never placed": "not_found", "mistyped": "not_found"}
    assert "2 orders may still be on the book" in shell.error
    asked = [record.params["external_id"] for record in shell.sandbox.log]
    assert asked.count("never placed") > 1
    assert asked.count("mistyped") == 1
    assert await shell("resume") == 0
    assert "nothing was left" in shell.error


async def test_an_order_that_comes_late_is_canceled(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(monkeypatch, settle=5.0, ask_again=0.05)
    shell.sandbox.book.create(external_id="late", delay=0.3)
    shell.die(holds=(("late", True),))
    assert await shell("resume") == 0
    assert shell.told == {"late": "canceled"}
    assert shell.sandbox.book.open_orders(pending=True) == []


async def test_old_external_ids_are_listed_and_left_alone(shell: Shell) -> None:
    place(shell.sandbox, "old", "young")
    shell.die(holds=(("old", True),), ago=3700)
    shell.die(holds=(("young", True),), ago=3500)
    assert await shell("resume") == 1
    assert shell.told == {"old": "not_sent", "young": "canceled"}
    assert "older than 1 h and may name a newer order; --old-external-ids takes it" in shell.error
    assert [order.external_id for order in shell.sandbox.book.open_orders()] == ["old"]
    assert await shell("resume", "--old-external-ids") == 0
    assert shell.told == {"old": "canceled"}


async def test_what_is_stamped_in_the_future_is_listed_and_left_alone(shell: Shell) -> None:
    place(shell.sandbox, "held", "tried")
    shell.die(holds=(("held", True),), cancels=(("tried", True, None),), ago=-600)
    assert await shell("resume") == 1
    assert shell.told == {"held": "not_sent", "tried": "not_sent"}
    assert "stamped in the future, since the clock was set back, and may name a newer order" in shell.error
    assert len(shell.sandbox.book.open_orders()) == 2
    await shell("resume", "--old-external-ids")
    assert len(shell.sandbox.book.open_orders()) == 0


async def test_a_fifo_is_no_journal(shell: Shell) -> None:
    os.mkfifo(shell.path)
    for command in ("journal", "resume"):
        assert await shell(command) == 2
        assert "is a FIFO, not a regular file" in shell.error


async def test_another_account_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    place(shell.sandbox, "held")
    shell.die(holds=(("held", True),))
    monkeypatch.setenv("RIPIO_API_TOKEN", "another")
    assert await shell("resume") == 2
    assert "belongs to another account" in shell.error
    assert len(shell.sandbox.log) == 0


async def test_a_process_that_lives_is_not_disturbed(shell: Shell) -> None:
    place(shell.sandbox, "held")
    async with (
        open_trading_ws(shell.sandbox.url, credentials=shell.sandbox.credentials, journal=shell.path) as ws,
        ws.open_order_scope() as orders,
    ):
        await orders.add(external_id="held")
        orders.placed(external_id="held")
        assert await shell("resume") == 2
        assert "is being written by another session" in shell.error
        assert len(shell.sandbox.book.open_orders()) == 1
        assert await shell("journal") == 0
        assert "1 order was left held or unsettled; a session is writing the journal now" in shell.error
    assert await shell("resume") == 0
    assert "nothing was left" in shell.error


async def test_the_venue_may_have_moved(shell: Shell) -> None:
    place(shell.sandbox, "held")
    shell.die(holds=(("held", True),), url="ws://127.0.0.1:1")
    assert await shell("resume") == 1
    assert shell.told == {"held": "not_sent"}
    assert await shell("resume", "--url", shell.sandbox.url) == 0
    assert shell.told == {"held": "canceled"}


async def test_a_process_that_lived_on_meanwhile_is_noticed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    place(shell.sandbox, "held", "discarded")
    shell.die(holds=(("held", True), ("discarded", True)))
    before = read_journal(shell.path)
    store = SQLiteStore.open(shell.path, Account(shell.sandbox.url, shell.sandbox.credentials), "live", 0)
    store.commit(Changes(releases=[(2, 1)]))
    store.close()
    answers = [before]
    monkeypatch.setattr(_resume, "read_journal", lambda path: answers.pop() if answers else read_journal(path))
    assert await shell("resume") == 2
    assert "The journal has changed since it was read" in shell.error
    assert len(shell.sandbox.book.open_orders()) == 2


@pytest.mark.parametrize("command", ["resume", "journal"])
async def test_a_journal_that_is_none(command: str, shell: Shell) -> None:
    assert await shell(command) == 2
    assert "There is no journal at" in shell.error
    shell.path.write_bytes(b"x" * 5000)
    assert await shell(command) == 2
    assert "is damaged or not a journal" in shell.error


# trio-cancel journal


@pytest.fixture
async def written(shell: Shell) -> Shell:
    """A journal in which something has happened."""
    place(shell.sandbox, "one", "two")
    shell.sandbox.book.fill(external_id="two")
    async with (
        open_trading_ws(shell.sandbox.url, credentials=shell.sandbox.credentials, journal=shell.path) as ws,
        ws.open_order_scope() as orders,
    ):
        await orders.add(external_id="one")
        orders.placed(external_id="one")
        await ws.try_cancel(external_id="two")
    return shell


async def test_the_journal_as_text(written: Shell) -> None:
    assert await written("journal") == 0
    lines = written.out.splitlines()
    assert lines[0] == written.sandbox.url
    assert lines[1].startswith("session 1: opened 20")
    orders = "\n".join(lines[2:]).split("order with external id ")[1:]
    one, two = [[line.split()[1] if line.startswith(" ") else line for line in text.splitlines()] for text in orders]
    assert one[:6] == ["one", "held", "placed", "intended", "written", "answered"]
    assert sorted(one[6:]) == ["canceled", "released"]
    assert two == ["two", "intended", "written", "answered", "already"]
    assert "code 40408" in written.out
    assert written.error == ""


async def test_the_journal_as_json(written: Shell) -> None:
    assert await written("journal", "--json") == 0
    one, two = [json.loads(line) for line in written.out.splitlines()]
    assert (one["external_id"], one["held"], one["unsettled"]) == ("one", False, False)
    assert one["holds"][0]["released_at"] >= one["holds"][0]["held_at"]
    (cancel,) = two["cancels"]
    assert (cancel["outcome"], cancel["error_code"]) == ("already_closed", 40408)
    (attempt,) = cancel["attempts"]
    assert attempt["status"] == 400
    assert cancel["intended_at"] <= attempt["written_at"] <= attempt["answered_at"] <= cancel["settled_at"]


async def test_the_journal_as_csv(written: Shell) -> None:
    assert await written("journal", "--csv") == 0
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(written.out)))
    one = [row["event"] for row in rows if row["external_id"] == "one"]
    assert sorted(one) == sorted(["held", "placed", "intended", "written", "answered", "canceled", "released"])
    assert one[:4] == ["held", "placed", "intended", "written"]
    log = {record.request_id for record in written.sandbox.log}
    assert {row["request_id"] for row in rows if row["event"] == "answered"} == log
    assert {row["session"] for row in rows} == {"1"}


async def test_one_form_at_a_time(written: Shell) -> None:
    assert await written("journal", "--csv", "--json") == 2
    assert "--json and --csv exclude each other" in written.error


def test_credentials_are_needed_only_where_something_was_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    monkeypatch.delenv("RIPIO_API_SECRET", raising=False)
    path = tmp_path / "the.journal"
    store = SQLiteStore.open(path, Account("wss://venue.example", Credentials("a", "b")), "x", 0)
    assert run(["resume", str(path)]) == 0
    store.commit(Changes(holds=[(1, 1, 0, "x", 0, None, None)]))
    store.close()
    assert run(["resume", str(path)]) == 2
    assert "RIPIO_API_TOKEN" in capfd.readouterr().err


async def test_only_some_orders_are_told_of(written: Shell) -> None:
    place(written.sandbox, "three")
    written.die(holds=(("three", True),), ago=-3600)
    order_id = written.sandbox.book.get(external_id="one").id

    async def names(*words: str, status: int = 0) -> list[str]:
        assert await written("journal", "--json", *words) == status
        return [json.loads(line)["external_id"] for line in written.out.splitlines()]

    assert await names("--left") == ["three"]
    assert await names("--order", "one") == ["one"]
    assert await names("--order", "one", "--order", "two", "--session", "1") == ["one", "two"]
    assert await names("--session", "2") == ["three"]
    assert await names("--since", "1h") == ["one", "two", "three"]
    assert await names("--since", "2099-01-01") == []
    assert await names("--since", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))) == ["three"]
    assert await names("--order", order_id.lower(), status=1) == []  # by external id alone: the journal has no other
    assert f"the journal has no order {order_id.lower()}" in written.error
    words = [word for number in range(12) for word in ("--order", f"no-{number}")]
    assert await names(*words, status=1) == []
    assert "nor 2 more" in written.error
    for word in ("yesterday", "5x", "", "-1h", "9" * 40 + "d", "2026-13-01", "h"):
        assert await written("journal", f"--since={word}") == 2, word
        assert "--since needs a moment" in written.error
    assert await written("journal", "--session", "7") == 2
    assert "has no session 7; its sessions are 1 to 2" in written.error


async def test_a_session_that_died_is_marked_and_one_that_lives_too(written: Shell) -> None:
    written.die(holds=(("three", True),))
    assert await written("journal") == 0
    first, second = [line for line in written.out.splitlines() if line.startswith("session")]
    assert ", closed 20" in first
    assert second.endswith(", died")
    assert "trio-cancel resume cancels what is still on the book" in written.error
    async with open_trading_ws(written.sandbox.url, credentials=written.sandbox.credentials, journal=written.path):
        assert await written("journal") == 0
        assert [line.split(", ")[-1] for line in written.out.splitlines() if line.startswith("session")][1:] == [
            "died",
            "lives",
        ]
        assert "a session is writing the journal now" in written.error


async def test_times_are_told_to_the_second_on_a_terminal(written: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_journal, "is_terminal", lambda _: True)
    assert await written("journal") == 0
    lines = [line for line in written.out.splitlines() if line.startswith("  ")]
    assert lines
    assert all(re.match(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \w", line) for line in lines)


@pytest.mark.skipif(not HAS_FLOCK, reason="the lock is SQLite's")
async def test_a_look_at_the_lock_keeps_no_session_out(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert is_locked(str(path)) is None
    for _ in range(20):
        store = SQLiteStore.open(path, Account("wss://venue.example", Credentials("a", "b")), "x", 0)
        assert is_locked(str(path)) is True
        store.close()
        assert is_locked(str(path)) is False


async def test_a_journal_is_compacted(shell: Shell) -> None:
    place(shell.sandbox, "left")
    settled = tuple((f"settled-{number}", True, "canceled") for number in range(2000))
    shell.die(cancels=(("young", True, "canceled"),))
    shell.die(holds=(("left", True),), cancels=settled, ago=86_400 * 31)
    size = shell.path.stat().st_size
    left = read_journal(shell.path).left
    assert await shell("journal", "--compact", "--days", "40") == 0
    assert "0 records" in shell.error
    assert await shell("journal", "--compact") == 0
    assert "1,999 records" in shell.error  # the newest keeps the count
    assert shell.path.stat().st_size < size / 3
    contents = read_journal(shell.path)
    assert [order.request.key for order in contents.orders] == ["young", "left", "settled-1999"]
    assert contents.left == left
    assert [session.number for session in contents.sessions] == [1, 2]
    assert await shell("resume", "--old-external-ids") == 0
    assert await shell("journal", "--compact", "--days", "0") == 0
    assert [order.request.key for order in read_journal(shell.path).orders] == ["left"]
    for words in (("--days", "-1"), ("--days", "nan"), ("--days", "x"), ("--json",), ("--left",)):
        assert await shell("journal", "--compact", *words) == 2, words


async def test_a_journal_that_is_in_use_or_none_is_not_compacted(shell: Shell) -> None:
    assert await shell("journal", "--compact") == 2
    assert "There is no journal" in shell.error
    assert not shell.path.exists()
    async with open_trading_ws(shell.sandbox.url, credentials=shell.sandbox.credentials, journal=shell.path):
        assert await shell("journal", "--compact") == 2
        assert "is being written by another session" in shell.error
    shell.path.write_bytes(b"x" * 5000)
    assert await shell("journal", "--compact") == 2
    assert "damaged or not a journal" in shell.error
    assert shell.path.read_bytes() == b"x" * 5000


async def test_opening_forgets_what_is_old_and_a_failure_there_stops_nothing(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    shell.die(holds=(("left", True),), cancels=(("old", True, "canceled"), ("rejected", True, "rejected")), ago=1e7)
    shell.die(cancels=(("new", True, "canceled"),))
    with closing(sqlite3.connect(shell.path)) as database:  # as a full disk would, in the middle of it
        database.execute("CREATE TRIGGER t AFTER DELETE ON outcome BEGIN SELECT RAISE(ABORT, 'full'); END")
    before = read_journal(shell.path).orders
    shell.die(cancels=(("newer", True, "canceled"),))
    assert "could not be compacted" in caplog.text
    assert read_journal(shell.path).orders[:-1] == before
    with closing(sqlite3.connect(shell.path)) as database:
        database.execute("DROP TRIGGER t")
    shell.die()
    assert [order.request.key for order in read_journal(shell.path).orders] == ["left", "new", "newer"]


async def test_nothing_to_resume_where_there_is_no_journal_yet(shell: Shell) -> None:
    assert await shell("resume", "--missing-ok") == 0
    assert "nothing was left" in shell.error
    assert not shell.path.exists()
    place(shell.sandbox, "held")
    shell.die(holds=(("held", True),))
    assert await shell("resume", "--missing-ok") == 0
    assert shell.told == {"held": "canceled"}
    log = shell.path.with_name(f"{shell.path.name}-wal")
    shell.path.unlink()
    log.write_bytes(b"x")  # a part of it is there: what was left is in what is missing
    assert await shell("resume", "--missing-ok") == 2
    for wrong in ("", str(shell.path.parent), str(shell.path.parent / "no" / "such" / "journal")):
        assert await run_async(["resume", wrong, "--missing-ok"]) == 2, wrong


# External ids that are used again


def record(shell: Shell, name: str) -> dict[str, Any]:
    (found,) = [line for line in map(json.loads, shell.out.splitlines()) if line["external_id"] == name]
    return dict(found)


@pytest.mark.parametrize("old", ["filled", "open"])
async def test_a_yes_that_may_be_an_older_orders_is_told_and_then_over(shell: Shell, old: str) -> None:
    place(shell.sandbox, "held")
    if old == "filled":
        shell.sandbox.book.fill(external_id="held")
    shell.die(holds=(("held", True),), ago=-1.0)  # the order was there before it was added
    assert await shell("resume") == 3
    told = record(shell, "held")
    assert (told["status"], told["off_book"], told["cause_type"]) == ("unknown", None, "NotSurelyThisOrder")
    assert "with this external id" in told["cause"]
    assert len(told["attempts"]) == len(shell.sandbox.log) > 1
    assert shell.sandbox.book.open_orders() == []
    assert await shell("resume") == 0
    assert "nothing was left" in shell.error


async def test_without_the_clock_of_the_hold_nothing_is_sure(shell: Shell) -> None:
    place(shell.sandbox, "held")
    shell.die(holds=(("held", True),), clock=(None, None))
    assert await shell("resume") == 3
    assert shell.sandbox.book.open_orders() == []


@pytest.mark.parametrize("with_id", [False, True])
async def test_what_was_placed_is_the_order(shell: Shell, with_id: bool) -> None:
    order = shell.sandbox.book.create(external_id="held")
    shell.sandbox.book.fill(order.id)
    if with_id:  # somebody has used the name again since
        place(shell.sandbox, "held")
    shell.die(holds=(("held", True),), ago=1e6 if with_id else -1.0, placed=((0, order.id if with_id else None),))
    assert await shell("resume") == 0
    assert shell.told == {"held": "already_closed"}
    assert len(shell.sandbox.book.open_orders()) == with_id
    assert await shell("resume") == 0
    assert "nothing was left" in shell.error


async def test_an_outcome_for_the_name_does_not_end_a_hold(shell: Shell) -> None:
    """The session that died had swept the name, and found the old order closed."""
    place(shell.sandbox, "held")
    shell.die(holds=(("held", True),), cancels=(("held", True, "already_closed"),))
    assert await shell("resume") == 0
    assert shell.told == {"held": "canceled"}
    assert shell.sandbox.book.open_orders() == []


async def test_a_cancel_by_the_venues_id_ends_the_hold_of_the_name(shell: Shell) -> None:
    shell.die(holds=(("held", True),), cancels=(("held", True, None), ("A", False, "canceled")), placed=((0, "A"),))
    assert await shell("resume") == 0
    assert "nothing was left" in shell.error


async def test_a_journal_of_format_1_is_read_and_brought_up_to_date(shell: Shell) -> None:
    shell.die(
        holds=(("ended", True), ("open", True)),
        cancels=(("ended", True, "already_closed"),),
        clock=(None, None),
    )
    with closing(sqlite3.connect(shell.path)) as database:
        database.executescript(
            "DROP TABLE placed; ALTER TABLE hold DROP COLUMN clock_low; ALTER TABLE hold DROP COLUMN clock_high;"
            "PRAGMA user_version = 1;"
        )
    before = read_journal(shell.path)
    assert [order.request.key for order in before.left] == ["open"]  # any cancel of the name ended a hold of it
    shell.die(holds=(("new", True),), placed=((0, "A"),))
    after = read_journal(shell.path)
    assert [order.request.key for order in after.left] == ["open", "new"]
    assert after.left[1].open_holds[0].order_id == "A"
    assert await shell("journal", "--json") == 0
    (hold,) = record(shell, "new")["holds"]
    assert (hold["order_id"], hold["placed_at"], hold["released_at"]) == ("A", hold["held_at"], None)
