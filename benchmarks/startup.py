"""How long importing takes, in a fresh interpreter each time."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.job import Job
from benchmarks.peers import PEERS

OUR_PARTS = "trio, trio_websocket, cattrs and msgspec"
"""What importing trio_cancel cannot avoid: the yardstick for its own import."""

_PROGRAM = "import time; started = time.perf_counter(); import {modules}; print(time.perf_counter() - started)"


def imports() -> dict[str, str]:
    """What is imported, by the name of the competitor (or the yardstick)."""
    parts = {OUR_PARTS: "trio, trio_websocket, cattrs, msgspec"}
    return parts | {name: peer.imports for name, peer in PEERS.items() if peer.imports}


def run_import(job: Job) -> dict[str, float]:
    """Milliseconds of wall time that the job's imports take; `job.orders` times, the fastest counts."""
    command = [sys.executable, "-c", _PROGRAM.format(modules=imports()[job.peer])]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(job.orders)]
    return {"import_ms": min(map(float, runs)) * 1e3}
