"""The command line looks orders up: show, cancel --look-up, the doctor's lines of the REST side."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from trio_cancel._cli._app import run_async
from trio_cancel.sandbox import RestFault, Sandbox, open_sandbox


@asynccontextmanager
async def venue(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, **options: Any) -> AsyncGenerator[Sandbox]:
    async with open_sandbox(rest_port=0, tls=True, **options) as sandbox:
        sandbox.write_ca(tmp_path / "ca.pem")
        monkeypatch.setenv("RIPIO_API_TOKEN", sandbox.credentials.api_token)
        monkeypatch.setenv("RIPIO_API_SECRET", sandbox.credentials.api_secret)
        monkeypatch.setenv("TRIO_CANCEL_URL", sandbox.url)
        monkeypatch.setenv("TRIO_CANCEL_REST_URL", sandbox.rest_url)
        yield sandbox


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        order = sandbox.book.create(external_id="mine", amount="0.3")
        sandbox.book.fill(order.id, amount="0.1")
        ca = ["--ca-file", str(tmp_path / "ca.pem")]
        assert await run_async(["show", order.id, "--external-id", "mine", *ca]) == 0
        first, second = lines(capsys)
        assert first["status"] == second["status"] == "executed_partially"
        assert (first["on_book"], first["executed_amount"], first["found"]) == (True, "0.1", True)
        assert second["id"] == order.id
        assert first["fills"][0]["amount"] == "0.1"
        sandbox.fault_on_rest(RestFault.ERROR_500)
        assert await run_async(["show", order.id, "never", *ca]) == 1
        failed, missing = lines(capsys)
        assert (failed["found"], failed["error_status"]) == (False, 500)
        assert (missing["found"], missing["error_status"]) == (False, 404)
        assert sandbox.book.get(order.id).status.active
        monkeypatch.setenv("RIPIO_API_SECRET", "another")
        assert await run_async(["show", order.id, *ca]) == 2
        assert "Check the token" in capsys.readouterr().err
        capsys.readouterr()
        assert await run_async(["show", *ca]) == 2
        assert "There is nothing to show" in capsys.readouterr().err
        assert await run_async(["show", "", order.id, *ca]) == 2
        bad, remedy = capsys.readouterr().err.splitlines()
        assert "ID 1: id must not be empty." in bad
        assert "Nothing was looked up: correct the arguments named above." in remedy


async def test_show_as_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        order = sandbox.book.create(amount="0.3")
        monkeypatch.setattr("trio_cancel._cli._show.is_terminal", lambda stream: True)
        assert await run_async(["show", order.id, "never", "--ca-file", str(tmp_path / "ca.pem")]) == 1
        head, shown, missing = capsys.readouterr().out.splitlines()
        assert head.split()[:2] == ["status", "order"]
        assert shown.split()[:5] == ["open", order.id, "0", "of", "0.3"]
        assert missing.startswith("not found")


async def test_cancel_looks_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        order = sandbox.book.create(amount="0.3")
        sandbox.book.fill(order.id, amount="0.1")
        sandbox.book.cancel(order.id)
        ca = ["--ca-file", str(tmp_path / "ca.pem")]
        assert await run_async(["cancel", order.id, "--look-up", *ca]) == 0
        (line,) = lines(capsys)
        assert (line["status"], line["closed_as"], line["executed_amount"]) == ("already_closed", "canceled", "0.1")
        assert await run_async(["cancel", order.id, *ca]) == 0
        (line,) = lines(capsys)
        assert (line["closed_as"], line["executed_amount"]) == (None, None)
        assert await run_async(["cancel", order.id, "--rest-url", sandbox.rest_url, *ca]) == 2
        assert "--look-up" in capsys.readouterr().err


async def test_the_token_does_not_go_to_a_venue_that_nobody_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        monkeypatch.delenv("TRIO_CANCEL_REST_URL")
        order = sandbox.book.create()
        command = ["cancel", order.id, "--look-up", "--ca-file", str(tmp_path / "ca.pem")]
        assert await run_async(command) == 2
        assert "--rest-url" in capsys.readouterr().err
        assert sandbox.book.get(order.id).status.active


async def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with venue(monkeypatch, tmp_path) as sandbox:
        command = ["doctor", "--json", "--ca-file", str(tmp_path / "ca.pem")]
        assert await run_async(command) == 0
        checks = {line["check"]: line["result"] for line in lines(capsys)}
        assert {name: checks[name] for name in ("rest", "rest clock", "rest login")} == {
            "rest": "ok",
            "rest clock": "ok",
            "rest login": "ok",
        }
        sandbox.fault_on_rest(None, RestFault.ERROR_403)
        assert await run_async(command) == 1
        (login,) = [line for line in lines(capsys) if line["check"] == "rest login"]
        assert (login["result"], login["status"]) == ("failed", 403)
        sandbox.fault_on_rest(RestFault.HTML_502)
        assert await run_async(command) == 1
        results = [line["result"] for line in lines(capsys) if line["check"].startswith("rest")]
        assert results == ["failed", "skipped", "skipped"]
        sandbox.clock_skew = 60_000
        assert await run_async(command) == 1
        (clock,) = [line for line in lines(capsys) if line["check"] == "rest clock"]
        assert clock["result"] == "failed"
