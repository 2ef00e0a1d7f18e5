"""What is measured each minute, the table of it, and whether it is back where it began."""

from __future__ import annotations

import gc
import os
import statistics
import time
from pathlib import Path
from typing import Self

import attrs
import trio

MEGABYTE = 2**20
GROWTH = 0.03
"""By how much memory in the last third may be above that in the first, after the warm-up."""
LEAST_GROWTH = 3.0
"""Megabytes that are no growth, whatever the size."""
STEADY_FROM = 12
"""Samples from which on it can be said whether memory is flat."""


@attrs.frozen
class Process:
    """One process at one moment: open descriptors, trio's tasks, resident memory in MB, seconds of CPU so far."""

    descriptors: int
    tasks: int
    memory: float
    cpu: float

    @classmethod
    def now(cls) -> Self:
        """Look at this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            memory=pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE,
            cpu=time.process_time(),
        )


def our_objects() -> int:
    """Count the living objects of the library's own classes (those that the garbage collector tracks)."""
    gc.collect()
    return sum(type(thing).__module__.startswith("trio_cancel.") for thing in gc.get_objects())


@attrs.frozen
class Sample:
    """The run at one moment.

    Attributes:
        minute: since the beginning.
        client: the process that is under test.
        venue: the sandbox's process.
        sessions: open sessions.
        pending: orders that wait, over all of them.
        objects: see :func:`our_objects`.
        outcomes: told so far.
        connections: opened so far.
        faults: fired so far.
    """

    minute: float
    client: Process
    venue: Process
    sessions: int
    pending: int
    objects: int
    outcomes: int
    connections: int
    faults: int


HEAD = (
    "minute  sessions  pending  objects  fds  tasks  RSS MB  CPU % outcomes  connections  faults"
    "   venue: fds  tasks  RSS MB  CPU %"
)


def row(sample: Sample, before: Sample) -> str:
    """Return the table's line for a sample; shares of a core since the one before."""
    seconds = max(1e-9, 60 * (sample.minute - before.minute))
    client, venue = sample.client, sample.venue
    shares = [100 * (now.cpu - then.cpu) / seconds for now, then in ((client, before.client), (venue, before.venue))]
    return (
        f"{sample.minute:6.1f}{sample.sessions:10}{sample.pending:9}{sample.objects:9}{client.descriptors:5}"
        f"{client.tasks:7}{client.memory:8.1f}{shares[0]:7.1f}{sample.outcomes:9}{sample.connections:13}"
        f"{sample.faults:8}{venue.descriptors:14}{venue.tasks:7}{venue.memory:8.1f}{shares[1]:7.1f}"
    )


def left_over(begin: Sample, end: Sample) -> list[str]:
    """Return what is not back at its baseline, one sentence each."""
    found = []
    for name in ("descriptors", "tasks"):
        for process in ("client", "venue"):
            then, now = getattr(getattr(begin, process), name), getattr(getattr(end, process), name)
            if now != then:
                found.append(f"{process}: {now} {name} at the end, {then} at the beginning")
    if end.objects > begin.objects:
        found.append(f"{end.objects - begin.objects} objects of the library's are left")
    if end.pending:
        found.append(f"{end.pending} orders are pending")
    return found


def growth(samples: list[Sample], warm_up: float) -> tuple[str, bool]:
    """Say whether memory is flat: medians of the first and the last third of the samples after the warm-up."""
    steady = [sample.client.memory for sample in samples if sample.minute >= warm_up]
    if len(steady) < STEADY_FROM:
        return f"memory: {len(steady)} samples after {warm_up:g} minutes are too few to tell whether it is flat", True
    third = len(steady) // 3
    first, last = statistics.median(steady[:third]), statistics.median(steady[-third:])
    flat = last - first <= max(LEAST_GROWTH, GROWTH * first)
    return f"memory: {first:.1f} MB in the first third, {last:.1f} MB in the last ({last - first:+.1f} MB)", flat
