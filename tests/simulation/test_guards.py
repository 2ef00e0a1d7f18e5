from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trio_cancel._journal.lease import LeaseState

from . import table
from .guards import draw_guards
from .guards_batch import judge_guards
from .guards_check import check_guards
from .guards_defects import GUARD_DEFECTS
from .guards_run import GuardRun, Taking, run_guards
from .scopes_batch import ScopeSummary

SEEDS = 20
ROOT = Path(__file__).parents[2]


def test_journals_in_a_database_and_guards() -> None:
    """``python -m tests.simulation --guards 0..20000`` runs more of them."""
    summary = ScopeSummary()
    for seed in range(SEEDS):
        summary.add(judge_guards(seed))
    assert summary.violations == [], "replay one with: python -m tests.simulation --guard N"
    happened = ("killed", "stopped", "black hole", "database restarted", "servers apart", "acknowledgement lost")
    assert all(summary.events[name] for name in happened)
    assert any(name.startswith("fail-over") for name in summary.events)
    assert summary.events["take-overs of a session that was silent"]
    assert summary.events["reports of guards"]
    assert summary.outcomes["canceled"]


def test_each_way_to_be_stopped_just_when_it_matters() -> None:
    drawn = [draw_guards(seed).bots[0] for seed in range(60)]
    sleeps = [bot.sleep for bot in drawn if bot.sleep is not None]
    assert any(trade.stopped > bot.lease and trade.dies for bot in drawn for trade in bot.trades[:1])
    assert any(sleep.away for sleep in sleeps)
    assert any(sleep.stands for sleep in sleeps)
    seed = next(seed for seed, bot in enumerate(drawn) if bot.sleep is not None and bot.sleep.stands)
    events = judge_guards(seed).faults
    assert events["stopped with an answer on the way"]
    assert events["the server's process stood still in a commit"]


def test_a_black_hole_swallows_what_is_sent_on_a_connection_that_is_open() -> None:
    """Connections know whose they are: what a killed process had open is lost, too."""
    whole = run_guards(draw_guards(5))
    assert whole.faults["killed"]
    assert all(raw.process is not None for bot in whole.bots for raw in bot.process.connections)
    assert any(bot.process.connections for bot in whole.bots)


def _g4(away: tuple[float, float], *, beaten: float, locked: float, here: bool = True) -> list[str]:
    """Check a run with one take-over of a session with a lease of 1 s, whose commit took until the second 20."""
    whole = GuardRun(draw_guards(0), away=[away])
    taking = Taking(20.0, "a", 2, "guard-0", locked, LeaseState.UNCERTAIN, beaten, here=here, lease=1.0, live=True)
    whole.takings.append(taking)
    return check_guards(whole)


@pytest.mark.parametrize(
    ("away", "beaten", "locked", "here"),
    [
        ((5.0, 7.0), 4.9, 8.1, True),  # a lease after it was there again
        ((11.5, 19.9), 10.0, 11.4, True),  # it went away in the commit
        ((11.1, 19.9), 10.0, 11.4, True),  # or before, but a lease after the beat
        ((5.0, 7.0), 4.0, 7.5, False),  # the session was stopped, so that it would have been silent in any case
    ],
)
def test_who_was_silent_for_a_lease_may_be_taken_over(
    away: tuple[float, float], beaten: float, locked: float, here: bool
) -> None:
    assert _g4(away, beaten=beaten, locked=locked, here=here) == []


@pytest.mark.parametrize(
    ("away", "beaten", "locked", "why"),
    [
        ((1.0, 3.0), 10.0, 10.9, "0.900 s after the last beat"),
        ((5.0, 7.0), 4.9, 7.5, "when its session could have been heard for 0.500 s"),
        ((10.4, 19.9), 10.0, 11.4, "when its session could have been heard for 0.400 s"),
    ],
)
def test_who_was_silent_because_the_database_was_away_may_not(
    away: tuple[float, float], beaten: float, locked: float, why: str
) -> None:
    (wrong,) = _g4(away, beaten=beaten, locked=locked)
    assert wrong.startswith("G4: a: epoch 2 began at 20.000, ")
    assert why in wrong


def test_a_take_over_is_judged_by_when_the_row_was_locked() -> None:
    """In this seed its commit comes seconds later, since it waits for the second server, while the session goes on."""
    whole = run_guards(draw_guards(9132))
    assert max(each.at - each.locked for each in whole.takings if each.live) > 4.0
    assert check_guards(whole) == []


def test_a_name_that_another_journal_has_stays_left() -> None:
    """In this seed that one's `add` was recorded, and its answer lost, so that no program held the name."""
    whole = run_guards(draw_guards(3229))
    assert whole.names["mm-1-1"] == "mm-1"
    assert "mm-1-1" in whole.left["mm-3"]
    assert any(order.external_id == "mm-1-1" and order.status.active for order in whole.orders.values())
    assert check_guards(whole) == []
    whole.names["mm-1-1"] = "mm-3"
    assert [wrong[:3] for wrong in check_guards(whole)] == ["G7:"], "if the name were its own, a guard had to cancel it"


def test_a_seed_gives_the_same_trace_in_any_process() -> None:
    summary = ScopeSummary()
    for seed in range(3):
        summary.add(judge_guards(seed))
    command = [sys.executable, "-m", "tests.simulation", "--guards", "0..3"]
    other = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "3"}, check=True, capture_output=True, text=True
    )
    assert other.stdout.splitlines()[0] == next(summary.lines())


@pytest.mark.parametrize("name", table.read(guards=True))
def test_each_defect_is_caught(name: str) -> None:
    """With the defect put back its seed is a violation, without it the seed passes."""
    seed = table.read(guards=True)[name]
    stale = "DEFECTS.md is stale: python -m tests.simulation --defects"
    assert seed < table.MOST, stale
    verdict = judge_guards(seed, name)
    assert verdict.violations, stale
    assert verdict.idle == (), "what was put in never ran"
    assert judge_guards(seed).violations == ()


def test_every_defect_has_its_seed() -> None:
    assert set(table.read(guards=True)) == set(GUARD_DEFECTS)
