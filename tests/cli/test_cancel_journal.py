"""``trio-cancel cancel --journal FILE``: a run that is killed leaves a record, and resume does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from trio_cancel.journal import read_journal
from trio_cancel.sandbox import BookStatus, Fault, RequestRecord, Sandbox

PROGRAM = [sys.executable, "-m", "trio_cancel"]


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIO_CANCEL_")} | {
        "RIPIO_API_TOKEN": sandbox.credentials.api_token,
        "RIPIO_API_SECRET": sandbox.credentials.api_secret,
        "TRIO_CANCEL_URL": sandbox.url,
    }


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_run_that_is_killed_leaves_a_record(trading_sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox = trading_sandbox
    ids = [sandbox.book.create().id for _ in range(300)]
    (tmp_path / "ids").write_text("\n".join(ids))
    path = tmp_path / "run.journal"
    seen = trio.Event()

    def stall(record: RequestRecord) -> Fault | None:
        if len(sandbox.log) < 100:
            return None
        seen.set()
        return Fault.SILENT_AFTER  # applied, and nobody is told

    sandbox.script(stall)
    command = [*PROGRAM, "cancel", "--from", str(tmp_path / "ids"), "--journal", str(path)]
    process = await trio.lowlevel.open_process(command, env=environment(sandbox), stdout=subprocess.DEVNULL)
    with trio.fail_after(30):
        await seen.wait()
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    sandbox.script(lambda _: None)

    def is_canceled(order_id: str) -> bool:
        return sandbox.book.get(order_id).status is BookStatus.CANCELED

    intended = {order.request.id for order in read_journal(path).orders}
    assert {order_id for order_id in ids if is_canceled(order_id)} <= intended
    assert read_journal(path).left
    resume = [*PROGRAM, "resume", str(path)]
    done = await trio.run_process(resume, env=environment(sandbox), capture_stdout=True, capture_stderr=True)
    told = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert told
    assert told <= intended
    assert all(is_canceled(order_id) for order_id in intended if order_id is not None)
    assert read_journal(path).left == ()


@pytest.mark.parametrize("name", ["", "."])
async def test_what_is_no_journal_is_refused_before_anything_is_sent(
    name: str, trading_sandbox: Sandbox, tmp_path: Path
) -> None:
    order = trading_sandbox.book.create()
    command = [*PROGRAM, "cancel", order.id, "--journal", name]
    done = await trio.run_process(
        command, env=environment(trading_sandbox), check=False, capture_stderr=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert b"journal" in done.stderr
    assert len(trading_sandbox.log) == 0
