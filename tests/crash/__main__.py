"""``python -m tests.crash N [--seed S]``: N runs; prints what they found, and fails if an order was forgotten."""

from __future__ import annotations

import argparse
import sys

import trio

from .runner import run_many


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=20)
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    record = trio.run(run_many, arguments.runs, arguments.seed, print)
    print(record)
    for fault in record.faults:
        print(fault, file=sys.stderr)
    return 1 if record.faults else 0


if __name__ == "__main__":
    sys.exit(main())
