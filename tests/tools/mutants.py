"""Run mutmut's mutants quickly: ``python -m tests.tools.mutants [PATTERN …]``, in a tree that may be thrown away.

mutmut starts pytest for each mutant and lets it collect the tests anew. Here they are collected once; then a process is
forked for each mutant, which runs the tests that reach the mutated function, the quickest first, until one fails. A
whole run takes some twenty minutes so.

Which mutant which test killed is in ``mutants.jsonl``; what is there already is not run again. ``SECONDS=`` bounds the
tests of one mutant (by the time that they took without it), and so what a mutant costs that nothing kills.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths
from mutmut.utils.format_utils import mangled_name_from_mutant_name

SECONDS = float(os.environ.get("SECONDS", "10"))
AT_ONCE = os.cpu_count() or 1
TIMEOUT, TIMES = 8.0, 15
"""A test is taken for failed after so many seconds, and so many times as long as it takes without a mutant."""


class Runner:
    """A pytest plugin that runs the tests in its own way."""

    def __init__(self, patterns: list[str], results: Path) -> None:
        self._patterns = patterns
        self._results = results
        self._failed = ""
        self._took: dict[str, float] = {}

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
        with self._results.open("a") as results:
            for mutant in mutants:
                if mutant in done:
                    continue
                if len(running) >= AT_ONCE:
                    _reap(running, results)
                read, write = os.pipe()
                child = os.fork()
                if not child:
                    self._try(mutant, reaching.get(mangled_name_from_mutant_name(mutant), []), write)
                os.close(write)
                running[child] = mutant, read
            while running:
                _reap(running, results)
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

    def _try(self, mutant: str, tests: list[pytest.Item], write: int) -> None:
        """Run tests until one fails, and end the process."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        set_mutant_under_test(mutant)
        seconds = 0.0
        self._failed = ""
        for item in tests:
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


def _reap(running: dict[int, tuple[str, int]], results: object) -> None:
    child, status = os.wait()
    mutant, read = running.pop(child)
    by = os.read(read, 1000).decode(errors="replace")
    os.close(read)
    print(json.dumps({"mutant": mutant, "killed": status != 0, "by": by}), file=results, flush=True)  # type: ignore[call-overload]  # a text file


def _mutants() -> Iterator[str]:
    for meta in sorted(Path().rglob("*.meta")):
        yield from json.loads(meta.read_text())["exit_code_by_key"]


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
    arguments = [*settings["pytest_add_cli_args"], *settings["pytest_add_cli_args_test_selection"]]
    sys.exit(pytest.main(["--rootdir=.", "-q", "--tb=no", *arguments], plugins=[runner]))


if __name__ == "__main__":
    main()
