"""The tables of a run: built once, shown in the terminal by rich or written as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from rich.table import Table as RichTable

from benchmarks.peers import PEERS
from benchmarks.summary import Spread, Summary
from benchmarks.targets import Verdict

_COLUMNS = {
    "cpu_us": "client CPU per cancel, µs",
    "rate": "cancels/s",
    "p50_us": "p50, µs",
    "p99_us": "p99, µs",
    "connect_ms": "connect, ms",
    "peak_mib": "peak memory, MiB",
    "venue_us": "venue CPU per cancel, µs",
    "call_p50_ms": "call to wire, p50, ms",
    "call_p99_ms": "p99, ms",
    "call_worst_ms": "worst, ms",
    "call_beside_p50_ms": "beside a bulk, p50, ms",
    "call_beside_p99_ms": "p99, ms",
    "call_beside_worst_ms": "worst, ms",
    "pass_worst_ms": "longest pass of trio's scheduler, ms",
    "held_p50_ms": "loop held, p50, ms",
    "held_p99_ms": "loop held, p99, ms",
    "held_p999_ms": "loop held, p99.9, ms",
    "held_worst_ms": "loop held, worst, ms",
    "beside_p50_ms": "single beside it, p50, ms",
    "beside_p99_ms": "single beside it, p99, ms",
    "beside_p999_ms": "single beside it, p99.9, ms",
    "beside_worst_ms": "single beside it, worst, ms",
    "import_ms": "import, ms",
    "account_kb": "memory per connection, kB",
    "opened_s": "until all are open, s",
    "kill_s": "20 orders on each canceled, s",
    "kill_alone_s": "the same on one connection, s",
    "kill_ratio": "ratio",
    "report_bytes": "memory per order, bytes",
    "growth_kb": "growth after the first tenth, kB",
    "without_s": "without journal, s",
    "journal_s": "with journal, s",
    "journal_ratio": "ratio",
    "row_p50_us": "one row and its commit by the driver alone, p50, µs",
    "store_p50_us": "a hold's commit without trio, p50, µs",
    "hold_p50_us": "a durable hold, p50, µs",
    "hold_p99_us": "p99, µs",
    "bulk_more_us": "a bulk's wall time more per order, µs",
    "refused_first_s": "first refused hold, s",
    "refused_then_ms": "the next ones, worst, ms",
    "first_over_s": "kill -9 to the first cancel, beyond the lease, median, s",
    "first_over_worst_s": "worst, s",
    "all_over_s": "until all are off the book, beyond the lease, s",
    "beats_cpu_ms": "CPU per second of the sessions, ms",
    "guard_cpu_ms": "of the guard, ms",
    "server_cpu_ms": "of the database, ms",
    "pace_rate": "requests/s of all sessions, of 100 that are shared",
    "pace_beside_rate": "of all while the guard cancels",
    "pace_guard_rate": "of the guard",
    "pace_refused_percent": "refused by the venue, %",
    "sign_us": "signing, µs",
    "encode_us": "encoding, µs",
    "mask_us": "masking, µs",
    "decode_us": "decoding, µs",
    "tls_us": "TLS, µs",
    "floor_ws_us": "sum without TLS, µs",
    "floor_wss_us": "sum with TLS, µs",
}
"""Every figure that a table can show, in the order of its columns."""

_TITLES = {
    "floor": "The floor: what one cancel costs without I/O",
    "single": "One at a time",
    "tasks": "One task per cancel, 256 in flight",
    "bulk": "Bulk",
    "call": "From the call to the wire",
    "tails": "Tails while a bulk runs: cancel_many, or what stands for it",
    "tails-batch": "Tails while a batch runs",
    "tails-stream": "Tails while a cancel stream runs",
    "import": "Import, in a fresh interpreter",
    "accounts": "Connections open at once in one process",
    "report": "Memory of a bulk report",
    "stream": "Memory of a cancel stream",
    "journal": "Cost of the journal",
    "holds": "Durable holds",
    "guard": "A bot is killed under a guard's eyes, times",
    "guard-dead": "A machine dies: sessions with five orders each",
    "guard-beats": "Sessions that do nothing but live, and a guard",
    "guard-pace": "Sessions, each a process, that share a rate, and a guard that takes a dead one over",
}


@attrs.frozen
class Table:
    """One table: a title, the columns' headings, and rows of text; the first column names, the others are figures."""

    title: str
    headings: list[str]
    rows: list[list[str]]

    def rich(self) -> RichTable:
        """For the terminal, below its title."""
        table = RichTable()
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=not number, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document."""
        lines = [self.headings, ["---", *["--:" for _ in self.headings[1:]]], *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n"


def tables(summary: Summary) -> Iterator[Table]:
    """A table for each work and scheme that was measured."""
    for work, title in _TITLES.items():
        for scheme in ("ws", "wss", ""):
            for size in summary.sizes(work):
                table = _table(summary, work, scheme, size, title)
                if table.rows:
                    yield table
    if summary.sizes("growth"):
        yield _growth_table(summary)


def target_table(verdicts: list[Verdict]) -> Table:
    """The targets that were measured, what was reached, and whether that is enough."""
    rows = [
        [
            verdict.work,
            verdict.against,
            f"{verdict.value:,.2f} {verdict.unit}",
            f"{verdict.most:,.2f} {verdict.unit}",
            "yes" if verdict.met else "no",
        ]
        for verdict in verdicts
    ]
    return Table("Targets", ["measured", "against", "reached", "at most", "met"], rows)


def _growth_table(summary: Summary) -> Table:
    """One column a size, so that the growth can be read along a row."""
    sizes = summary.sizes("growth")
    rows = [
        [PEERS[peer].label, *[_text(summary.spread("growth", "wss", peer, "cpu_us", size)) for size in sizes]]
        for peer in summary.peers("growth", "wss")
    ]
    title = "How the cost of a bulk cancel grows, wss://: client CPU per cancel, µs"
    return Table(title, ["", *[f"{size:,} orders" for size in sizes]], rows)


def _table(summary: Summary, work: str, scheme: str, size: int, title: str) -> Table:
    peers = [peer for peer in summary.peers(work, scheme) if any(_cells(summary, work, scheme, peer, size))]
    cells = [_cells(summary, work, scheme, peer, size) for peer in peers]
    shown = [number for number in range(len(_COLUMNS)) if any(row[number] for row in cells)]
    headings = ["", *[list(_COLUMNS.values())[number] for number in shown]]
    labels = [PEERS[peer].label if peer in PEERS else peer for peer in peers]
    rows = [[label, *[row[number] for number in shown]] for label, row in zip(labels, cells, strict=True)]
    over = f", {scheme}://" if scheme else ""
    return Table(f"{title}{over} ({size:,})", headings, rows)


def _cells(summary: Summary, work: str, scheme: str, peer: str, size: int) -> list[str]:
    return [_text(summary.spread(work, scheme, peer, figure, size)) for figure in _COLUMNS]


def _text(spread: Spread | None) -> str:
    """A median with its spread, such as `21.4 (20.9-22.0)`."""
    if spread is None:
        return ""
    digits = 0 if abs(spread.median) >= 100 else 1 if abs(spread.median) >= 10 else 2
    median, low, high = (f"{value:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low}-{high})"
