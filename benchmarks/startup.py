"""How long importing takes, in a fresh interpreter each time, with the bytecode at hand."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.job import Job
from benchmarks.peers import BEFORE, OURS, PEERS

OUR_PARTS = "trio, trio_websocket, cattrs and msgspec"
"""What importing trio_cancel cannot avoid: the yardstick for its own import."""

_PROGRAM = "import time; started = time.perf_counter(); import {modules}; print(time.perf_counter() - started)"


def imports() -> dict[str, str]:
    """What is imported, by the name of the competitor (or the yardstick)."""
    parts = {OUR_PARTS: "trio, trio_websocket, cattrs, msgspec"}
    return parts | {name: peer.imports for name, peer in PEERS.items() if peer.imports}


def run_import(job: Job) -> dict[str, float]:
    """Milliseconds of wall time that the job's imports take; `job.orders` times, the fastest counts."""
    command = [sys.executable, "-c", _PROGRAM.format(modules=imports()[OURS if job.peer == BEFORE else job.peer])]
    # The bytecode is at hand, as it is after an installation: the first run, which may write it, does not count.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = [
        float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        for _ in range(1 + job.orders)
    ]
    return {"import_ms": min(runs[1:]) * 1e3}
