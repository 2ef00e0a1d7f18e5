"""The README and the guides tell the truth: each example runs and prints what it says, commands work, links lead on.

A document's blocks are run from top to bottom, as by a reader, in one directory and against a sandbox at one url, whose
book is filled afresh for each block (see ``fill``). A ``python`` block is a ``conftest.py``, tests for pytest, a
program (it calls ``trio.run``), or a short example, which finds ``ws``, ``sandbox``, ``ids`` and the public names
there. A ``text`` block right after it is what it prints. ``<!-- test: … -->`` before a block says what is special.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType

import attrs
import pytest
import trio

import trio_cancel
from tests.tools.postgres import RIGHTS
from trio_cancel import open_trading_ws
from trio_cancel._cli._app import Call
from trio_cancel._cli._help import MANUALS
from trio_cancel._engine import rate as _pacing
from trio_cancel._engine import replies as _inbox
from trio_cancel._journal import journal as _journal
from trio_cancel._journal import lease as _lease
from trio_cancel._journal import store as _store
from trio_cancel._session import session as _session
from trio_cancel._values.timings import Timings
from trio_cancel._venue import verdict as _verdict
from trio_cancel.sandbox import Sandbox, open_sandbox
from trio_cancel.types import CancelReport, OpenReport, OrderScope

CHECKOUT = Path(__file__).parents[2]
PACKAGE = Path(trio_cancel.__file__).parent
README = "README.md"
GUIDES = sorted(path.name for path in (PACKAGE / "guides").glob("*.md"))
DOCUMENTS = [README, *GUIDES]

ORDER = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
RUN_WITHIN = 60.0  # s, for a block

KILLS_ITSELF = "the process kills itself"
NOT_RUN = "understood, not run"
SIGTERM = "SIGTERM, exit 143"
ONE_SHELL = "typed into one shell"  # test_database_guide.py does it

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<note>.*) -->\n)?^```(?P<language>\w*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)
_PRINTED = re.compile(r"\n*```text\n((?:.*\n)*?)```$", re.MULTILINE)


@attrs.frozen
class Block:
    """A fenced block of a document, with what comes around it."""

    where: str
    language: str
    text: str
    note: str
    printed: str | None


def document(name: str) -> str:
    """Return a document's text; the README as the wheel has it, if the tests are away from the checkout."""
    if name != README:
        return (PACKAGE / "guides" / name).read_text(encoding="utf-8")
    if (CHECKOUT / README).exists():
        return (CHECKOUT / README).read_text(encoding="utf-8")
    return importlib.metadata.metadata("trio-cancel").json["description"]  # type: ignore[return-value]  # a str


def blocks(name: str) -> list[Block]:
    text = document(name)
    found = []
    for match in _BLOCK.finditer(text):
        printed = _PRINTED.match(text, match.end())
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(
            Block(
                f"{name}:{line}",
                match["language"],
                match["text"],
                match["note"] or "",
                printed[1] if printed is not None else None,
            )
        )
    return found


def fill(sandbox: Sandbox, folder: Path) -> list[str]:
    """Put the orders onto the book that the documents speak of; return the many ids, which are in a file as well."""
    sandbox.book.create(id=ORDER, external_id="my-order-123")
    sandbox.book.fill(ORDER, amount="0.0004")
    sandbox.book.create(external_id="mm-41")
    sandbox.book.create(external_id="mm-42")
    ids = [sandbox.book.create().id for _ in range(100)]
    (folder / "ids.txt").write_text("".join(f"{order_id}\n" for order_id in ids))
    return ids


def environment(sandbox: Sandbox) -> dict[str, str]:
    """Return what the documents tell the reader to have in the environment."""
    return os.environ | {
        "TRIO_CANCEL_URL": sandbox.url,
        "TRIO_CANCEL_REST_URL": sandbox.rest_url if sandbox.has_rest else "",
        "RIPIO_API_TOKEN": sandbox.credentials.api_token,
        "RIPIO_API_SECRET": sandbox.credentials.api_secret,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "METRICS_PORT": "0",
        "SANDBOX_ORDER_IDS": ",".join(order.id for order in sandbox.book.open_orders()),
    }


def check_printed(block: Block, printed: str) -> None:
    if block.printed is not None:
        assert printed == block.printed, block.where


async def run_command(command: Iterable[str], sandbox: Sandbox, where: str, *, status: int = 0) -> str:
    """Run a command as a reader would; return what it printed."""
    with trio.fail_after(RUN_WITHIN):
        done = await trio.run_process(
            list(command), env=environment(sandbox), capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == status, f"{where}: {done.stdout.decode()}\n{done.stderr.decode()}"
    return done.stdout.decode()


async def run_program(block: Block, sandbox: Sandbox) -> None:
    """Run a program in a process of its own, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", block.text]
    if block.note == SIGTERM:
        check_printed(block, await run_until_terminated(command, sandbox, block.where))
    else:
        status = -signal.SIGKILL if block.note == KILLS_ITSELF else 0
        check_printed(block, await run_command(command, sandbox, block.where, status=status))


async def run_until_terminated(command: list[str], sandbox: Sandbox, where: str) -> str:
    """Run a program, terminate it when it has printed something, return all that it printed."""
    process = await trio.lowlevel.open_process(command, env=environment(sandbox), stdout=subprocess.PIPE)
    assert process.stdout is not None
    printed = b""
    try:
        with trio.fail_after(RUN_WITHIN):
            async with process.stdout:
                async for chunk in process.stdout:
                    if not printed:
                        process.terminate()
                    printed += chunk
            assert await process.wait() == 143, where
    finally:
        process.kill()
    return printed.decode()


async def run_snippet(block: Block, sandbox: Sandbox, ids: list[str]) -> None:
    """Run a short example here, with ``await`` allowed as it stands there."""
    code = compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    public = {name: getattr(trio_cancel, name) for name in dir(trio_cancel) if not name.startswith("_")}
    printed = io.StringIO()
    async with open_trading_ws(sandbox.url, credentials=sandbox.credentials) as ws:
        names = {**public, "trio": trio, "ws": ws, "sandbox": sandbox, "ids": ids, "__name__": block.where}
        names["__builtins__"] = builtins  # pickle imports by way of the caller's
        with contextlib.redirect_stdout(printed), trio.fail_after(RUN_WITHIN):
            running = FunctionType(code, names)()
            if inspect.iscoroutine(running):
                await running
    check_printed(block, printed.getvalue())


async def run_tests(block: Block, sandbox: Sandbox, folder: Path) -> None:
    """Run a block of tests in a pytest of its own."""
    (folder / "test_example.py").write_text(block.text)
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(folder))
    printed = await run_command(command, sandbox, block.where)
    assert f"{block.text.count('def test_')} passed" in printed, block.where


async def run_shell(block: Block, sandbox: Sandbox) -> None:
    if block.note != NOT_RUN:
        check_printed(block, await run_command(("bash", "-euo", "pipefail", "-c", block.text), sandbox, block.where))
        return
    await run_command(("bash", "-n", "-c", block.text), sandbox, block.where)
    for line in block.text.splitlines():
        program, *words = shlex.split(line)
        assert program == "trio-cancel", block.where
        Call().app.parse_args(words, exit_on_error=False)  # raises for a command or an option that there is not


def is_set_up(block: Block) -> bool:
    """Return True for what needs the environment of the quick start: ``test_first_hour.py`` runs it."""
    return ".venv" in block.text


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_blocks_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "database.md":
        monkeypatch.setenv("JOURNAL", request.getfixturevalue("database").url("mm-1"))
    port = 0
    for block in blocks(name):
        if block.language not in ("python", "sh") or is_set_up(block) or block.note == ONE_SHELL:
            continue
        async with open_sandbox(port=port, rest_port=0) as sandbox:
            port = int(sandbox.url.rpartition(":")[2])  # a journal belongs to one url
            ids = fill(sandbox, tmp_path)
            if block.language == "sh":
                await run_shell(block, sandbox)
            elif "pytest_plugins" in block.text:
                (tmp_path / "conftest.py").write_text(block.text)
            elif "def test_" in block.text:
                await run_tests(block, sandbox, tmp_path)
            elif "trio.run(" in block.text:
                await run_program(block, sandbox)
            else:
                await run_snippet(block, sandbox, ids)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_is_of_a_known_kind(name: str) -> None:
    for block in blocks(name):
        assert block.language in ("python", "sh", "text", "ini", "yaml", "mermaid"), block.where
        assert block.note in ("", KILLS_ITSELF, NOT_RUN, SIGTERM, ONE_SHELL), block.where
    assert document(name).count("```") == 2 * len(blocks(name))
    if name != "architecture.md":  # it is about the code, not about its use
        assert any(block.language == "python" for block in blocks(name))


def test_the_quick_start_is_two_commands_that_stand_alone() -> None:
    """What they do is seen by ``.ci/run``, which runs them as they stand."""
    quick_start = document(README).partition("## Quick start\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)^```$", quick_start, re.MULTILINE | re.DOTALL)
    assert commands == [block.text for block in blocks(README) if block.language == "sh"][:2]
    assert len(commands) == 2
    for command in commands:
        assert len(command.splitlines()) == 1
        assert command.startswith("python3 -m venv .venv && ")
    assert commands[0].endswith(" && .venv/bin/trio-cancel demo\n")
    assert commands[1].endswith(" && .venv/bin/python -m pytest\n")


def links(name: str) -> list[str]:
    prose = _BLOCK.sub("", document(name))
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """Return the names that headings get (GitHub's rule, as far as our headings need it)."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    found = links(name)
    for link in found:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        if name != README:
            target = (PACKAGE / "guides" / path) if path else (PACKAGE / "guides" / name)
        elif path.startswith("trio_cancel/"):
            target = PACKAGE.parent / path
        elif (CHECKOUT / README).exists():
            target = CHECKOUT / path
        else:
            continue  # beside the README, and so not in the wheel
        assert target.is_file(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name}: {link}"
    assert found


def test_the_readme_leads_to_every_guide() -> None:
    assert {link for link in links(README) if link.startswith("trio_cancel/guides/")} == {
        f"trio_cancel/guides/{name}" for name in GUIDES
    }
    assert GUIDES


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_of_the_library_that_are_mentioned_exist(name: str) -> None:
    """Outcomes, exceptions, keywords and commands in running text are spelt as in the code."""
    text = _BLOCK.sub("", document(name))
    keywords = set(inspect.signature(open_trading_ws).parameters)
    for mentioned in re.findall(r"`open_trading_ws\((\w+)=", text):
        assert mentioned in keywords, mentioned
    for mentioned in re.findall(r"`ws\.(\w+)", text):
        assert hasattr(trio_cancel.TradingWS, mentioned), mentioned
    for mentioned in re.findall(r"`(?:report|outcome)\.(\w+)", text):
        classes = (CancelReport, OpenReport, trio_cancel.Unknown, trio_cancel.Canceled)
        assert any(mentioned in dir(cls) for cls in classes), mentioned
    for mentioned in re.findall(r"`orders\.(\w+)", text):
        assert mentioned == "report" or hasattr(OrderScope, mentioned), mentioned
    for mentioned in re.findall(r"`trio-cancel (\w+)", text):
        assert mentioned in MANUALS, mentioned


times = Timings()


def default(name: str) -> float:
    value = inspect.signature(open_trading_ws).parameters[name].default
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outcomes.md", f"`give_up_after` ({default('give_up_after'):g} s)"),
        ("attempts.md", f"`reply_timeout` ({default('reply_timeout'):g} s)"),
        ("attempts.md", f"`give_up_after` ({default('give_up_after'):g} s)"),
        ("attempts.md", f"| `connect_timeout` | {default('connect_timeout'):g} s |"),
        ("attempts.md", f"| `reply_timeout` | {default('reply_timeout'):g} s |"),
        ("attempts.md", f"| `give_up_after` | {default('give_up_after'):g} s |"),
        ("attempts.md", f"after {_inbox.RETRY_FIRST:g} s, doubling up to {_inbox.RETRY_MOST:g} s, with jitter"),
        ("attempts.md", f"more than {_verdict.LATE_SIGNATURE:g} s after its write"),
        ("attempts.md", f"after {_session.BACKOFF_FIRST:g} s, doubling up to {_session.BACKOFF_MOST:g} s, with jitter"),
        ("attempts.md", f"a ping every {times.ping_interval:g} s, {times.pong_deadline:g} s for its pong"),
        ("attempts.md", f"found within {times.ping_interval + times.pong_deadline:g} s"),
        ("attempts.md", f"the write is given up after {times.write_deadline:g} s"),
        ("attempts.md", f"over {_inbox.BAD_PER_MINUTE} a minute"),
        ("rate-limits.md", f"Up to {_pacing.WINDOW_START} requests are in flight"),
        ("rate-limits.md", f"allows one more, up to {_pacing.WINDOW_MOST}."),
        ("rate-limits.md", f"a pace of {_pacing.PACED_START:g} requests a second"),
        ("rate-limits.md", f"{_pacing.RECOVERY_EACH:.1%} with each answer".replace("%", " %")),
        ("rate-limits.md", f"at most {_pacing.RECOVERY:.0%} a second".replace("%", " %")),
        ("database.md", f"({default('lease'):g} s; from {_lease.LEAST:g} to {_lease.MOST:g})"),
        ("database.md", f"**A cancel waits for the database for {_journal.INTENT_WITHIN:g} s at most**"),
        ("database.md", f"refused instead, after {_journal.PATIENCE:g} s at first"),
        ("database.md", f"confirmed nothing for {_lease.SURE_FOR:g} of the lease"),
        ("database.md", f"forgotten after {_store.HISTORY} days"),
        ("database.md", RIGHTS.strip()),
        ("journal.md", f"takes more than {_journal.PATIENCE:g} s"),
        ("journal.md", f"up to {_journal.KEPT_MOST:,} rows".replace(",", " ")),
    ],
)
def test_figures_are_those_of_the_code(name: str, said: str) -> None:
    assert said in document(name)


async def test_the_opentelemetry_example_measures(tmp_path: Path) -> None:
    """Its output shows only that it runs; with an SDK its figures come out."""
    [example] = [block for block in blocks("observing.md") if "opentelemetry" in block.text]
    program = f"""
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
exec({example.text!r})
print(reader.get_metrics_data().to_json(indent=None))
"""
    async with open_sandbox() as sandbox:
        fill(sandbox, tmp_path)
        printed = await run_command((sys.executable, "-c", program), sandbox, example.where)
    data = json.loads(printed.splitlines()[-1])
    figures = {
        metric["name"]: (metric["unit"], metric["data"]["data_points"][0])
        for metric in data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    }
    unit, point = figures["trio_cancel.reply.duration"]
    assert (unit, point["count"], point["attributes"]) == ("s", 1, {"status": 200})
    unit, point = figures["trio_cancel.orders"]
    assert (unit, point["value"], point["attributes"]) == ("{order}", 1, {"outcome": "canceled"})
    assert figures["trio_cancel.requests"][1]["value"] == 1
    assert figures["trio_cancel.connections"][1]["value"] == 0
