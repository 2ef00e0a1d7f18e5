"""The architecture page says what the code is: folders and ranks, states and steps, files that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import trio_cancel
from tests.unit.test_exports import RANKS
from trio_cancel._engine.order import State

PACKAGE = Path(trio_cancel.__file__).parent
PAGE = (PACKAGE / "guides" / "architecture.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_its_ranks_are_those_that_imports_are_held_to() -> None:
    told = {
        part: int(rank) for part, rank in re.findall(r"^\| `(\w+)` \| (\d+) \|", section("The folders"), re.MULTILINE)
    }
    assert told == {part or "__init__": rank for part, rank in RANKS.items()}


def test_its_folders_are_the_real_ones() -> None:
    real = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert real == {part or "__init__" for part in RANKS}


def test_its_drawing_has_no_arrow_upwards() -> None:
    drawn = dict(re.findall(r'(\w+)\["(_\w+): ', section("The folders")))
    arrows = re.findall(r'^    (\w+)(?:\[".*"\])? --> (.+)$', section("The folders"), re.MULTILINE)
    for upper, lowers in arrows:
        for lower in lowers.split(" & "):
            if upper in drawn:
                assert RANKS[drawn[lower]] < RANKS[drawn[upper]], (upper, lower)
    assert set(drawn.values()) == {part for part in RANKS if part.startswith("_") and part not in ("_cli", "__main__")}
    assert len(arrows) == 11


def test_its_steps_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*)\|$", section("The states of an order"), re.MULTILINE)
    told = {state: set(re.findall(r"`(\w+)`", steps)) for state, steps in rows}
    assert told == {state.name: {step.name for step in state.leads_to} for state in State}


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:_\w+|sandbox)/\w+\.(?:py|md)|_client\.py)`", PAGE))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (PACKAGE / name).is_file()] == []


NOTES = PACKAGE.parent / ".github"


@pytest.mark.skipif(not NOTES.exists(), reason="the notes for contributors are in the checkout only")
@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_notes_for_contributors_name_what_exists(name: str) -> None:
    text = (NOTES / name).read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)}
    files = set(re.findall(r"`((?:tests|trio_cancel)/[\w/]+\.?\w*/?)`", text))
    tests = set(re.findall(r"`(test_\w+\.py)`", text))
    modules = set(re.findall(r"-m (tests[.\w]+)", text))
    assert links | files | tests
    assert [link for link in sorted(links) if not (NOTES / link).exists()] == []
    assert [file for file in sorted(files) if not (PACKAGE.parent / file).exists()] == []
    assert [test for test in sorted(tests) if not list((PACKAGE.parent / "tests").rglob(test))] == []
    assert [module for module in sorted(modules) if importlib.util.find_spec(module) is None] == []
