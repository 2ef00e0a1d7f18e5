"""What a run says while nothing goes on: what it waits for, and why; on a bar, or in a line now and then."""

from __future__ import annotations

import io
import re
import sys

import attrs
import pytest
import trio
import trio.testing
from rich.console import Console

from trio_cancel import CancelRequest, HandshakeFailed, NotSent
from trio_cancel._cli._input import GivenOrders, read_file
from trio_cancel._cli._output import Output, has_bar
from trio_cancel._cli._screen import Meter, latency_table, outcome_table, show
from trio_cancel._cli._tally import Tally
from trio_cancel._cli._waiting import Waiting

REFUSED = HandshakeFailed("No connection to wss://x could be made (Connection refused); check the url and the network.")


def test_what_is_waited_for_is_said_with_its_cause() -> None:
    waiting = Waiting(100.0)
    assert waiting.text(100.0) == "connecting"
    assert waiting.text(104.0) == "connecting for 4 s"
    waiting.opened(105.0)
    assert waiting.text(105.5) is None
    waiting.written(106.0)
    assert waiting.text(107.0) is None
    assert waiting.text(112.0) == "no answer from the venue for 6 s"
    waiting.answered(112.0)
    assert waiting.text(112.5) is None
    assert waiting.text(115.0) == "waiting for 3 s to send again"
    waiting.lost(ConnectionResetError("reset"), 120.0)
    assert waiting.text(120.0) == "reconnecting: reset"
    waiting.lost(REFUSED, 125.0)
    text = waiting.text(130.0)
    assert text == f"reconnecting for 10 s: {str(REFUSED).rstrip('.')}"
    waiting.opened(131.0)
    waiting.paced(2.5)
    assert waiting.text(131.0) == "held back by the venue's limit (429): 2.5 requests/s"


def test_a_cause_cannot_steer_the_terminal_or_fill_it() -> None:
    waiting = Waiting(0.0)
    waiting.lost(OSError("\x1b[2J" + "x" * 10_000), 1.0)
    text = waiting.text(1.0)
    assert text is not None
    assert text.isprintable()
    assert len(text) < 300


async def test_without_a_terminal_a_line_is_told_every_10_s(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Output(1_000_000, as_json=True)
    output.report(NotSent(CancelRequest("x"), cause=REFUSED), 1)
    waiting = Waiting(trio.current_time())
    waiting.opened(trio.current_time())
    waiting.lost(REFUSED, trio.current_time())
    with trio.move_on_after(25):
        await output._report_progress(waiting)
    assert capfd.readouterr().err.splitlines() == [
        f"trio-cancel: 1 of 1,000,000 orders done; reconnecting for {seconds} s: {str(REFUSED).rstrip('.')}"
        for seconds in (10, 20)
    ]


class Stream(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base has an attribute
        return self._encoding


@attrs.frozen
class Screen:
    console: Console
    stream: Stream

    @property
    def text(self) -> str:
        return self.stream.getvalue()


def screen(columns: int, encoding: str) -> Screen:
    stream = Stream(encoding)
    console = Console(file=stream, width=columns, force_terminal=True, color_system=None)
    return Screen(console, stream)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_everything_fits_the_terminal(
    columns: int, encoding: str, autojump_clock: trio.testing.MockClock
) -> None:
    there = screen(columns, encoding)
    meter = Meter(1000, there.console)
    meter.waiting = Waiting(trio.current_time())
    meter.waiting.lost(REFUSED, trio.current_time())
    meter.advance(250)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meter.run)
        await trio.sleep(3)
        meter.close()
    tally = Tally()
    tally.add(NotSent(CancelRequest("x"), cause=REFUSED))
    show(there.console, outcome_table(tally), latency_table([0.0001 * n for n in range(1, 100)], there.console))
    show(there.console, latency_table([1e-5 * n for n in range(1, 10)], there.console))
    text = there.text
    assert "250/1000" in text
    assert "Connection" in text
    assert "refused" in text
    if encoding == "ascii":
        assert text.isascii()
        assert "###" in text
    if columns >= 80:
        assert "canceling" in text
    for line in text.replace("\r", "\n").split("\n"):
        assert len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip()) <= columns, line


@pytest.mark.parametrize(("term", "bar"), [("dumb", False), ("unknown", False), ("xterm", True)])
def test_a_dumb_terminal_has_no_bar(term: str, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert has_bar() is bar


def test_a_long_input_shows_that_it_is_read(
    tmp_path: object, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 1_000_000, 20))
    monkeypatch.setattr("trio_cancel._cli._input.time.monotonic", lambda: float(next(times)))
    path = f"{tmp_path}/ids.txt"
    with open(path, "w") as file:
        file.writelines(f"id-{number}\n" for number in range(25_000))
    found = GivenOrders()
    read_file(found, path)
    assert len(found.requests) == 25_000
    assert capfd.readouterr().err == "".join(
        f"trio-cancel: reading {path}: {count} lines\n" for count in ("10,000", "20,000")
    )
