"""The example bot leaves no order behind, however it ends; ``python -m tests.tools.bot_runs N`` makes more of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import trio

from tests.tools.bot_runs import BOT, run_many
from trio_cancel.sandbox import open_sandbox_control

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


async def test_no_run_leaves_an_order_behind() -> None:
    record = await run_many(20, "ci")
    assert record.left == []
    assert record.wrong == []
    assert record.ways.total() == 20
    assert len(record.ways) == 6
    assert record.orders > 50
    assert record.executed


async def test_it_works_unchanged_with_a_sandbox_in_another_process() -> None:
    command = [sys.executable, "-m", "trio_cancel", "sandbox", "--orders", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:  # noqa: ASYNC220 - it is quick
        try:
            assert sandbox.stdout is not None
            words = (await trio.to_thread.run_sync(sandbox.stdout.readline)).split()
            _rest, token, secret = (sandbox.stdout.readline().split()[-1] for _ in range(3))
            environment = {**os.environ, "RIPIO_API_TOKEN": token, "RIPIO_API_SECRET": secret}
            async with open_sandbox_control(words[-1]) as venue:
                bot = subprocess.Popen(  # noqa: ASYNC220 - see above
                    [sys.executable, str(BOT), words[-1]], stdout=subprocess.PIPE, text=True, env=environment
                )
                with bot:
                    assert bot.stdout is not None
                    assert await trio.to_thread.run_sync(bot.stdout.readline) == "quoting\n"
                    with trio.fail_after(20):
                        while len(await venue.open_orders(pending=True)) == 3:  # noqa: ASYNC110 - another process
                            await trio.sleep(0.01)
                    bot.send_signal(signal.SIGTERM)
                    assert await trio.to_thread.run_sync(bot.wait) == 128 + signal.SIGTERM
                assert len(await venue.open_orders(pending=True)) == 3
        finally:
            sandbox.terminate()
