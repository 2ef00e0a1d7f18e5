"""What a user does with the guide on databases alone, word for word: a database, a bot, two guards, plugs pulled."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.test_docs import ONE_SHELL, Block, blocks, document
from tests.tools.postgres import all_binaries, free_port, own_directory, within_reach
from trio_cancel._cli._app import Call

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

GUIDE = "database.md"
PORT = "5544"
PROGRAMS = ("initdb", "pg_ctl", "createdb", "psql")
AS_NOBODY = """#!{python} -I
import os, pwd, sys
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""
"""PostgreSQL's programs refuse root, which the tests may be."""
PATIENCE = 120.0


def saved_as(name: str) -> Block:
    """Return the block that the guide says to save under this name: the one after its name and a colon."""
    before, said, _ = re.split(rf"(`{re.escape(name)}`\)?:\n)", document(GUIDE))
    assert said
    line = before.count("\n") + 1
    return next(block for block in blocks(GUIDE) if int(block.where.rpartition(":")[2]) > line)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with an environment, and the files that the guide shows; another user may write into it."""
    folder = own_directory()
    try:
        (folder / ".venv").symlink_to(sys.prefix)
        for name in ("holding.py", "book.py", "rights.sql"):
            (folder / name).write_text(saved_as(name).text)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def path(folder: Path) -> Iterator[str]:
    """PATH with PostgreSQL's programs; its server ends with the test in any case."""
    found = all_binaries()
    if not found and not os.environ.get("CI"):
        pytest.skip("no programs of PostgreSQL were found")
    programs = within_reach(next(iter(found.values())), folder)
    if os.geteuid() == 0:
        shims = folder / "shims"
        shims.mkdir()
        for name in PROGRAMS:
            shim = shims / name
            shim.write_text(AS_NOBODY.format(python=sys.executable, program=str(programs / name)))
            shim.chmod(0o755)
        programs = shims
    yield f"{programs}{os.pathsep}{os.environ['PATH']}"
    pid = folder / "trading-db" / "postmaster.pid"
    if pid.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text().split()[0]), signal.SIGQUIT)


def test_a_killed_bot_and_a_killed_guard_leave_no_order_on_the_book(folder: Path, path: str) -> None:
    steps = [block for block in blocks(GUIDE) if block.note == ONE_SHELL]
    assert len(steps) == 8
    typed = "".join(f"{block.text}echo '--- end of a step'\n" for block in steps).replace(PORT, str(free_port()))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RIPIO_", "TRIO_CANCEL_", "PG"))}
    with (
        open(folder / "stderr", "w+") as stderr,
        subprocess.Popen(
            ["/bin/sh", "-eu", "-c", typed],
            cwd=folder,
            env=clean | {"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as shell,
    ):
        try:
            printed, _ = shell.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        stderr.seek(0)
        said = stderr.read()
    assert shell.returncode == 0, printed + said
    outputs = printed.split("--- end of a step\n")
    assert outputs.pop() == ""
    for block, output in zip(steps, outputs, strict=True):
        assert output == (block.printed or ""), block.where
    told = (folder / "guard-2.log").read_text()
    assert len(re.findall(r'"status":"canceled"', told)) == 10
    assert (folder / "guard-1.log").read_text() == ""
    assert "mm-1: 10 orders, 0 left" in said
    assert "Traceback" not in said


def test_the_services_call_the_guard_as_it_is_called() -> None:
    """What a unit and a compose file start is understood by the command line, and does not carry a password."""
    [unit] = [block.text for block in blocks(GUIDE) if block.language == "ini"]
    [compose] = [block.text for block in blocks(GUIDE) if block.language == "yaml"]
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service", "Install"]
    started = [parser["Service"]["ExecStart"], *re.findall(r"command: (trio-cancel .*)", compose)]
    assert len(started) == 2
    for command in started:
        program, *words = shlex.split(command)
        assert Path(program).name == "trio-cancel"
        assert words[-2:] == ["--log-level", "warning"]  # of every command, and so not of this one alone
        Call().app.parse_args(words[:-2], exit_on_error=False)
    assert not re.search(r"postgresql://[^/@]*:", unit + compose)
    assert compose.count(": *guard") == 1
    assert compose.count("&guard") == 1
