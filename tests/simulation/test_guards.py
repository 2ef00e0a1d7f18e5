from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import table
from .guards_batch import judge_guards
from .guards_defects import GUARD_DEFECTS
from .scopes_batch import ScopeSummary

SEEDS = 12
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


def test_the_table_names_defects_that_are_there() -> None:
    assert set(table.read(guards=True)) <= set(GUARD_DEFECTS)
    assert len(table.read(guards=True)) >= 6
