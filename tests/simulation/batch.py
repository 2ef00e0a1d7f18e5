"""Many seeds, on every processor: what was violated, how often each fault fired, which outcomes there were."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

import attrs
import trio

from trio_cancel.sandbox import Fault

from .checker import check
from .classes import Tally
from .defects import DEFECTS
from .harness import run, trace
from .record import Run
from .scenario import ExitKind, draw
from .stream import NetFault

CHUNK = 20


@attrs.frozen
class Verdict:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    trace_hash: str
    faults: Counter[str]
    outcomes: Counter[str]
    seconds: float
    looks: bool = False
    """Whether its scenario has a lookup, also if it ran without."""
    idle: tuple[str, ...] = ()
    """What the defect had put in and never ran."""


def judge_seed(seed: int, defect: str | None = None, *, without: bool = False) -> Verdict:
    """Run one seed, with a defect put back or without; ``without`` takes its lookup away."""
    began = time.perf_counter()
    scenario = draw(seed)
    looks = scenario.lookup is not None
    if without:
        scenario = attrs.evolve(scenario, lookup=None)
    with DEFECTS[defect].put_back() if defect else nullcontext(Counter[str]()) as calls:
        try:
            done = run(scenario)
        except Exception as error:
            # The run itself failed: the library raised where nothing may be raised, or it spins.
            return Verdict(seed, (f"I10: {innermost(error)!r}",), "", Counter(), Counter(), 0.0)
    return Verdict(
        seed,
        tuple(check(done)),
        hash_of(done),
        _events(done),
        Counter(outcome.kind for outcome in done.delivered.values()),
        time.perf_counter() - began,
        looks,
        idle(calls),
    )


def idle(calls: Counter[str]) -> tuple[str, ...]:
    """Return what was never called."""
    return tuple(name for name, count in calls.items() if not count)


def innermost(error: BaseException) -> BaseException:
    """Return what is at the bottom of groups and trio's internal errors."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, trio.TrioInternalError) and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error


def hash_of(done: Run) -> str:
    """Return the hash of a run's trace: the same for two runs of one seed, in any process."""
    return hashlib.sha256("\n".join(trace(done)).encode()).hexdigest()[:16]


def _events(done: Run) -> Counter[str]:
    """Return what went wrong in a run, the sandbox's and the network's faults and those of the callers."""
    scenario, counts = done.scenario, Counter(done.recorder.faults)
    counts["caller_cancelled"] = sum(result.cancelled for result in done.results)
    counts["stream_left_early"] = sum(result.op.leave_after is not None for result in done.results if result.ended)
    counts["session_left_under_way"] = scenario.end.kind is ExitKind.LEFT
    counts["body_raised"] = done.exit_error is not None
    counts["session_cancelled"] = scenario.end.kind is ExitKind.CANCELLED
    counts["session_failed"] = done.failed
    counts["clock_skewed"] = scenario.skew != 0
    counts["rate_limited"] = scenario.rate is not None
    counts["daily_limit"] = scenario.daily_limit is not None
    counts["filled_under_way"] = len(scenario.fills)
    return counts


Judge = Callable[[int, str | None], Verdict]
"""Runs one seed, with a defect put back or without."""


def _judge_chunk(seeds: list[int], defect: str | None, judge: Judge) -> list[Verdict]:
    return [judge(seed, defect) for seed in seeds]


def judge_seeds(seeds: Iterable[int], defect: str | None = None, judge: Judge = judge_seed) -> Iterator[Verdict]:
    """Run seeds in as many processes as there are processors; yield verdicts in the order of the seeds."""
    every = list(seeds)
    chunks = [every[at : at + CHUNK] for at in range(0, len(every), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(chunks) or 1), mp_context=context) as pool:
        for verdicts in pool.map(_judge_chunk, chunks, [defect] * len(chunks), [judge] * len(chunks)):
            yield from verdicts


@attrs.define
class Summary:
    """What many seeds came to."""

    seeds: int = 0
    violations: list[tuple[int, str]] = attrs.field(factory=list)
    faults: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    tally: Tally = attrs.field(factory=Tally)
    slowest: tuple[float, int] = (0.0, 0)
    digest: str = ""

    def add(self, verdict: Verdict) -> None:
        """Count one seed."""
        self.seeds += 1
        self.violations += [(verdict.seed, text) for text in verdict.violations]
        self.faults += verdict.faults
        self.outcomes += verdict.outcomes
        self.tally.add(verdict.faults, verdict.outcomes, looks=verdict.looks)
        self.slowest = max(self.slowest, (verdict.seconds, verdict.seed))
        self.digest = hashlib.sha256((self.digest + verdict.trace_hash).encode()).hexdigest()[:16]

    def lines(self, *, without: bool = False) -> Iterator[str]:
        """Yield it as tables in Markdown."""
        total = self.outcomes.total() or 1
        yield f"{self.seeds} seeds, {len(self.violations)} violations, hash of all traces {self.digest}."
        yield f"Slowest seed: {self.slowest[1]}, {self.slowest[0] * 1000:.0f} ms."
        yield from ("", "| outcome | count | share |", "|---|---:|---:|")
        for kind, count in self.outcomes.most_common():
            yield f"| {kind} | {count} | {100 * count / total:.1f} % |"
        yield from ("", "| what went wrong | how often |", "|---|---:|")
        classes = [*Fault, *NetFault, *sorted(set(self.faults) - set(Fault) - set(NetFault))]
        for name in classes:
            yield f"| {name} | {self.faults[name]} |"
        yield from self.tally.lines(without=without)
        for seed, text in self.violations[:50]:
            yield f"VIOLATION seed {seed}: {text}"
