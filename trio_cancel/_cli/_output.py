"""What a run reports, and where: outcomes as lines on stdout, progress and the summary on stderr.

The lines are JSON if that was requested or stdout is not a terminal, otherwise text. Progress is shown only if stderr
is a terminal; if stdout is one, too, the lines go above the bar. rich is loaded only if there is a terminal to see it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

import trio

from trio_cancel._cli._failure import (
    StderrFile,
    clean,
    encoded,
    is_dumb,
    is_terminal,
    say,
    shell_words,
    why_of,
    write_stderr,
)
from trio_cancel._cli._log import is_logging
from trio_cancel._cli._records import Given, json_line, left_lines, text_line
from trio_cancel._cli._run import Run, hear_signals
from trio_cancel._cli._stdout import Stdout
from trio_cancel._cli._tally import Status, Tally
from trio_cancel._cli._waiting import Waiting
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from trio_cancel._cli._screen import Meter

UNAUTHORIZED = 401
REPORT_EVERY = 10.0
"""Seconds between two lines about the progress, if no bar shows it."""


def has_bar() -> bool:
    """Return True if stderr can show a bar: a capable terminal, and no log lines."""
    return is_terminal(sys.stderr) and not is_dumb() and not is_logging()


class Output:
    """Reports outcomes as they arrive, and the summary at the end."""

    def __init__(
        self, total: int, *, as_json: bool, given: Mapping[CancelRequest, Sequence[Given]] | None = None
    ) -> None:
        self.tally = Tally()
        self._total = total
        self._given = given or {}
        self._stdout = Stdout()
        self.room = self._stdout.room
        self._on_terminal = is_terminal(sys.stdout)
        self._as_json = as_json or not self._on_terminal
        self._console: Console | None = None
        self._meter: Meter | None = None
        self._screen_failure: Exception | None = None
        if is_terminal(sys.stderr):
            from trio_cancel._cli._screen import Meter, console_on

            self._console = console_on(cast("TextIO", StderrFile()), force_terminal=True)
            if has_bar():
                self._meter = Meter(total, self._console)

    def report(self, outcome: Outcome, places: int) -> None:
        """Report an outcome of an order that was requested in some places. Never blocks, never raises."""
        self.tally.add(outcome, places)
        meter = self._meter
        for line in self._lines(outcome, places):
            if meter is not None and self._on_terminal:
                text = line.decode("utf-8" if self._as_json else sys.stdout.encoding or "utf-8", "replace")
                meter.put(outcome, text.rstrip("\n"), plain=self._as_json)
            else:
                self._stdout.put(line)
        if meter is not None:
            meter.advance(1)

    def _lines(self, outcome: Outcome, places: int) -> Iterator[bytes]:
        """Yield a line of JSON for each place in which the order was requested, or one line of text."""
        if not self._as_json:
            again = f"  (named {places} times)" if places > 1 else ""
            yield encoded(sys.stdout, f"{text_line(outcome)}{again}\n")
            return
        given = self._given.get(outcome.request)
        for place in range(places):
            yield json_line(outcome, None if given is None else given[place], repeated=place > 0)

    def expect(self, total: int) -> None:
        """Note how many orders there are, as far as is known now."""
        self._total = total
        if self._meter is not None:
            self._meter.expect(total)

    async def cancel(self, run: Run) -> None:
        """Run a bulk cancel that reports here and hears signals; return when all its lines are written."""
        async with hear_signals(run.halt) as nursery:
            nursery.start_soon(self._stdout.run)
            if self._meter is not None:
                self._meter.waiting = run.watch.waiting
                nursery.start_soon(self._show, self._meter)
            else:
                nursery.start_soon(self._report_progress, run.watch.waiting)
            try:
                await run.run()
            finally:
                if self._meter is not None:
                    self._meter.close()
            self._stdout.close()
            await run.halt.wait_printed(self._stdout.ended)

    async def _report_progress(self, waiting: Waiting) -> None:
        """Report every ``REPORT_EVERY`` seconds how far the run is and what it is waiting for."""
        while True:
            await trio.sleep(REPORT_EVERY)
            done, wait = self.tally.total, waiting.text(trio.current_time())
            if done < self._total:
                say(f"{done:,} of {self._total:,} order{'s' * (self._total != 1)} done{f'; {wait}' if wait else ''}")

    async def _show(self, meter: Meter) -> None:
        """Show the progress; if that fails in any way, the lines go straight to stdout from then on."""
        try:
            await meter.run()
        except Exception as error:  # reported in the summary: what a terminal shows must not end a cancel
            self._screen_failure = error
            self._meter = self._console = None
            for text in meter.unshown:
                self._stdout.put(encoded(sys.stdout, f"{text}\n"))

    def summarize(self, run: Run, *, skipped: int = 0, left_out: int = 0) -> Status:
        """Write the summary of a run that has ended to stderr, and return the exit status.

        ``skipped`` are bad lines that were skipped, ``left_out`` comments and repeated headers.
        """
        tally = self.tally
        failed = None if run.failure is None else clean(shell_words(str(run.failure)))
        if failed is not None:
            if tally.total != 1 or self._as_json:  # otherwise the one line says it
                say(failed)
        elif run.halt.why is not None:
            say(f"{run.halt.why}; unfinished orders are reported as they are")
        if self._console is not None:
            self._show_table(self._console)
        else:
            say(tally.sentence())
        for line in left_lines(tally, failed) if tally.total > 1 else ():
            write_stderr(f"{line}\n")
        if skipped:
            say(f"{skipped} bad line{'s were' if skipped != 1 else ' was'} skipped")
        if left_out:
            lines = f"line{'s were' if left_out != 1 else ' was'}"
            say(f"{left_out} other {lines} skipped (comments and repeated headers)")
        if self._stdout.broken is not None:
            why = why_of(self._stdout.broken)
            lost = f"{self._stdout.lost} line{'s are' if self._stdout.lost != 1 else ' is'} lost"
            say(f"stdout could not be written ({why}): the cancels went on, {lost}")
        elif not self._stdout.ended.is_set():
            say("nobody read stdout: the remaining lines are lost")
        if self._stdout.no_thread is not None:
            say(f"no thread could be started ({self._stdout.no_thread}): stdout was written without one")
        if self._screen_failure is not None:
            say(f"the terminal's progress could not be shown ({self._screen_failure}): the cancels went on")
        return self._status(run, skipped + left_out)

    def _show_table(self, console: Console) -> None:
        from trio_cancel._cli._screen import outcome_table, show

        if self.tally.total > 1:  # a single order's line says everything
            with suppress(OSError):  # the terminal has gone
                show(console, "", outcome_table(self.tally))

    def _status(self, run: Run, skipped: int) -> Status:
        status = self.tally.status(skipped=skipped)
        if status is Status.USAGE:
            say("the venue refused every signature: check the token, the secret and the clock (trio-cancel doctor)")
        elif run.failure is not None and run.failure.status == UNAUTHORIZED:
            status = Status.USAGE
        return run.halt.status(status)
