from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from trio_cancel import TradingWS
from trio_cancel._engine.order import LiveAttempt, OrderCancel
from trio_cancel._session.connection import Connection

from . import table
from .batch import Summary, judge_seed, judge_seeds
from .checker import check
from .classes import CLASSES
from .defects import DEFECTS
from .harness import run, trace
from .scenario import draw

SEEDS = 1_000
ROOT = Path(__file__).parents[2]


def test_one_seed(request: pytest.FixtureRequest) -> None:
    """The one that ``pytest --seed N`` replays."""
    seed = request.config.getoption("--seed") or 0
    done = run(draw(seed))
    print(done.scenario)
    print(*trace(done), sep="\n")
    assert check(done) == []


@pytest.mark.parametrize("seed", [5816, 8214])
def test_an_order_without_time_costs_no_connection(seed: int) -> None:
    """It was written in the last moment of its time, to a socket that could not take it in that moment."""
    assert judge_seed(seed).violations == ()


def test_a_thousand_seeds() -> None:
    summary = Summary()
    for verdict in judge_seeds(range(SEEDS)):
        summary.add(verdict)
    assert summary.violations == [], "replay one with: pytest --seed N"
    assert all(count for count in summary.faults.values())
    assert set(summary.tally.seeds) == set(CLASSES)
    assert all(summary.tally.seeds.values())
    assert set(summary.outcomes) == {"canceled", "already_closed", "not_found", "rejected", "not_sent", "unknown"}


def test_two_processes_give_the_same_traces() -> None:
    """Whatever their hash seeds; a third way is to run the same seeds here, in another order."""
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "0..40"]
    outputs = [
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout.splitlines()[0]
        for seed in ("1", "2")
    ]
    hashes = {seed: judge_seed(seed).trace_hash for seed in reversed(range(40))}
    summary = Summary()
    for seed in range(40):
        verdict = judge_seed(seed)
        assert verdict.trace_hash == hashes[seed]
        summary.add(verdict)
    assert outputs == [next(summary.lines())] * 2


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_caught(name: str) -> None:
    """With the defect put back its seed is a violation, without it the seed passes."""
    seed = table.read()[name]
    stale = "DEFECTS.md is stale: python -m tests.simulation --defects"
    assert seed < SEEDS, stale
    verdict = judge_seed(seed, name)
    assert verdict.violations, stale
    assert verdict.idle == (), "what was put in never ran"
    assert judge_seed(seed).violations == ()


def test_the_table_names_every_defect() -> None:
    assert list(table.read()) == list(DEFECTS)


def test_nothing_stays_in_memory() -> None:
    """No pending entry, no connection, no session, no channel, once the runs are over."""
    kinds = (OrderCancel, LiveAttempt, Connection, TradingWS, trio.MemorySendChannel)

    def alive() -> Counter[str]:
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))

    before = alive()
    for seed in range(60):
        run(draw(seed))
    assert alive() == before
