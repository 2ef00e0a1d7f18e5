"""Many seeds with scopes and journals: what was violated, and what happened how often."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import attrs

from .batch import Verdict, idle, innermost, judge_seeds
from .classes import Tally
from .scopes import draw_scopes
from .scopes_check import check_scopes
from .scopes_defects import SCOPE_DEFECTS
from .scopes_run import ScopeRun, run_scopes


def judge_scopes(seed: int, defect: str | None = None, *, without: bool = False) -> Verdict:
    """Run one seed, with a defect put back or without; ``without`` takes its lookup away."""
    began = time.perf_counter()
    plan = draw_scopes(seed)
    looks = plan.base.lookup is not None
    if without:
        plan = attrs.evolve(plan, base=attrs.evolve(plan.base, lookup=None))
    with SCOPE_DEFECTS[defect].put_back() if defect else nullcontext(Counter[str]()) as calls:
        try:
            whole = run_scopes(plan)
        except Exception as error:
            return Verdict(seed, (f"S5: {innermost(error)!r}",), "", Counter(), Counter(), 0.0)
    outcomes = Counter[str](outcome.kind for life in whole.lives for _, _, outcome, _ in life.settled)
    violations = tuple(check_scopes(whole))
    seconds = time.perf_counter() - began
    return Verdict(seed, violations, whole.trace_hash(), _events(whole), outcomes, seconds, looks, idle(calls))


def _events(whole: ScopeRun) -> Counter[str]:
    """Return what happened in a run."""
    counts: Counter[str] = Counter(
        sessions=whole.run.entered is not None,
        scopes=len(whole.scopes),
        holds=len(whole.held),
        discards=sum(each.forgotten is not None for each in whole.held),
        processes_died=whole.lives[0].dead,
        resumes=len(whole.lives) - 1,
        resumes_died=sum(life.dead for life in whole.lives[1:]),
        commits=whole.disk.commits,
        commits_failed=whole.disk.failed,
        journal_marked_failed=sum(bool(life.failures) for life in whole.lives),
        intents_not_waited_for=sum(len(life.excused) for life in whole.lives),
        nested_scopes=sum(each.plan.parent is not None for each in whole.scopes),
    )
    for result in whole.scopes:
        counts[f"scope ended: {type(result.error).__name__ if result.error else 'quietly'}"] += 1
        if result.report is not None:
            counts.update(f"at a scope's end: {outcome.kind}" for outcome in result.report.outcomes)
    counts.update(whole.run.recorder.faults)
    for resume in whole.resumes:
        counts.update(f"resume: {outcome.kind}" for outcome in resume.told)
    return counts


@attrs.define
class ScopeSummary:
    """What many seeds came to."""

    seeds: int = 0
    violations: list[tuple[int, str]] = attrs.field(factory=list)
    events: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    tally: Tally = attrs.field(factory=Tally)
    digest: str = ""

    def add(self, verdict: Verdict) -> None:
        """Count one seed."""
        self.seeds += 1
        self.violations += [(verdict.seed, text) for text in verdict.violations]
        self.events.update(verdict.faults)
        self.outcomes.update(verdict.outcomes)
        self.tally.add(verdict.faults, verdict.outcomes, looks=verdict.looks)
        self.digest = hashlib.sha256((self.digest + verdict.trace_hash).encode()).hexdigest()[:16]

    def lines(self, *, without: bool = False, tally: bool = True) -> Iterator[str]:
        """Yield it as tables in Markdown; ``tally`` says whether the classes of faults of scopes are meant."""
        yield f"{self.seeds} seeds, {len(self.violations)} violations, hash of all traces {self.digest}."
        yield from ("", "| what happened | how often |", "|---|---:|")
        yield from (f"| {name} | {count} |" for name, count in sorted(self.events.items()))
        yield from (f"| settled: {kind} | {count} |" for kind, count in self.outcomes.most_common())
        if tally:
            yield from self.tally.lines(without=without)
        yield from (f"VIOLATION seed {seed}: {text}" for seed, text in self.violations[:50])


def run_seeds(seeds: range, defect: str | None = None, *, without: bool = False) -> ScopeSummary:
    """Run seeds on every processor."""
    summary = ScopeSummary()
    for verdict in judge_seeds(seeds, defect, partial(judge_scopes, without=without)):
        summary.add(verdict)
    return summary
