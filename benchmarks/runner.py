"""Starts the venue, then one client process a job, round after round, and gathers their samples."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import msgspec
from rich.progress import Progress

from benchmarks.cores import client_and_venue
from benchmarks.job import Job, Sample, sample_from_json, to_json
from benchmarks.peers import BEFORE, PEERS
from benchmarks.plan import Plan
from benchmarks.venue import Addresses

_JOB_TIMEOUT = 600.0
"""Seconds after which a client process is given up: the longest takes about a minute on a slow machine."""


@attrs.frozen
class Results:
    """What a run gave: the samples, and for each job that failed the last line that its process wrote."""

    samples: list[Sample] = attrs.field(factory=list)
    failures: dict[Job, str] = attrs.field(factory=dict)


def run(plan: Plan, only: frozenset[str], peers: frozenset[str], progress: Progress) -> Results:
    """Run every job of the plan once per round; a job that fails is not tried again.

    Args:
        plan: The sizes.
        only: The works wanted; all if empty.
        peers: The competitors wanted; all if empty. What is not a competitor (the floor) is always measured.
        progress: Where to show what is running.

    Returns:
        The samples of all rounds, in the order in which they were taken.
    """
    client_core, venue_core = client_and_venue()
    results = Results()
    with open_venue(venue_core) as addresses, _before(plan.before) as before:
        jobs = list(plan.jobs(addresses, client_core, only))
        if peers:
            jobs = [job for job in jobs if job.peer in peers or job.peer not in PEERS]
        bar = progress.add_task("", total=plan.rounds * len(jobs))
        for number in range(1, plan.rounds + 1):
            for job in jobs:
                progress.update(bar, description=f"round {number}: {job.work} {job.scheme} {job.peer}")
                if job not in results.failures:
                    _measure(job, addresses, before, results)
                progress.advance(bar)
    return results


@contextmanager
def open_venue(core: int | None) -> Iterator[Addresses]:
    """Have a venue in a process of its own, for as long as the block lasts."""
    pinned = [] if core is None else ["--core", str(core)]
    command = [sys.executable, "-m", "benchmarks.venue", *pinned]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("The venue did not start: its own message is above.")
        try:
            yield msgspec.json.decode(line, type=Addresses)
        finally:
            process.terminate()


@contextmanager
def _before(checkout: str) -> Iterator[str]:
    """A folder with the package of another checkout and these benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        if checkout:
            here = pathlib.Path(__file__).parent
            pathlib.Path(folder, here.name).symlink_to(here)
            pathlib.Path(folder, "trio_cancel").symlink_to(pathlib.Path(checkout, "trio_cancel"))
        yield folder


def _measure(job: Job, addresses: Addresses, before: str, results: Results) -> None:
    venue_before = _venue_cpu(addresses)
    command = [sys.executable, "-m", "benchmarks.client", to_json(job)]
    try:
        # Python looks for packages in the folder that it is started in first.
        folder = before if job.peer == BEFORE else None
        done = subprocess.run(command, capture_output=True, text=True, timeout=_JOB_TIMEOUT, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        results.failures[job] = f"gave no result within {_JOB_TIMEOUT:.0f} s"
        return
    if done.returncode:
        results.failures[job] = _reason(done.stderr) or f"exit status {done.returncode}"
        return
    sample = sample_from_json(done.stdout)
    if "cpu_us" in sample.figures:
        answered = job.orders * job.times + job.warm
        sample.figures["venue_us"] = (_venue_cpu(addresses) - venue_before) / answered * 1e6
    results.samples.append(sample)


def _reason(traceback: str) -> str:
    """The line of a traceback that names the error, without the frame that exception groups draw around it."""
    lines = [line.strip(" |+-") for line in traceback.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _venue_cpu(addresses: Addresses) -> float:
    """Processor seconds that the venue has used."""
    with urllib.request.urlopen(addresses.ws.replace("ws:", "http:") + "cpu") as reply:
        return float(reply.read())
