"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import pathlib
import sys

import attrs
from rich.console import Console
from rich.progress import Progress

from benchmarks.peers import PEERS
from benchmarks.plan import FULL, SMOKE, WORKS
from benchmarks.runner import run
from benchmarks.summary import Summary
from benchmarks.tables import tables, target_table
from benchmarks.targets import verdicts

_WIDTH = 220
"""Columns of a table that is written to a file."""


def main() -> int:
    """Run the benchmarks; 1 if a job failed, else 0 (a target that is missed is not a failure)."""
    arguments = _parser().parse_args()
    plan = SMOKE if arguments.smoke else FULL
    plan = attrs.evolve(plan, rounds=arguments.rounds or plan.rounds, orders=arguments.orders or plan.orders)
    plan = attrs.evolve(plan, before=str(arguments.before or ""))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = run(plan, frozenset(arguments.only), frozenset(arguments.peers), progress)
    summary = Summary.of(results.samples)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    shown = list(tables(summary))
    if not arguments.smoke and (reached := verdicts(summary)):
        shown.append(target_table(reached))
    for table in shown:
        console.print(f"\n[bold]{table.title}", table.rich())
    if arguments.report:
        from benchmarks.report import write_report  # matplotlib takes a second to import

        write_report(summary, arguments.report)
    for job, reason in results.failures.items():
        print(f"failed: {job.work} {job.scheme} {job.peer} ({job.orders:,}): {reason}", file=sys.stderr)
    return 1 if results.failures else 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure trio_cancel and its competitors side by side, on this machine, over loopback.",
    )
    parser.add_argument("--smoke", action="store_true", help="run everything once, with tiny counts")
    parser.add_argument("--report", type=pathlib.Path, metavar="DIR", help="write SVG charts and Markdown tables there")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=[], metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--rounds", type=_count, help=f"rounds, interleaved ({FULL.rounds})")
    parser.add_argument(
        "--orders", type=_count, help=f"orders of a bulk cancel ({FULL.orders:,}); others in proportion"
    )
    parser.add_argument(
        "--before", type=_checkout, metavar="DIR", help="a checkout of another commit of ours, to measure beside this"
    )
    return parser


def _checkout(text: str) -> pathlib.Path:
    path = pathlib.Path(text).resolve()
    if not (path / "trio_cancel" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not a checkout of trio_cancel")
    return path


if __name__ == "__main__":
    sys.exit(main())
