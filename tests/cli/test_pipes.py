"""Exit statuses in real processes, where stderr is closed or full and stdout's reader wants one line only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import trio

from trio_cancel.sandbox import open_sandbox

PROGRAM = f"{sys.executable} -m trio_cancel"


def run(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RIPIO_API_TOKEN": "a", "RIPIO_API_SECRET": "b", **variables}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("cancel A B --url ws://127.0.0.1:9", 1),
        ("cancel A --url ws://127.0.0.1:9 --log-level debug", 1),
        ("cancel --from /dev/null", 4),
        ("cancel --no-such-option", 2),
        ("doctor --url ws://127.0.0.1:9", 1),
        ("demo --orders 3", 0),
        ("help", 0),
    ],
)
def test_a_stderr_that_takes_nothing_changes_no_status(words: str, status: int, stderr: str) -> None:
    assert run(f"{PROGRAM} {words} {stderr} >/dev/null").returncode == status


def test_a_pipeline_without_an_order_says_so() -> None:
    done = run(f"grep nothing /dev/null | {PROGRAM} cancel --from -")
    assert done.returncode == 4
    assert done.stderr == "trio-cancel: There is nothing to cancel: stdin names no order (it is empty).\n"


async def test_a_doctor_whose_reader_wants_one_line_ends_well() -> None:
    async with open_sandbox(rest_port=0) as venue:
        line = f"{PROGRAM} doctor --url {venue.url} --rest-url {venue.rest_url} | head -1; exit ${{PIPESTATUS[0]}}"
        credentials = {
            "RIPIO_API_TOKEN": venue.credentials.api_token,
            "RIPIO_API_SECRET": venue.credentials.api_secret,
        }
        done = await trio.to_thread.run_sync(lambda: run(line, **credentials))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
