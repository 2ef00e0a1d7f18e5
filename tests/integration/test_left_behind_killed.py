"""A process that is killed in the middle of ``ws.resume()``: the next one still finds what was not settled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from trio_cancel import open_trading_ws
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import Fault, RequestRecord, Sandbox

BOT = """
import sys, trio
from trio_cancel import open_trading_ws

async def main(url, journal, *names):
    async with open_trading_ws(url, journal=journal) as ws:
        if names:
            async with ws.open_order_scope() as orders:
                for name in names:
                    key, order_id = name.split("=")
                    await orders.add(external_id=key)
                    orders.placed(external_id=key, id=order_id)
                await trio.sleep(1)
                print("quoting", flush=True)
                await trio.sleep_forever()
        await ws.resume()

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_resume_that_is_killed_loses_nothing(trading_sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox, path = trading_sandbox, tmp_path / "bot.journal"
    credentials = sandbox.credentials
    secrets = {"RIPIO_API_TOKEN": credentials.api_token, "RIPIO_API_SECRET": credentials.api_secret}
    orders = [sandbox.book.create(external_id=f"mm-{number}") for number in range(20)]

    async def start(*names: str) -> trio.Process:
        return await trio.lowlevel.open_process(
            [sys.executable, "-c", BOT, sandbox.url, str(path), *names],
            env=os.environ | secrets,
            stdout=subprocess.PIPE,
        )

    async def kill(process: trio.Process) -> None:
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL

    with trio.fail_after(60):
        quoting = await start(*(f"{order.external_id}={order.id}" for order in orders))
        assert quoting.stdout is not None
        assert b"quoting" in await quoting.stdout.receive_some()
        await kill(quoting)
        assert len(read_journal(path).left) == 20

        answered = trio.Event()

        def stall(record: RequestRecord) -> Fault | None:
            if len(sandbox.log) > 5:
                answered.set()
                return Fault.SILENT_BEFORE
            return None

        sandbox.script(stall)
        resuming = await start()
        await answered.wait()
        await trio.sleep(0.1)  # the five answers get into the journal, or not: either will do
        await kill(resuming)
        sandbox.script(lambda _: None)
        on_book = {order.external_id for order in sandbox.book.open_orders()}
        assert on_book
        async with open_trading_ws(sandbox.url, credentials=credentials, journal=path) as ws:
            left = {name for order in ws.left_behind for name in (order.request.external_id, order.request.id)}
            ids = {order.external_id: order.id for order in orders}
            assert all(name in left or ids[name] in left for name in on_book)
            report = await ws.resume()
            assert all(outcome.off_book for outcome in report.outcomes)
            assert ws.left_behind == ()
        assert sandbox.book.open_orders() == []
        assert read_journal(path).left == ()
