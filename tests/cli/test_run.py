"""The machinery under the commands: a run that ends early, lines to a pipe, sandbox and demo in this process."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress

import attrs
import pytest
import trio

from trio_cancel import CancelRequest, Outcome
from trio_cancel._cli import _run, _stdout, run, run_async
from trio_cancel._cli._run import Halt, Run
from trio_cancel._cli._sandbox import program
from trio_cancel._cli._stdout import Stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import Venue
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel.sandbox import Fault, Faults, Sandbox

# A run


@attrs.define
class Told:
    """Collects what a run tells."""

    outcomes: list[Outcome] = attrs.field(factory=list)

    def __call__(self, outcome: Outcome, places: int) -> None:
        self.outcomes.extend([outcome] * places)

    @property
    def kinds(self) -> list[str]:
        return [outcome.kind for outcome in self.outcomes]


async def at_once() -> None:
    await trio.lowlevel.checkpoint()


def make_run(sandbox: Sandbox, requests: dict[CancelRequest, int], room: Callable[..., object] = at_once) -> Run:
    venue = Venue(parse_endpoint(sandbox.url), sandbox.credentials, sandbox.ssl_context)
    return Run(venue.open, requests, Told(), room, Halt())  # type: ignore[arg-type]  # room is awaitable in each test


def told(made: Run) -> Told:
    assert isinstance(made.report, Told)
    return made.report


async def test_outcomes_that_came_and_were_not_taken_are_told(trading_sandbox: Sandbox) -> None:
    """Whoever holds the run back when it is interrupted must not turn a cancel that happened into one not sent."""
    requests = {CancelRequest(trading_sandbox.book.create().id): 1 for _ in range(100)}
    made: Run

    async def hold_back() -> None:
        # Nothing is taken while the venue answers all that is in flight.
        while len(trading_sandbox.log.requests) < 100:  # noqa: ASYNC110 - the sandbox has no event for it
            await trio.sleep(0.01)
        await trio.sleep(0.05)
        made.halt.signal(signal.SIGINT)
        await trio.lowlevel.checkpoint()

    made = make_run(trading_sandbox, requests, hold_back)
    with trio.fail_after(10):
        await made.run()
    assert told(made).kinds == ["canceled"] * 100


async def test_a_run_tells_each_order_once_and_for_each_place(trading_sandbox: Sandbox) -> None:
    requests = {CancelRequest(trading_sandbox.book.create().id): places for places in (1, 2, 3)}
    made = make_run(trading_sandbox, requests)
    await made.run()
    assert told(made).kinds == ["canceled"] * 6
    assert len(made.watch.latencies) == 3
    assert made.halt.why is None
    made._take(told(made).outcomes[0])
    assert len(told(made).outcomes) == 6


async def test_answers_that_come_during_the_grace_count(trading_sandbox: Sandbox) -> None:
    requests = {CancelRequest(trading_sandbox.book.create().id): 1 for _ in range(5)}
    trading_sandbox.faults = Faults(delay=(0.1, 0.3))
    trading_sandbox.script(lambda request: Fault.DELAYED)
    made = make_run(trading_sandbox, requests)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        while len(trading_sandbox.log.requests) < 5:  # noqa: ASYNC110 - see above
            await trio.sleep(0.001)
        made.halt.signal(signal.SIGINT)
    assert told(made).kinds == ["canceled"] * 5


def test_a_third_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda *words: done.append(words))
    monkeypatch.setattr(signal, "raise_signal", done.append)
    halt = Halt()
    for _ in range(2):
        halt.signal(signal.SIGINT)
    assert not done
    halt.signal(signal.SIGTERM)
    assert done == [(signal.SIGTERM, signal.SIG_DFL), signal.SIGTERM]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM])
async def test_a_closed_terminal_that_signals_twice_asks_once(
    signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    halt = Halt()
    halt.signal(signum)
    halt.signal(signal.SIGHUP)
    assert halt.scope.cancel_called
    assert not halt.answer_grace.cancel_called
    assert halt.status(Status.OK) == 128 + signum
    now = 6.0
    halt.signal(signal.SIGHUP)
    assert halt.answer_grace.cancel_called


async def test_after_a_signal_the_output_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "OUTPUT_GRACE", 0.05)
    before = Halt()
    before.signal(signal.SIGINT)
    with trio.fail_after(5):
        await before.wait_printed(trio.Event())
    during = Halt()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(during.wait_printed, trio.Event())
            await trio.testing.wait_all_tasks_blocked()
            during.signal(signal.SIGTERM)


# Lines to a pipe


@pytest.fixture
def open_pipe(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], int]]:
    """Call it in the test (pytest sets stdout anew for each phase): makes stdout a pipe, returns the end to read."""
    descriptor, write = os.pipe()

    def replace() -> int:
        monkeypatch.setattr(sys, "stdout", stream)
        return descriptor

    with os.fdopen(write, "w") as stream:
        yield replace
        monkeypatch.undo()
    os.close(descriptor)


async def read_lines(descriptor: int, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < count:
        data += await trio.to_thread.run_sync(os.read, descriptor, 65536, abandon_on_cancel=True)
    return data.splitlines()


async def test_a_slow_reader_holds_back_whoever_makes_lines(open_pipe: Callable[[], int]) -> None:
    pipe = open_pipe()
    stdout = Stdout()
    lines = [b"%d" % n + b"x" * 200 for n in range(3000)]

    async def make() -> None:
        for line in lines:
            stdout.put(line + b"\n")
            await stdout.room()
            assert len(stdout._lines) <= _stdout.LINES_MOST
        stdout.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdout.run)
            nursery.start_soon(make)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert stdout._lines, "nobody reads, so lines must wait"
            assert (await read_lines(pipe, len(lines)) == lines) is True
    assert stdout.ended.is_set()


async def test_a_pipe_that_somebody_made_non_blocking(open_pipe: Callable[[], int]) -> None:
    pipe = open_pipe()
    os.set_blocking(sys.stdout.fileno(), False)
    stdout = Stdout()
    stdout.put(b"x" * 300_000 + b"\n")
    stdout.close()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdout.run)
            assert (await read_lines(pipe, 1) == [b"x" * 300_000]) is True


async def test_a_reader_that_never_reads_cannot_keep_an_interrupted_run(
    open_pipe: Callable[[], int], trading_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = open_pipe()
    monkeypatch.setattr(_run, "OUTPUT_GRACE", 0.1)
    monkeypatch.setenv("RIPIO_API_TOKEN", trading_sandbox.credentials.api_token)
    monkeypatch.setenv("RIPIO_API_SECRET", trading_sandbox.credentials.api_secret)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    orders = [trading_sandbox.book.create().id for _ in range(3000)]
    statuses: list[int] = []
    writing: list[bytes] = []
    write = _stdout._write

    def write_noted(chunk: bytes) -> None:
        writing.append(chunk)
        try:
            write(chunk)
        finally:
            writing.clear()

    monkeypatch.setattr(_stdout, "_write", write_noted)

    async def cancel() -> None:
        statuses.append(await run_async(["cancel", *orders, "--url", trading_sandbox.url]))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            while len(trading_sandbox.log.requests) < 1000:  # noqa: ASYNC110 - see above
                await trio.sleep(0.01)
            signal.raise_signal(signal.SIGINT)
    assert statuses == [130]
    assert "3000 orders: " in stderr.getvalue()
    assert "nobody read stdout" in stderr.getvalue()
    # Let the thread that is stuck in a write end: it would go on in the pipe of the next test.
    os.set_blocking(pipe, False)
    with trio.fail_after(20):
        while writing:
            with suppress(BlockingIOError):
                os.read(pipe, 2**20)
            await trio.sleep(0.001)


# The demo and the sandbox, in this process


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "term"), [(40, "dumb"), (40, "xterm-256color"), (80, "xterm-256color")])
async def test_the_demo_on_a_terminal(columns: int, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", term)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert await run_async(["demo", "--orders", "150"]) == 0
    shown = screen.getvalue()
    assert "150 of 150 orders are off the book" in shown
    assert ("canceling" in shown) == (columns == 80)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n")
    for said in ("exchange in this process, over TLS", "in part before.", "agrees: 0 open orders left.", "p99", "max"):
        assert said in " ".join(plain.split())
    assert max(map(len, plain.splitlines())) <= columns


async def test_the_demo_can_be_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    statuses: list[int] = []

    async def demo() -> None:
        statuses.append(await run_async(["demo", "--orders", "20000"]))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo)
            while signal.getsignal(signal.SIGINT) is before:  # noqa: ASYNC110 - see above
                await trio.sleep(0.01)
            signal.raise_signal(signal.SIGINT)
    assert statuses == [130]
    shown = capsys.readouterr().out
    assert "of 20000 orders are off the book" in shown
    assert "not sent" in shown


async def test_the_sandbox_serves_until_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []

    async def serve() -> None:
        statuses.append(await run_async(["sandbox", "--orders", "2", "--tls"]))

    printed = ""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            while "It serves" not in printed:
                await trio.sleep(0.01)
                printed += capsys.readouterr().out
            signal.raise_signal(signal.SIGINT)
    assert statuses == [0]
    assert "2 open orders" in printed


@pytest.mark.parametrize("words", [["--port", "65536"], ["--orders", "-1"], ["--orders", "100001"], ["--tls=x"]])
async def test_wrong_usage_of_the_sandbox(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_async(["sandbox", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_a_taken_port(trading_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    port = trading_sandbox.url.rpartition(":")[2]
    assert await run_async(["sandbox", "--port", port]) == 2
    assert capsys.readouterr().err == f"trio-cancel: Port {port} cannot be used: Address already in use.\n"


async def test_the_sandbox_with_nowhere_to_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with trio.move_on_after(0.3) as scope:
        await run_async(["sandbox"])
    assert scope.cancelled_caught


def test_the_program_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == [sys.executable, "-m", "trio_cancel"]
    monkeypatch.setattr("shutil.which", lambda _: os.path.join(os.path.dirname(sys.executable), "trio-cancel"))
    assert program() == ["trio-cancel"]
    monkeypatch.setattr("shutil.which", lambda _: "/elsewhere/bin/trio-cancel")
    assert program() == [sys.executable, "-m", "trio_cancel"]


@pytest.mark.parametrize("name", ["cyclopts", "trustme", "rich"])
def test_a_missing_extra_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trio_cancel import __main__
    from trio_cancel._cli import _demo

    def fail() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_demo, "need_trustme", fail)
    assert __main__.main(["demo"]) == 2
    assert f"needs {name}, which is not installed; install the extra" in capsys.readouterr().err


def test_a_stdout_whose_reader_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(["doctor", "--url", "ws://127.0.0.1:9"]) == 1
        monkeypatch.undo()
    assert not capfd.readouterr().err


def test_json_lines_are_for_programs(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "token")
    monkeypatch.setenv("RIPIO_API_SECRET", "geheim")
    assert run(["cancel", "x", "--url", "ws://127.0.0.1:9"]) == 1
    printed = capfd.readouterr()
    assert json.loads(printed.out)["status"] == "not_sent"
    assert "geheim" not in printed.out + printed.err


def test_a_missing_module_of_somebody_else_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio_cancel import __main__, _cli

    def fail(_: object) -> None:
        raise ModuleNotFoundError("No module named 'x'", name="x")

    monkeypatch.setattr(_cli, "run", fail)
    with pytest.raises(ModuleNotFoundError):
        __main__.main([])


def test_an_interrupt_before_anything_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trio_cancel import __main__, _cli

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "run", fail)
    monkeypatch.setattr(sys, "argv", ["trio-cancel", "demo"])
    assert __main__.main() == 130
    assert capsys.readouterr().err == "trio-cancel: interrupted\n"
