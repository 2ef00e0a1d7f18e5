"""What a newcomer does with the README and the bot's guide alone, word for word, in processes and terminals."""

from __future__ import annotations

import configparser
import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.integration.test_docs import README, Block, blocks, document
from trio_cancel.sandbox import Order, open_sandbox_control

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals and terminals")

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("RIPIO_", "TRIO_CANCEL_"))}
PATIENCE = 60.0
BOT = "bot.md"


def saved_as(name: str, source: str) -> Block:
    """Return the block that a document says to save under this name: the first one after these words."""
    before, said, _ = document(source).partition(f"ave {'this' if name == 'first.py' else 'it'} as `{name}`")
    assert said, name
    line = before.count("\n") + 1
    return next(block for block in blocks(source) if int(block.where.rpartition(":")[2]) > line)


def commands(source: str) -> list[str]:
    """Return what the document has typed into a terminal, without the set-up."""
    return [
        block.text.strip()
        for block in blocks(source)
        if block.language == "sh" and ".venv/bin/" in block.text and "-m venv" not in block.text
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the quick start leaves it, with the programs saved that the documents show."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for source, name in ((README, "first.py"), (README, "quotes.py"), (BOT, "bot.py")):
        (tmp_path / name).write_text(saved_as(name, source).text)
    return tmp_path


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextmanager
def serving(command: str, folder: Path, file: str) -> Iterator[subprocess.Popen[str]]:
    """Have a command serve a sandbox, as in a terminal of its own, and wait for its file as the README says."""
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command}"], cwd=folder, env=CLEAN, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not (folder / file).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
            assert not (folder / file).exists()
        finally:
            process.kill()


def test_the_first_program_runs_as_the_readme_says(folder: Path) -> None:
    at_once, serve, run = commands(README)
    done = in_shell(at_once, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("off the book; 0 of 0.001 was executed before\n9 more: {'canceled': 9,")
    with serving(serve, folder, "sandbox.env"):
        for first in ("off the book; 0 of 0.001 was executed before\n", "off the book already: "):
            done = in_shell(run, folder)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(first)


class Running:
    """A program in a terminal of its own."""

    def __init__(self, command: str, folder: Path) -> None:
        self.seen = ""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve("/bin/sh", ["/bin/sh", "-c", command], CLEAN)

    def wait_for(self, words: str) -> str:
        """Return what it has printed once these words are there."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.terminal, 65536).decode()
                except OSError:
                    assert words in self.seen, self.seen
        return self.seen

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self.terminal)
        self.terminal = -1

    def wait(self) -> int:
        """Return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, self.seen
            if self.terminal >= 0 and select.select([self.terminal], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.terminal, 65536).decode()
            elif self.terminal < 0:
                time.sleep(0.02)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if self.terminal >= 0:
            os.close(self.terminal)


@contextmanager
def running(command: str, folder: Path) -> Iterator[Running]:
    # The shell is replaced by the program, as a job of an interactive one is a process of its own.
    program = Running(re.sub(r"(\.venv/bin/python)", r"exec \1", command), folder)
    try:
        yield program
    finally:
        program.close()


def on_the_book(folder: Path) -> list[Order]:
    url = re.search(r"TRIO_CANCEL_URL=(.*)", (folder / "sandbox.env").read_text())
    assert url is not None

    async def ask() -> list[Order]:
        async with open_sandbox_control(url[1]) as venue:
            return await venue.open_orders(pending=True)

    return trio.run(ask)


def test_the_quote_loop_leaves_nothing_behind(folder: Path) -> None:
    _, serve, run = commands(README)
    with serving(serve, folder, "sandbox.env"):
        for end in (signal.SIGINT, signal.SIGTERM):
            with running(run.replace("first.py", "quotes.py"), folder) as program:
                program.wait_for("canceled")
                os.kill(program.pid, end)
                assert program.wait() == 128 + end, program.seen
            assert len(on_the_book(folder)) == 10


def test_the_bot_is_killed_and_resumes_and_a_closed_terminal_ends_it(folder: Path) -> None:
    serve, run = commands(BOT)
    with serving(serve, folder, "sandbox.env"):
        with running(run, folder) as bot:
            bot.wait_for("quoting bot-sell")
            bot.wait_for("quoting bot-buy")
            os.kill(bot.pid, signal.SIGKILL)
            assert bot.wait() == -signal.SIGKILL
        killed = {order.external_id for order in on_the_book(folder)}
        assert killed  # nobody has canceled them

        with running(run, folder) as bot:
            bot.wait_for("resumed {'canceled': ")
            bot.wait_for("quoting")
            assert not killed & {order.external_id for order in on_the_book(folder)}
            bot.hang_up()
            assert bot.wait() in (128 + signal.SIGHUP, 1)  # 1: it was printing to the terminal that has gone
        assert on_the_book(folder) == []

        with running(run, folder) as bot:  # nothing was left this time
            bot.wait_for("quoting")
            assert "resumed" not in bot.seen
            bot.wait_for("left 0")  # all quotes were pulled
            os.write(bot.terminal, b"\x03")
            assert bot.wait() == 128 + signal.SIGINT, bot.seen
        assert on_the_book(folder) == []


def test_the_unit_gives_the_bot_the_time_that_its_scope_takes() -> None:
    [unit] = [block for block in blocks(BOT) if block.language == "ini"]
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    parser.read_string(unit.text)
    assert parser.sections() == ["Unit", "Service", "Install"]
    service = parser["Service"]
    assert service["ExecStart"].endswith(".venv/bin/python bot.py")
    assert int(service["TimeoutStopSec"]) >= 30 + 3
    assert service["SuccessExitStatus"] == str(128 + signal.SIGTERM)
