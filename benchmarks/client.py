"""The client process: runs one job, given as JSON in its only argument, and prints its sample as one line of JSON."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from benchmarks.cores import pin
from benchmarks.job import Job, Sample, job_from_json, to_json

_RUNS = {
    "single": "works:run_work",
    "tasks": "works:run_work",
    "bulk": "works:run_work",
    "growth": "works:run_work",
    "floor": "floor:run_floor",
    "call": "call:run_call",
    "tails": "tails:run_tails",
    "tails-batch": "tails:run_tails",
    "tails-stream": "tails:run_tails",
    "import": "startup:run_import",
    "accounts": "accounts:run_accounts",
    "report": "memory:run_report",
    "stream": "memory:run_stream",
    "journal": "journal:run_journal",
    "holds": "guard:run_holds",
    "guard": "guard:run_guard",
    "guard-dead": "guard:run_dead",
    "guard-beats": "guard:run_beats",
    "guard-pace": "guard:run_pace",
}
"""The function that measures each work. Only the job's own is imported, so that the others take no memory."""


def run_job(job: Job) -> dict[str, float]:
    """Run a job in this process, and return its figures."""
    module, _, function = _RUNS[job.work].partition(":")
    run: Callable[[Job], dict[str, float]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return run(job)


def main() -> None:
    """Run the job named on the command line."""
    job = job_from_json(sys.argv[1])
    pin(job.core)
    print(to_json(Sample(job, run_job(job))))


if __name__ == "__main__":
    main()
