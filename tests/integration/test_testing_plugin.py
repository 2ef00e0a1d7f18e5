"""The fixtures for users' tests, in a pytest of their own, with and without trio_mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["trio_cancel.testing"]\n'
TESTS = """
import pytest
from trio_cancel.sandbox import Fault, Sandbox

{mark}
async def test_cancel(trading_sandbox, trading_ws):
    assert isinstance(trading_sandbox, Sandbox)
    order = trading_sandbox.book.create(external_id="my-order-123")
    canceled = await trading_ws.cancel(external_id="my-order-123")
    assert canceled.id == order.id
    assert trading_sandbox.log.applied(order.id)

{mark}
async def test_fresh(trading_sandbox):
    assert len(trading_sandbox.book) == 0
    assert trading_sandbox.ssl_context is None

class TestWithTls:
    @pytest.fixture
    def trading_sandbox_options(self):
        return {{"tls": True, "seed": 7}}

    {mark}
    async def test_cancel(self, trading_sandbox, trading_ws):
        assert trading_sandbox.url.startswith("wss://")
        order = trading_sandbox.book.create()
        trading_sandbox.fault_on(order.id, Fault.ERROR_500_BEFORE)
        outcome = await trading_ws.try_cancel(order.id)
        assert len(outcome.attempts) >= 1
"""


@pytest.mark.parametrize("mode", [True, False])
def test_the_fixtures(mode: bool, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntrio_mode = {str(mode).lower()}\nfilterwarnings = error\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_bot.py").write_text(TESTS.format(mark="" if mode else "@pytest.mark.trio"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
