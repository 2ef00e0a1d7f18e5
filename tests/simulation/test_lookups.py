"""Seeds of the simulation of lookups, and the defects that it catches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from .lookups import DEFECTS, run_seed

FIRST, LAST = 0, 40
WITHIN = 10
"""Seeds within which each defect is caught."""


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_no_yes_or_no_contradicts_the_venue(seed: int) -> None:
    assert run_seed(seed).violations == []


@pytest.mark.parametrize("seed", range(5))
def test_without_lookups_neither(seed: int) -> None:
    result = run_seed(seed, with_lookups=False)
    assert result.violations == []
    assert result.lookups == 0


def test_a_seed_is_one_run() -> None:
    first, second = run_seed(3), run_seed(3)
    assert [told.outcome for told in first.told] == [told.outcome for told in second.told]
    assert first.lookups == second.lookups > 0


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_caught(defect: Callable[[], AbstractContextManager[None]]) -> None:
    with defect():
        assert any(run_seed(seed).violations for seed in range(WITHIN))
