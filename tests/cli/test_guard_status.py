"""What ``trio-cancel guard --status`` prints; nothing is contacted but a port where nobody listens."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from trio_cancel._cli import run
from trio_cancel._cli._guard_status import as_json, as_text, status_of
from trio_cancel._guard.status import GuardStatus, JournalStatus, Overview

NOWHERE = "postgresql://bot:the-password@127.0.0.1:1/trading"
LIVE = JournalStatus("mm-1", "wss://venue/", "live", 3.0, 0.4, 2, watched=True, guard=None)
GUARD = GuardStatus(3, "host:42", lives=True, silent=0.2, accounts=1)


def test_a_session_that_lives_and_is_watched() -> None:
    overview = Overview((LIVE,), (GUARD,))
    guard, journal = as_text(overview, 200).splitlines()
    assert guard == "guard 3 on host:42: alive 0.2 s ago, serves 1 account"
    assert journal.startswith(
        "journal mm-1 at wss://venue/: its session is alive, 2 orders held or not settled, last sign"
    )
    assert journal.endswith(" of life 0.4 s ago (lease 3 s)")
    assert status_of(overview) == 0


@pytest.mark.parametrize(
    ("change", "says", "status"),
    [
        ({"watched": False}, "NO GUARD HAS ITS CREDENTIALS", 1),
        ({"state": "expired", "silent": 70.0}, "ITS SESSION HAS NOT BEEN HEARD OF FOR ITS LEASE", 1),
        ({"state": "expired", "silent": 6000.0}, "last sign of life 2 h ago", 1),
        (
            {"state": "left", "orders": 1, "silent": 600.0},
            "1 order held or not settled, last sign of life 10 min ago",
            1,
        ),
        ({"state": "taken", "guard": 3}, "guard 3 is dealing with it", 0),
        ({"state": "taken"}, "a guard is dealing with it", 0),
        ({"state": "free", "watched": False, "orders": 0}, "1 journal free, with nothing left", 0),
        ({"name": "a\x1b[31mred"}, "journal a\\x1b[31mred at", 0),
    ],
)
def test_a_journal(change: dict[str, Any], says: str, status: int) -> None:
    overview = Overview((attrs.evolve(LIVE, **change),), (GUARD,))
    assert says in as_text(overview, 400)
    assert status_of(overview) == status


def test_nobody_watches() -> None:
    assert "nobody watches these journals" in as_text(Overview((), ()), 80)
    assert "0 journals free" in as_text(Overview((), ()), 80)
    dead = attrs.evolve(GUARD, lives=False, silent=400000.0)
    assert "silent for 5 days, it has probably died" in as_text(Overview((), (dead,)), 80)


@pytest.mark.parametrize("width", [1, 40, 80])
def test_it_fits_the_terminal(width: int) -> None:
    text = as_text(Overview((attrs.evolve(LIVE, name="n" * 100),), (GUARD,)), width)
    assert max(map(len, text.splitlines())) <= max(20, width)
    assert text.isascii()


def test_json_has_a_line_for_each() -> None:
    guard, journal = map(json.loads, as_json(Overview((attrs.evolve(LIVE, silent=0.12345),), (GUARD,))).splitlines())
    assert guard == {"guard": 3, "name": "host:42", "lives": True, "silent": 0.2, "accounts": 1}
    assert journal == {
        "journal": "mm-1",
        "url": "wss://venue/",
        "state": "live",
        "orders": 2,
        "watched": True,
        "lease": 3.0,
        "silent": 0.123,
        "guard": None,
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([NOWHERE], "The database postgresql://127.0.0.1:1/trading cannot be opened"),
        ([f"{NOWHERE}?journal=a"], "--status looks at a whole database"),
        (["a.journal"], "--status looks at a whole database"),
        ([NOWHERE, "--once"], "--status only looks; leave out --once"),
        ([NOWHERE, "--credentials", "."], "--status only looks; leave out --once"),
    ],
)
def test_wrong_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guard", "--status", *words]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert "the-password" not in said.err
    assert not said.out
