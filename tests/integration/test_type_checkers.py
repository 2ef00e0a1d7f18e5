"""What a type checker says of a caller's code: a mistake in it is found, and good code is let through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = """
from typing import assert_type

import trio

from trio_cancel import (
    AlreadyClosed, Canceled, CancelRequest, NotFound, NotSent, Observer, Outcome, Rejected, TradingWS, Unknown,
    open_trading_ws,
)
from trio_cancel.journal import JournalOrder, read_journal
from trio_cancel.lookup import OrderState, RestLookup
from trio_cancel.types import Batch, CanceledOrder, CancelReport, OutcomeKind


class Counts(Observer):
    def settled_late(self, outcome: Outcome) -> None:
        print(outcome.kind)


class Wrong(Observer):
    def settled_late(self, outcome: int) -> None: ...  # WRONG: an outcome is told


class Partial:
    def settled_late(self, outcome: Outcome) -> None: ...


async def use(ws: TradingWS, request: CancelRequest) -> None:
    assert_type(await ws.cancel("a"), CanceledOrder)
    assert_type(await ws.cancel(request), CanceledOrder)
    assert_type(await ws.cancel(external_id="b"), CanceledOrder)
    await ws.cancel()  # WRONG: no order
    await ws.cancel("a", external_id="b")  # WRONG: two names
    await ws.cancel(None)  # WRONG: no order
    await ws.cancel(7)  # WRONG: no string
    assert_type(await ws.try_cancel("a"), Outcome)
    assert_type(await ws.try_cancel(external_id="b"), Outcome)
    await ws.try_cancel()  # WRONG: no order
    await ws.try_cancel("a", external_id="b")  # WRONG: two names
    await ws.try_cancel(request, external_id="b")  # WRONG: two names
    assert_type(await ws.look_up("a"), OrderState)
    await ws.look_up()  # WRONG: no order
    await ws.dismiss()  # WRONG: no order
    await ws.dismiss("a", external_id="b")  # WRONG: two names
    async with ws.open_order_scope() as orders:
        await orders.add("a")
        await orders.add(external_id="b")
        orders.placed("a", external_id="b")
        await orders.add()  # WRONG: no order
        await orders.add("a", external_id="b")  # WRONG: two names
        orders.discard()  # WRONG: no order
        await orders.keep()  # WRONG: no order
    assert_type(await ws.cancel_many(["a"]), CancelReport)
    assert_type(ws.batch(["a"]), Batch)
    ws.batch(["a"], invalid="rise")  # WRONG: misspelt
    await ws.cancel_open(side="by")  # WRONG: misspelt


def tell(outcome: Outcome) -> None:
    assert_type(outcome.kind, OutcomeKind)
    if outcome.kind == "cancelled":  # WRONG: misspelt
        print("never")
    if outcome.kind == "canceled":
        print("fine")
    if isinstance(outcome, Canceled):
        print(outcome.order.executed_amount)
    print(outcome.order)  # WRONG: not each has one


def match_kinds(outcome: Outcome) -> str:
    match outcome:
        case Canceled() | AlreadyClosed():
            return "off"
        case NotFound() | Rejected() | NotSent() | Unknown():
            return "perhaps not"  # and no return below: it is known to be exhaustive


def by_kind(outcome: Outcome) -> None:
    if outcome.kind == "unknown":
        print(outcome.cause)


def of_journal(order: JournalOrder) -> None:
    print(read_journal("bot.journal").left, order.request)


async def main() -> None:
    async with open_trading_ws(lookup=RestLookup(), observer=Counts()) as ws:
        await use(ws, CancelRequest("a"))
    open_trading_ws(observer=Partial())  # WRONG: no Observer
    open_trading_ws(token_field="token")  # WRONG: misspelt


trio.run(main)
"""
WRONG = {number for number, line in enumerate(SAMPLE.splitlines(), 1) if "# WRONG" in line}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "sample.py").write_text(SAMPLE, encoding="utf-8")
    return tmp_path


def described(lines: set[int]) -> str:
    return "\n".join(f"{line}: {SAMPLE.splitlines()[line - 1].strip()}" for line in sorted(lines))


def check(found: set[int], said: str) -> None:
    assert not WRONG - found, "let through:\n" + described(WRONG - found)
    assert not found - WRONG, f"refused:\n{described(found - WRONG)}\n{said}"


def test_mypy(sample: Path) -> None:
    args = ["--strict", "--no-incremental", "--no-error-summary", "--hide-error-context", "sample.py"]
    done = subprocess.run([sys.executable, "-m", "mypy", *args], cwd=sample, capture_output=True, text=True)
    check(
        {int(line) for line in re.findall(r"^sample\.py:(\d+): error", done.stdout, re.MULTILINE)},
        done.stdout + done.stderr,
    )


def test_pyright(sample: Path) -> None:
    settings = {"typeCheckingMode": "strict", "include": ["sample.py"]}
    (sample / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    args = ["--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, "-m", "pyright", *args], cwd=sample, capture_output=True, text=True)
    said = json.loads(done.stdout)["generalDiagnostics"]
    found = {entry["range"]["start"]["line"] + 1 for entry in said if entry["severity"] == "error"}
    check(found, done.stdout)
