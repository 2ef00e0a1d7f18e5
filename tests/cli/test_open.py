"""``trio-cancel cancel --open``: scopes, confirmations, what is told, exit statuses; also as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.test_end_to_end import PATIENCE, PROGRAM, Served, run, served
from tests.cli.test_lookups import lines, venue
from trio_cancel._cli._app import run_async
from trio_cancel.sandbox import Fault, RestFault

__all__ = ["served"]  # the fixture

YES = ["--everything", "--yes", "--quiet-for", "0.3"]


def command(tmp_path: Any, *words: str) -> list[str]:
    return ["cancel", "--open", *words, "--ca-file", str(tmp_path / "ca.pem")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--open"], "needs to know which orders"),
        (["--open", "--yes"], "needs to know which orders"),
        (["--open", "--everything", "--pair", "BTC_BRL"], "without --pair and --side"),
        (["--open", "--everything", "--side", "buy"], "without --pair and --side"),
        (["--open", "--pair", " ", "--yes"], "--pair needs the name of a market"),
        (["--open", "--side", "long", "--yes"], "side"),
        (["--open", "--everything", "A", "--yes"], "without ids, --external-id and --from"),
        (["--open", "--everything", "--external-id", "A", "--yes"], "without ids, --external-id and --from"),
        (["--open", "--everything", "--from", "ids.txt", "--yes"], "without ids, --external-id and --from"),
        (["--open", "--everything", "--literal", "--yes"], "without ids"),
        (["--open", "--everything", "--skip-bad", "--yes"], "without ids"),
        (["--open", "--everything"], "without a terminal nobody can confirm"),
        (["--open", "--pair", "BTC_BRL"], "that all open orders of BTC_BRL should be canceled; add --yes"),
        (["--open", *YES[:2], "--quiet-for", "0"], "--quiet-for"),
        (["--open", *YES[:2], "--quiet-for", "nan"], "--quiet-for"),
        (["--open", *YES[:2], "--quiet-for", "1000"], "--quiet-for"),
        (["--open", *YES, "--deadline", "-1"], "--deadline"),
        (["A", "--yes"], "belong to --open"),
        (["A", "--pair", "BTC_BRL"], "belong to --open"),
        (["A", "--dry-run"], "belong to --open"),
        (["A", "--quiet-for", "3"], "belong to --open"),
        (["--everything"], "belong to --open"),
    ],
)
async def test_what_is_refused_before_anything_is_asked(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        order = sandbox.book.create()
        assert await run_async(["cancel", *words, "--ca-file", str(tmp_path / "ca.pem")]) == 2
        assert says in capsys.readouterr().err
        assert (sandbox.rest_log.received, sandbox.log.connections) == (0, sandbox.log.connections.__class__())
        assert sandbox.book.get(order.id).status.active


async def test_the_rest_api_must_be_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        monkeypatch.delenv("TRIO_CANCEL_REST_URL")
        assert await run_async(command(tmp_path, *YES)) == 2
        assert "--rest-url" in capsys.readouterr().err
        assert await run_async(command(tmp_path, *YES, "--rest-url", sandbox.rest_url)) == 0


async def test_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        ids = {sandbox.book.create(external_id=f"x{number}").id for number in range(230)}
        assert await run_async(command(tmp_path, *YES)) == 0
        told = capsys.readouterr()
        records = [json.loads(line) for line in told.out.splitlines()]
        assert {record["id"] for record in records} == ids
        assert len(records) == 230
        assert {record["status"] for record in records} == {"canceled"}
        assert "230 orders: 230 canceled" in told.err
        assert re.search(r"none of the orders on all markets seen since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.err)
        assert "empty" not in told.err
        assert await run_async(command(tmp_path, *YES)) == 0
        told = capsys.readouterr()
        assert told.out == ""
        assert "no orders" in told.err


async def test_a_scope(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        one = sandbox.book.create(side="sell")
        for pair, side in (("BTC_BRL", "buy"), ("ETH_BRL", "sell")):
            sandbox.book.create(pair=pair, side=side)
        words = ["--pair", "BTC_BRL", "--side", "sell", "--yes", "--quiet-for", "0.3"]
        assert await run_async(command(tmp_path, *words)) == 0
        told = capsys.readouterr()
        assert [json.loads(line)["id"] for line in told.out.splitlines()] == [one.id]
        assert "none of the sell orders of BTC_BRL seen since" in told.err
        assert "2 other open orders are not meant" in told.err
        assert len(sandbox.book.open_orders()) == 2


async def test_a_dry_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        orders = [sandbox.book.create(amount="0.3") for _ in range(3)]
        assert await run_async(command(tmp_path, "--everything", "--dry-run")) == 0
        told = capsys.readouterr()
        records = [json.loads(line) for line in told.out.splitlines()]
        assert [(record["id"], record["status"]) for record in records] == [(order.id, "open") for order in orders]
        assert "3 open orders listed, nothing was canceled" in told.err
        monkeypatch.setattr("trio_cancel._cli._open.is_terminal", lambda stream: True)
        assert await run_async(command(tmp_path, "--pair", "ETH_BRL", "--dry-run")) == 0
        told = capsys.readouterr()
        assert told.out.startswith("status ")
        assert "0 open orders listed, nothing was canceled; 3 other open orders are not meant" in told.err
        assert len(sandbox.book.open_orders()) == 3
        assert not sandbox.log.connections
        sandbox.fault_on_rest(*[RestFault.ERROR_403] * 2)
        assert await run_async(command(tmp_path, "--everything", "--dry-run")) == 1
        assert "the list is not complete: The venue answered 403" in capsys.readouterr().err


async def test_wrong_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        sandbox.book.create()
        monkeypatch.setenv("RIPIO_API_SECRET", "another")
        for words in (YES, ["--everything", "--dry-run"]):
            assert await run_async(command(tmp_path, *words)) == 2
            assert "heck the token, the secret and the clock" in capsys.readouterr().err
        assert len(sandbox.book.open_orders()) == 1


async def test_what_is_known_is_canceled_though_the_list_breaks_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        for _ in range(150):
            sandbox.book.create()
        sandbox.fault_on_rest(None, RestFault.ERROR_403)
        assert await run_async(command(tmp_path, *YES)) == 1
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 100
        assert "the list is not complete" in told.err
        assert "none of" not in told.err


async def test_no_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        sandbox.book.create()
        assert await run_async(command(tmp_path, *YES, "--url", "wss://127.0.0.1:9")) == 1
        assert "127.0.0.1:9" in capsys.readouterr().err


async def test_an_order_that_stays_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        good, bad = sandbox.book.create(), sandbox.book.create()
        sandbox.fault_on(bad.id, *[Fault.REFUSE_DAILY] * 50)
        assert await run_async(command(tmp_path, *YES)) == 1
        told = capsys.readouterr()
        records = [json.loads(line) for line in told.out.splitlines()]
        assert [(record["id"], record["status"]) for record in records] == [(good.id, "canceled"), (bad.id, "rejected")]
        assert len(records[1]["attempts"]) == 3
        assert "none of" not in told.err


async def test_a_deadline_accounts_for_what_was_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        good, silent = sandbox.book.create(), sandbox.book.create()
        sandbox.fault_on(silent.id, *[Fault.SILENT_BEFORE] * 50)
        assert await run_async(command(tmp_path, *YES, "--deadline", "1.5")) == 3
        told = capsys.readouterr()
        records = {record["id"]: record["status"] for record in map(json.loads, told.out.splitlines())}
        assert records == {good.id: "canceled", silent.id: "unknown"}
        assert "the deadline of 1.5 s passed" in told.err
        assert await run_async(command(tmp_path, *YES[:2], "--deadline", "0.5")) != 0


async def test_a_journal_records_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        order = sandbox.book.create()
        journal = str(tmp_path / "journal.db")
        assert await run_async(command(tmp_path, *YES, "--journal", journal)) == 0
        capsys.readouterr()
        assert await run_async(["journal", journal, "--json"]) == 0
        assert order.id in capsys.readouterr().out
        assert lines(capsys) == []


# As a process


def at_terminal(served: Served, answer: Callable[[int, subprocess.Popen[bytes]], None], *words: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    environment = served.environment | {"TRIO_CANCEL_REST_URL": served.rest_url, "COLUMNS": "200", "TERM": "dumb"}
    call = [*PROGRAM, "cancel", "--open", *words, "--ca-file", served.ca_file, "--quiet-for", "0.3"]
    with subprocess.Popen(call, env=environment, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        told = b""
        asked = False
        ends_at = time.monotonic() + PATIENCE
        while time.monotonic() < ends_at:
            ready, _, _ = select.select([ours], [], [], 0.2)
            try:
                told += os.read(ours, 65536) if ready else b""
            except OSError:  # the other end is closed
                break
            if not asked and b"[y/N]" in told:
                asked = True
                answer(ours, process)
            if process.poll() is not None and not ready:
                break
        os.close(ours)
        assert process.stdout is not None
        process.stdout.read()
        return process.wait(PATIENCE), told.decode()


def says(text: bytes) -> Callable[[int, subprocess.Popen[bytes]], None]:
    return lambda terminal, _: [os.write(terminal, text), None][1]  # type: ignore[return-value]  # None


def open_left(served: Served) -> int:
    done = run(
        "cancel", "--open", "--everything", "--dry-run", "--ca-file", served.ca_file, "--rest-url", served.rest_url,
        env=served.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return len(done.stdout.splitlines())


def test_a_person_is_asked(served: Served) -> None:
    for answer in (b"n\n", b"\n", b"yesterday\n", b"\x04"):
        status, told = at_terminal(served, says(answer), "--everything")
        assert (status, open_left(served)) == (1, 20)
        assert "20 open orders" in told
        assert "Cancel all open orders on all markets, and any that appear" in told
        assert "nothing was canceled" in told
    status, told = at_terminal(served, lambda _, process: process.send_signal(signal.SIGINT), "--pair", "BTC_BRL")
    assert (status, open_left(served)) == (130, 20)
    assert "interrupted; nothing was canceled" in told
    status, told = at_terminal(served, says(b"y\n"), "--everything")
    assert (status, open_left(served)) == (0, 0), told
    assert "seen since" in told


def test_without_a_terminal(served: Served) -> None:
    words = ["cancel", "--open", "--everything", "--ca-file", served.ca_file, "--rest-url", served.rest_url]
    for options in ({"stdin": subprocess.DEVNULL}, {"input": "y\n"}):
        done = run(*words, env=served.environment, **options)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert line.startswith("trio-cancel: Nothing was sent: without a terminal nobody can confirm")
    assert open_left(served) == 20
    done = run(*words, "--yes", "--quiet-for", "0.5", env=served.environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20
    assert "20 orders: 20 canceled" in done.stderr
    assert open_left(served) == 0


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_it_waits(served: Served, signum: int, status: int) -> None:
    words = ["cancel", "--open", "--everything", "--yes", "--ca-file", served.ca_file, "--rest-url", served.rest_url]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*PROGRAM, *words], env=served.environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        records = [json.loads(process.stdout.readline())]
        process.send_signal(signum)
        records += map(json.loads, process.stdout)
        assert process.wait(PATIENCE) == status
        errors.seek(0)
        told = errors.read()
    assert len({record["id"] for record in records}) == len(records) == 20
    assert "interrupted" in told
    assert "Traceback" not in told
