"""``python -m tests.simulation``: replay a seed, run many, look for defects, sweep cancellation over every step."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from functools import partial

import attrs

from . import table
from .batch import Summary, hash_of, judge_seed, judge_seeds
from .checker import check
from .defects import DEFECTS
from .guards import draw_guards
from .guards_batch import run_guard_seeds
from .guards_check import check_guards
from .guards_defects import GUARD_DEFECTS
from .guards_run import run_guards
from .harness import run, trace
from .scenario import draw
from .scopes import draw_scopes
from .scopes_batch import run_seeds
from .scopes_check import check_scopes
from .scopes_defects import SCOPE_DEFECTS
from .scopes_run import run_scopes


def main() -> int:
    """Run the command line; return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this one seed and print its trace")
    parser.add_argument("--seeds", metavar="A..B", help="run the seeds from A up to, not including, B")
    parser.add_argument("--scope", metavar="N", type=int, help="replay this seed with scopes and a journal")
    parser.add_argument("--scopes", metavar="A..B", help="run seeds with scopes and a journal")
    parser.add_argument("--guard", metavar="N", type=int, help="replay this seed with guards and a database")
    parser.add_argument("--guards", metavar="A..B", help="run seeds with guards and a database")
    parser.add_argument(
        "--defect", choices=sorted({**DEFECTS, **SCOPE_DEFECTS, **GUARD_DEFECTS}), help="put this defect back first"
    )
    parser.add_argument("--defects", action="store_true", help="find the seeds of the defects; write DEFECTS.md")
    parser.add_argument("--sweep", action="store_true", help="cancel at every step under every fault")
    parser.add_argument("--without", action="store_true", help="look nothing up in the seeds that have a lookup")
    options = parser.parse_args()
    began = time.perf_counter()
    if options.defects:
        failed = table.write()
    elif options.sweep:
        from . import sweep  # it is not needed for the rest

        failed = sweep.run_all()
    elif options.seeds:
        first, _, last = options.seeds.partition("..")
        failed = _run_seeds(range(int(first), int(last)), options.defect, without=options.without)
    elif options.scopes:
        first, _, last = options.scopes.partition("..")
        summary = run_seeds(range(int(first), int(last)), options.defect, without=options.without)
        print("\n".join(summary.lines(without=options.without)))
        failed = bool(summary.violations)
    elif options.guards:
        first, _, last = options.guards.partition("..")
        seeds = range(int(first), int(last))
        summary = run_guard_seeds(seeds, options.defect, lambda so_far: print(next(so_far.lines()), flush=True))
        print("\n".join(summary.lines(tally=False)))
        failed = bool(summary.violations)
    elif options.guard is not None:
        failed = _replay_guards(options.guard, options.defect)
    elif options.scope is not None:
        failed = _replay_scopes(options.scope, options.defect)
    elif options.seed is not None:
        failed = _replay(options.seed, options.defect)
    else:
        parser.error("give a seed, --seeds, --scope, --scopes, --guard, --guards, --defects or --sweep")
    print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    return 1 if failed else 0


def _run_seeds(seeds: range, defect: str | None, *, without: bool) -> bool:
    summary = Summary()
    for verdict in judge_seeds(seeds, defect, partial(judge_seed, without=without)):
        summary.add(verdict)
    print("\n".join(summary.lines(without=without)))
    return bool(summary.violations)


def _replay(seed: int, defect: str | None) -> bool:
    scenario = draw(seed)
    for field in attrs.fields(type(scenario)):
        print(f"{field.name}: {getattr(scenario, field.name)}")
    if defect is None:
        done = run(scenario)
    else:
        with DEFECTS[defect].put_back():
            done = run(scenario)
    print(*trace(done), sep="\n")
    violations = check(done)
    print(f"\nseed {seed}: trace {hash_of(done)}, {done.steps} steps, {len(violations)} violations")
    print(*violations, sep="\n")
    return bool(violations)


def _replay_scopes(seed: int, defect: str | None) -> bool:
    plan = draw_scopes(seed)
    print(plan.base, *plan.scopes, *plan.trades, plan, sep="\n")
    with SCOPE_DEFECTS[defect].put_back() if defect else nullcontext():
        whole = run_scopes(plan)
    print(*whole.trace(), sep="\n")
    violations = check_scopes(whole)
    print(f"\nseed {seed}: trace {whole.trace_hash()}, {whole.run.steps} steps, {len(violations)} violations")
    print(*violations, sep="\n")
    return bool(violations)


def _replay_guards(seed: int, defect: str | None) -> bool:
    plan = draw_guards(seed)
    print(*plan.bots, *plan.guards, plan, sep="\n")
    with GUARD_DEFECTS[defect].put_back() if defect else nullcontext():
        whole = run_guards(plan)
    print(*whole.trace(), sep="\n")
    violations = check_guards(whole)
    print(f"\nseed {seed}: trace {whole.trace_hash()}, {whole.steps} steps, {len(violations)} violations")
    print(*violations, sep="\n")
    return bool(violations)


if __name__ == "__main__":
    raise SystemExit(main())
