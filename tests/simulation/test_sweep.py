from __future__ import annotations

from .sweep import Case, cases, sweep, sweep_all

MOST = 3
"""Steps of a case; all of them take some minutes: ``python -m tests.simulation --sweep``."""


def test_a_sample_of_all_steps_under_every_fault() -> None:
    found = [text for _, _, violations in sweep_all(MOST, numbers=(1, 3)) for text in violations]
    assert found == []


def test_every_step_where_nothing_else_goes_wrong() -> None:
    for case in cases(numbers=(1, 3)):
        if case.fault is None:
            _, runs, violations = sweep(case)
            assert violations == []
            assert runs > 5


def test_a_hundred_orders() -> None:
    for operation in ("cancel", "batch", "stream"):
        _, _, violations = sweep(Case(operation, None, 100), 20)
        assert violations == []
