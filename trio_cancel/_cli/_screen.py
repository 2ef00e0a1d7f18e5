"""What a terminal shows: a progress bar that a task refreshes, tables, bars. All use of rich is in this module."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TextIO, get_args

import trio
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from trio_cancel._cli._failure import is_dumb, stderr_is_ready
from trio_cancel._cli._figures import HistogramRow, histogram, percentile
from trio_cancel._cli._tally import Tally
from trio_cancel._cli._waiting import Waiting
from trio_cancel._values.outcomes import Outcome

REFRESH = 0.1
"""Seconds between two refreshes of live output."""
BAR = 32
"""Columns of the longest bar of a histogram."""
BAR_OF_METER = 28
WIDE = 76
"""Columns from which on the progress has a bar."""
PERCENTS = (50, 90, 99)
TITLE = 13
"""Columns for the title of a line of figures."""
GAP = "   "
_MEANING = {True: ("yes", "green"), False: ("no", "red"), None: ("don't know", "yellow")}
"""Whether an order is off the book, in words and as a colour."""
_OFF_BOOK: dict[str, bool | None] = {outcome.kind: outcome.off_book for outcome in get_args(Outcome)}


def console_on(file: TextIO | None = None, *, force_terminal: bool | None = None) -> Console:
    """Return a console that writes to a file (None: stdout); rich would give every dumb terminal 80 columns."""
    if not is_dumb():
        return Console(file=file, force_terminal=force_terminal)
    columns, rows = shutil.get_terminal_size()
    return Console(file=file, force_terminal=force_terminal, width=columns, height=rows)


class _Progress(Progress):
    """A bar with a line below it that says what is being waited for."""

    wait = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.wait:
            yield Text(self.wait, style="yellow")


class _AsciiBar(ProgressColumn):
    """A bar for a terminal that has only ASCII."""

    def render(self, task: Task) -> Text:
        share = task.completed / task.total if task.total else 1.0
        done = min(BAR_OF_METER, int(share * BAR_OF_METER))
        return Text("#" * done + "." * (BAR_OF_METER - done))


class Meter:
    """A live progress bar on a terminal, with lines above it. The task that runs :meth:`run` owns the terminal."""

    def __init__(self, total: int, console: Console) -> None:
        self.waiting: Waiting | None = None
        bar = _AsciiBar() if console.options.ascii_only else BarColumn(bar_width=BAR_OF_METER)
        columns: list[ProgressColumn] = [MofNCompleteColumn(), TimeElapsedColumn()]
        if console.width >= WIDE:  # there is room for the ^C that a terminal echoes
            columns = [TextColumn("canceling"), bar, *columns, TextColumn("left"), TimeRemainingColumn()]
        self._progress = _Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)
        self._lines: list[Text] = []
        self._scope = trio.CancelScope()

    def expect(self, total: int) -> None:
        """Note how many orders there are now."""
        self._progress.update(self._task, total=total)

    def advance(self, count: int) -> None:
        """Count orders that have settled."""
        self._progress.advance(self._task, count)

    def put(self, outcome: Outcome, line: str, *, plain: bool = False) -> None:
        """Show a line about an outcome above the bar, at the next refresh; the kind at its beginning is coloured."""
        text = Text(line)
        if not plain:
            text.stylize(_MEANING[outcome.off_book][1], 0, len(outcome.kind))
        self._lines.append(text)

    async def run(self) -> None:
        """Refresh until closed, then remove the bar."""
        with suppress(OSError):  # the terminal has gone: nobody is looking, and the run goes on
            try:
                with self._scope, self._progress:
                    while True:
                        self._refresh()
                        await trio.sleep(REFRESH)
            finally:
                self._print_lines()

    def close(self) -> None:
        """Remove the bar."""
        self._scope.cancel()

    @property
    def unshown(self) -> list[str]:
        """The lines that wait to be shown."""
        return [line.plain for line in self._lines]

    def _refresh(self) -> None:
        if stderr_is_ready():  # otherwise the terminal is stopped; the lines wait
            self._print_lines()
            waiting = None if self.waiting is None else self.waiting.text(trio.current_time())
            self._progress.wait = "" if self._progress.finished else waiting or ""
            self._progress.refresh()

    def _print_lines(self) -> None:
        if self._lines:
            self._progress.console.print(Text("\n").join(self._lines), soft_wrap=True, highlight=False)
            self._lines.clear()


def outcome_table(tally: Tally) -> Table:
    """Return a table of the outcomes."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("outcome", min_width=15)
    table.add_column("orders", justify="right", min_width=8)
    table.add_column("off the book")
    for kind, count in tally.counts.items():
        meaning, style = _MEANING[_OFF_BOOK[kind]]
        faint = not count
        table.add_row(kind.replace("_", " "), f"{count}", meaning if count else "", style="dim" if faint else style)
    return table


def latency_table(ordered: Sequence[float], console: Console) -> Table:
    """Return percentiles and a histogram of latencies in seconds, in ascending order."""
    ascii_only = console.options.ascii_only
    longest = max(8, min(BAR, console.width - 24))
    unit, scale = ("ms", 1000.0) if ordered[-1] >= 0.001 else ("us" if ascii_only else "µs", 1e6)
    rows = histogram([value * scale for value in ordered])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right")
    table.add_column(min_width=longest)
    table.add_column(justify="right")
    most = max(row.count for row in rows)
    for row in rows:
        table.add_row(
            _span(row, unit), Text(_bar(row.count / most, longest, ascii_only=ascii_only), style="cyan"), f"{row.count}"
        )
    return table


def percentiles(ordered: Sequence[float]) -> list[str]:
    """Return the percentiles of latencies in seconds, in ascending order, and the longest, each as separate text."""
    parts = [f"p{percent} {seconds(percentile(ordered, percent))}" for percent in PERCENTS]
    return [*parts, f"max {seconds(ordered[-1])}"]


def figures(title: str, parts: Sequence[str], width: int) -> str:
    """Return figures after their title; those that do not fit into ``width`` columns continue on lines below."""
    lines = [f"{title:<{TITLE}}{parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(" " * TITLE + part)
    return "\n".join(lines)


def wrapped(text: str, width: int) -> str:
    """Return a sentence in lines of at most ``width`` columns."""
    return textwrap.fill(text, width, break_long_words=False)


def seconds(value: float) -> str:
    """Return a duration with three digits and a suitable unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{_three(value * scale)} {unit}"
    return f"{_three(value * 1e6)} µs"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _span(row: HistogramRow, unit: str) -> str:
    if row.high is None:
        return f"{row.low:g}+ {unit}"
    return f"{row.low:g}-{row.high:g} {unit}"


def _bar(share: float, longest: int, *, ascii_only: bool) -> str:
    """Return a bar, in eighths of a column or in whole ``#``; anything above zero is visible."""
    if ascii_only:
        return "#" * (max(1, round(share * longest)) if share else 0)
    eighths = max(1, round(share * longest * 8)) if share else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def show(console: Console, *parts: RenderableType) -> None:
    """Print parts one below the other, unchanged."""
    for part in parts:
        if isinstance(part, str) and console.options.ascii_only:
            part = part.replace("µ", "u")  # noqa: PLW2901 - the same text, as this terminal can show it
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
