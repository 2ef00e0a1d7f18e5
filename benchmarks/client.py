"""The client process: runs one job, given as JSON in its only argument, and prints its sample as one line of JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import accounts, floor, journal, memory, startup
from benchmarks.cores import pin
from benchmarks.job import Job, Sample, job_from_json, to_json
from benchmarks.works import run_work

RUNS: dict[str, Callable[[Job], dict[str, float]]] = {
    "single": run_work,
    "tasks": run_work,
    "bulk": run_work,
    "growth": run_work,
    "floor": floor.run_floor,
    "import": startup.run_import,
    "accounts": accounts.run_accounts,
    "report": memory.run_report,
    "stream": memory.run_stream,
    "journal": journal.run_journal,
}


def main() -> None:
    """Run the job named on the command line."""
    job = job_from_json(sys.argv[1])
    pin(job.core)
    print(to_json(Sample(job, RUNS[job.work](job))))


if __name__ == "__main__":
    main()
