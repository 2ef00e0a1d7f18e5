"""Run mutmut's mutants quickly: ``python -m tests.tools.mutants [PATTERN …]``, in a tree that may be thrown away.

mutmut starts pytest for each mutant and lets it collect the tests anew. Here they are collected once; then a process is
forked for each mutant, which runs the tests that reach the mutated function until one fails: first those that have
killed others of that module, then the quickest.

A mutant that writes an SQL keyword or name in the other case is left out: SQL knows no case. One that mypy refuses, as
``.ci/run`` would, is killed by that.

Which mutant which test killed is in ``mutants.jsonl``; what is there already is not run again. ``SECONDS=`` bounds the
tests of one mutant (by the time that they took without it), and so what a mutant costs that nothing kills.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths
from mutmut.utils.format_utils import mangled_name_from_mutant_name

SECONDS = float(os.environ.get("SECONDS", "10"))
AT_ONCE = len(os.sched_getaffinity(0))  # "taskset -c 1" leaves the other cores to others
TIMEOUT, TIMES = 8.0, 15
"""A test is taken for failed after so many seconds, and so many times as long as it takes without a mutant."""


SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|BEGIN|COMMIT|ROLLBACK|PRAGMA|CREATE|ALTER|DROP|VACUUM)\b"
    r"|(ACCOUNT|SESSION|HOLD|PLACED|RELEASE|INTENT|ATTEMPT|OUTCOME|ANSWER)$"  # the journal's tables
)

NOT_THE_MUTANTS = frozenset({"has-type", "misc", "no-redef", "unused-ignore", "var-annotated"})
"""Errors of mypy that come from mutmut's way to write all mutants into one module."""


class Runner:
    """A pytest plugin that runs the tests in its own way."""

    def __init__(self, patterns: list[str], results: Path) -> None:
        self._patterns = patterns
        self._results = results
        self._failed = ""
        self._took: dict[str, float] = {}
        self._killers: dict[str, Counter[str]] = {}  # of each module's mutants

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took[report.nodeid] = self._took.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._failed = report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reaching = self._tests_by_function(session.items)
        done = {json.loads(line)["mutant"] for line in self._results.open()} if self._results.exists() else set()
        mutants = [name for name in _mutants() if any(fnmatch.fnmatch(name, each) for each in self._patterns)]
        print(f"\n{len(mutants)} mutants, {len(done)} done before")
        running: dict[int, tuple[str, int]] = {}
        refused = {} if done.issuperset(mutants) else _refused_by_types()
        with self._results.open("a") as results:
            for mutant in mutants:
                if mutant in done:
                    continue
                if why := refused.get(mutant):
                    print(json.dumps({"mutant": mutant, "killed": True, "by": f"mypy: {why}"}), file=results)
                    continue
                if len(running) >= AT_ONCE:
                    self._reap(running, results)
                read, write = os.pipe()
                child = os.fork()
                if not child:
                    self._try(mutant, reaching.get(mangled_name_from_mutant_name(mutant), []), write)
                os.close(write)
                running[child] = mutant, read
            while running:
                self._reap(running, results)
        return True

    def _tests_by_function(self, items: list[pytest.Item]) -> dict[str, list[pytest.Item]]:
        """Run each test once; return those that pass by the functions that they reach, the quickest first."""
        reached: dict[str, list[pytest.Item]] = {}
        set_mutant_under_test("stats")
        for item in items:
            state()._stats.clear()
            self._failed = ""
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._failed:
                print(f"\n{self._failed} fails without a mutant: left out")
                continue
            for function in state()._stats:
                reached.setdefault(function, []).append(item)
        set_mutant_under_test("")
        for tests in reached.values():
            tests.sort(key=lambda item: self._took[item.nodeid])
        return reached

    def _reap(self, running: dict[int, tuple[str, int]], results: TextIO) -> None:
        child, status = os.wait()
        mutant, read = running.pop(child)
        by = os.read(read, 1000).decode(errors="replace")
        os.close(read)
        print(json.dumps({"mutant": mutant, "killed": status != 0, "by": by}), file=results, flush=True)
        if by:
            self._killers.setdefault(mutant.rpartition(".")[0], Counter())[by.partition(": ")[0]] += 1

    def _try(self, mutant: str, tests: list[pytest.Item], write: int) -> None:
        """Run tests until one fails, and end the process."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        set_mutant_under_test(mutant)
        seconds = 0.0
        self._failed = ""
        killers = self._killers.get(mutant.rpartition(".")[0], Counter())
        for item in sorted(tests, key=lambda item: -killers[item.nodeid]):
            took = self._took[item.nodeid]
            seconds += took
            if seconds > SECONDS and item is not tests[0]:
                break
            signal.setitimer(signal.ITIMER_REAL, TIMEOUT + TIMES * took)  # whose signal ends the process
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            except BaseException as error:  # noqa: ASYNC103 - whatever a mutant makes of a test, it is dead
                self._failed = f"{item.nodeid}: {error!r}"
            if self._failed:
                os.write(write, self._failed[:1000].encode())
                os._exit(1)
        os._exit(0)


def _is_sql_in_another_case(before: ast.AST, after: ast.AST) -> bool:
    """Return True if two functions are the same but for the case of SQL."""

    def folded(function: ast.AST) -> str:
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if SQL.match(node.value) or SQL.match(node.value.swapcase()):
                    node.value = node.value.lower()
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.name = node.name.partition("__mutmut_")[0]
        return ast.dump(function)

    return folded(before) == folded(after)


def _equal_by_case(source: str) -> set[str]:
    """Return the names of the mutated functions in a module that differ from the original only in the case of SQL."""
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "__mutmut_" in node.name
    }
    return {
        name
        for name, node in functions.items()
        if not name.endswith("_orig")
        and _is_sql_in_another_case(functions[name.partition("__mutmut_")[0] + "__mutmut_orig"], node)
    }


def _mutants() -> Iterator[str]:
    for meta in sorted(Path().rglob("*.meta")):
        source = meta.with_suffix("").read_text()
        equal = _equal_by_case(source) if "sqlite3" in source or "psycopg" in source else set()
        for name in json.loads(meta.read_text())["exit_code_by_key"]:
            if name.rpartition(".")[2] not in equal:
                yield name


def _refused_by_types() -> dict[str, str]:
    """Return the mutants in which mypy finds what it does not find in the original, with one of its words for each."""
    command = [sys.executable, "-m", "mypy", "trio_cancel", "--config-file", "../pyproject.toml", "--output", "json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    errors: dict[str, list[dict[str, Any]]] = {}
    for error in map(json.loads, printed.splitlines()):
        if error["code"] not in NOT_THE_MUTANTS:
            errors.setdefault(error["file"], []).append(error)
    refused = {}
    for file, found in errors.items():
        said: dict[str, set[str]] = {}
        for node in ast.walk(ast.parse(Path(file).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "__mutmut_" in node.name:
                lines = range(node.lineno, (node.end_lineno or 0) + 1)
                said[node.name] = {error["message"] for error in found if error["line"] in lines}
        for name, messages in said.items():
            if new := messages - said[name.partition("__mutmut_")[0] + "__mutmut_orig"]:
                refused[f"{file.removesuffix('.py').replace('/', '.')}.{name}"] = min(new)
    return refused


def main() -> None:
    """Make the mutants, and run them."""
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutmut"]
    os.environ["MUTANT_UNDER_TEST"] = ""
    config()
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    mutmut.create_mutants(AT_ONCE)
    runner = Runner(sys.argv[1:] or ["*"], Path("mutants.jsonl").absolute())
    os.chdir("mutants")
    sys.path.insert(0, os.getcwd())
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # those of the tree; the tests that are run are those of the copy
    arguments = [*settings["pytest_add_cli_args"], *settings["pytest_add_cli_args_test_selection"]]
    sys.exit(pytest.main(["--rootdir=.", "-q", "--tb=no", *arguments], plugins=[runner]))


if __name__ == "__main__":
    main()
