"""The table of defects and the seeds that catch them, kept in DEFECTS.md beside this."""

from __future__ import annotations

from pathlib import Path

from .batch import judge_seed
from .defects import DEFECTS

PATH = Path(__file__).with_name("DEFECTS.md")
MOST = 1_000
HEAD = """# Defects put back on purpose, and the seeds that catch them

Each is caught by the checker within 1 000 seeds; without it, its seed passes. Made by
`python -m tests.simulation --defects`; `pytest tests/simulation` checks every row.

| defect | what it does | seed | the checker says |
|---|---|---:|---|
"""


def find(name: str) -> tuple[int, str] | None:
    """Return the first seed that catches a defect and passes without it, and what the checker says."""
    for seed in range(MOST):
        violations = judge_seed(seed, name).violations
        if violations and not judge_seed(seed).violations:
            return seed, violations[0]
    return None


def write() -> bool:
    """Find every seed and write the table; return True if a defect was not caught."""
    rows, missed = [], False
    for defect in DEFECTS.values():
        found = find(defect.name)
        missed = missed or found is None
        seed, said = found or ("none", "nothing")
        rows.append(f"| {defect.name} | {defect.what} | {seed} | {said.replace('|', '/')} |\n")
        print(rows[-1], end="")
    PATH.write_text(HEAD + "".join(rows))
    return missed


def read() -> dict[str, int]:
    """Return the seed of each defect."""
    rows = [line.split("|") for line in PATH.read_text().splitlines()]
    return {row[1].strip(): int(row[3]) for row in rows if len(row) > 3 and row[3].strip().isdigit()}
