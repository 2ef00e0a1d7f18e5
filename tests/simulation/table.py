"""The tables of defects and the seeds that catch them, kept in DEFECTS.md beside this."""

from __future__ import annotations

from pathlib import Path

from .batch import Judge, judge_seed
from .defects import DEFECTS
from .guards_batch import judge_guards
from .guards_defects import GUARD_DEFECTS
from .scopes_batch import judge_scopes
from .scopes_defects import SCOPE_DEFECTS

PATH = Path(__file__).with_name("DEFECTS.md")
MOST = 1_000
HEAD = """# Defects put back on purpose, and the seeds that catch them

Each runs and is caught by the checker within 1 000 seeds; without it, its seed passes. Made by
`python -m tests.simulation --defects`; `pytest tests/simulation` checks every row.
"""
SCOPES = """
## In scopes, journal and resume

These have seeds of their own: `python -m tests.simulation --scope N`.
"""
GUARDS = """
## With guards and a database

These have seeds of their own, too: `python -m tests.simulation --guard N`. Each has to be caught by an invariant that
it violates. A take-over in one statement is harmless as long as it compares the beat, since every commit raises it, and
as long as a hold counts only if it is durable while the session is sure; so it is put back together with a take-over
and a hold that do not look. Seeds are not the first ones that catch: only some were tried.
"""
COLUMNS = """
| defect | what it does | seed | the checker says |
|---|---|---:|---|
"""
TABLES = ((HEAD, DEFECTS, judge_seed), (SCOPES, SCOPE_DEFECTS, judge_scopes), (GUARDS, GUARD_DEFECTS, judge_guards))


def find(name: str, judge: Judge = judge_seed) -> tuple[int, str] | None:
    """Return the first seed that runs and catches a defect and passes without it, and what the checker says."""
    for seed in range(MOST):
        verdict = judge(seed, name)
        if verdict.violations and not verdict.idle and not judge(seed, None).violations:
            return seed, verdict.violations[0]
    return None


def write() -> bool:
    """Find every seed and write the tables; return True if a defect was not caught."""
    text, missed = "", False
    for head, defects, judge in TABLES:
        text += head + COLUMNS
        for defect in defects.values():
            found = find(defect.name, judge)
            missed = missed or found is None
            seed, said = found or ("none", "nothing")
            row = f"| {defect.name} | {defect.what} | {seed} | {said.replace('|', '/')} |\n"
            print(row, end="")
            text += row
    PATH.write_text(text)
    return missed


def read(*, scopes: bool = False, guards: bool = False) -> dict[str, int]:
    """Return the seed of each defect, of one table."""
    plain, others = PATH.read_text().split(SCOPES)
    text = others.split(GUARDS)[guards] if scopes or guards else plain
    rows = [line.split("|") for line in text.splitlines()]
    return {row[1].strip(): int(row[3]) for row in rows if len(row) > 3 and row[3].strip().isdigit()}
