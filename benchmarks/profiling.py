"""Where the client's processor time goes: ``python -m benchmarks.profiling WORK [--ws] [--peer NAME] [--orders N]``.

The job runs in this process, and its main thread is looked at after each millisecond of processor time that the process
uses. A line of C code (TLS, JSON, a system call) counts for the line of Python that calls it.
"""

from __future__ import annotations

import argparse
import linecache
import pathlib
import signal
import sys
from collections import Counter
from types import CodeType, FrameType

import attrs

from benchmarks.client import run_job
from benchmarks.peers import OURS, PEERS
from benchmarks.plan import FULL
from benchmarks.runner import open_venue

INTERVAL = 0.001
"""Seconds of processor time between two looks."""
SHOWN = 25
"""Functions and lines that are printed."""


def main() -> None:
    """Run the job, and print by module, by function and by line how often it was there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description=__doc__)
    parser.add_argument("work", choices=("single", "tasks", "bulk", "journal", "accounts"))
    parser.add_argument("--ws", action="store_true", help="without TLS")
    parser.add_argument("--peer", choices=sorted(PEERS), default=OURS)
    parser.add_argument("--orders", type=int)
    arguments = parser.parse_args()
    seen: Counter[tuple[CodeType, int | None]] = Counter()

    def look(_signal: int, frame: FrameType | None) -> None:
        if frame is not None:  # nothing else here: it may be in the middle of anything
            seen[frame.f_code, frame.f_lineno] += 1

    scheme = "ws" if arguments.ws else "wss"
    with open_venue(None) as addresses:
        jobs = FULL.jobs(addresses, None, frozenset({arguments.work}))
        job = next(job for job in jobs if job.peer == arguments.peer and job.scheme == scheme)
        if arguments.orders:
            job = attrs.evolve(job, orders=arguments.orders)
        signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        figures = run_job(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
    total = seen.total()
    modules: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for (code, number), count in seen.items():
        file = _short(code.co_filename)
        modules[file] += count
        functions[f"{file}: {code.co_qualname}"] += count
        line = linecache.getline(code.co_filename, number).strip() if number else ""
        lines[f"{file}:{number}: {line[:80]}"] += count
    print(f"{job.work}, {scheme}, {job.orders} orders, {total} looks; {figures}")
    for title, counted in (("modules", modules), ("functions", functions), ("lines", lines)):
        print(f"\n{title}")
        for name, count in counted.most_common(SHOWN):
            print(f"{100 * count / total:6.1f} %  {name}")


def _short(path: str) -> str:
    """A path without what lies before the package."""
    parts = pathlib.PurePath(path).parts
    for marker in ("site-packages", "trio_cancel", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if marker in parts[:-1]:
            at = len(parts) - 2 - parts[:-1][::-1].index(marker)
            return "/".join(parts[at + (marker != "trio_cancel") :])
    return "/".join(parts[-2:])


if __name__ == "__main__":
    main()
