"""A run of the guard's scenarios with real processes; ``python -m tests.tools.guard_runs SCENARIO N`` makes more."""

from __future__ import annotations

import sys

import pytest

from tests.tools.guard_runs import run_many

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.mark.parametrize("scenario", ["kill-session", "fail-over"])
async def test_what_a_dead_bot_held_is_off_the_book_and_nothing_else(scenario: str) -> None:
    record = await run_many(scenario, 1, "ci")
    assert record.faults == []
    assert record.runs == 1
    assert record.orders
    assert record.canceled
    assert record.lost == record.reported == 0
