from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from trio_cancel import TradingWS
from trio_cancel._engine.order import OrderCancel
from trio_cancel._journal.journal import Journal
from trio_cancel.types import OrderScope

from . import table
from .scopes_batch import ScopeSummary, judge_scopes
from .scopes_defects import SCOPE_DEFECTS

SEEDS = 200
ROOT = Path(__file__).parents[2]


def test_scopes_journal_and_resume() -> None:
    """``python -m tests.simulation --scopes 0..20000`` runs more of them."""
    summary = ScopeSummary()
    for seed in range(SEEDS):
        summary.add(judge_scopes(seed))
    assert summary.violations == [], "replay one with: python -m tests.simulation --scope N"
    assert all(summary.events.values())
    assert {"resume: canceled", "at a scope's end: canceled", "scope ended: OrdersLeft"} <= set(summary.events)


def test_a_seed_gives_the_same_trace_in_any_process_and_order() -> None:
    hashes = {seed: judge_scopes(seed).trace_hash for seed in reversed(range(20))}
    summary = ScopeSummary()
    for seed in range(20):
        verdict = judge_scopes(seed)
        assert verdict.trace_hash == hashes[seed]
        summary.add(verdict)
    command = [sys.executable, "-m", "tests.simulation", "--scopes", "0..20"]
    other = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "3"}, check=True, capture_output=True, text=True
    )
    assert other.stdout.splitlines()[0] == next(summary.lines())


@pytest.mark.parametrize("name", SCOPE_DEFECTS)
def test_each_defect_is_caught(name: str) -> None:
    """With the defect put back its seed is a violation, without it the seed passes."""
    seed = table.read(scopes=True)[name]
    stale = "DEFECTS.md is stale: python -m tests.simulation --defects"
    assert seed < table.MOST, stale
    verdict = judge_scopes(seed, name)
    assert verdict.violations, stale
    assert verdict.idle == (), "what was put in never ran"
    assert judge_scopes(seed).violations == ()


def test_the_table_names_every_defect() -> None:
    assert list(table.read(scopes=True)) == list(SCOPE_DEFECTS)


def test_nothing_stays_in_memory() -> None:
    """No pending entry, no scope, no journal, no session, once the runs are over."""
    kinds = (OrderCancel, OrderScope, Journal, TradingWS)

    def alive() -> Counter[str]:
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))

    before = alive()
    for seed in range(40):
        judge_scopes(seed)
    assert alive() == before
