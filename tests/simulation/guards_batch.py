"""Many seeds with guards: what was violated, and what happened how often."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

from .batch import Verdict, idle, innermost, judge_seeds
from .guards import draw_guards
from .guards_check import check_guards
from .guards_defects import GUARD_DEFECTS
from .guards_run import GuardRun, run_guards
from .scopes_batch import ScopeSummary


def judge_guards(seed: int, defect: str | None = None) -> Verdict:
    """Run one seed, with a defect put back or without."""
    began = time.perf_counter()
    with GUARD_DEFECTS[defect].put_back() if defect else nullcontext(Counter[str]()) as calls:
        try:
            whole = run_guards(draw_guards(seed))
        except Exception as error:
            return Verdict(seed, (f"G0: {innermost(error)!r}",), "", Counter(), Counter(), 0.0)
    outcomes = Counter[str](outcome.kind for _, _, report in whole.reports for outcome in report.outcomes)
    violations = tuple(check_guards(whole))
    if defect is not None:  # it has to be caught by what it violates
        violations = tuple(text for text in violations if text.startswith(GUARD_DEFECTS[defect].by))
    seconds = time.perf_counter() - began
    return Verdict(seed, violations, whole.trace_hash(), _events(whole), outcomes, seconds, False, idle(calls))


def _events(whole: GuardRun) -> Counter[str]:
    counts = Counter(whole.faults)
    counts["sessions"] = len(whole.bots)
    counts["holds"] = len(whole.held)
    counts["take-overs of a session that was silent"] = sum(each.live for each in whole.takings)
    counts["take-overs of what was left"] = sum(not each.live for each in whole.takings) - len(whole.bots)
    counts["reports of guards"] = len(whole.reports)
    counts["sessions that were told"] = sum(bot.over is not None for bot in whole.bots)
    return counts


def run_guard_seeds(
    seeds: range, defect: str | None = None, tell: Callable[[ScopeSummary], None] = lambda _: None
) -> ScopeSummary:
    """Run seeds on every processor; ``tell`` is called after each thousand."""
    summary = ScopeSummary()
    for verdict in judge_seeds(seeds, defect, judge_guards):
        summary.add(verdict)
        if summary.seeds % 1_000 == 0:
            tell(summary)
    return summary
