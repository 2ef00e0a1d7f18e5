"""Twenty processes are killed in the middle of what they do; ``python -m tests.crash N`` makes more of it."""

from __future__ import annotations

import sys

import pytest

from tests.crash.runner import run_many


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_no_order_is_forgotten_when_its_process_is_killed() -> None:
    record = await run_many(20, "ci")
    assert record.faults == []
    assert record.runs.total() == 20
    assert record.moments["in the middle"] + record.moments["while a scope was left"] >= 5
    assert record.applied
    assert record.held
    assert record.left
