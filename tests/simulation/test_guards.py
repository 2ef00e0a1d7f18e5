from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .guards_batch import judge_guards
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
