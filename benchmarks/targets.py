"""The ratios that the project has set itself, and whether a run reached them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from benchmarks.peers import (
    AIOHTTP,
    AIOHTTP_WINDOW,
    BARE_LOOP,
    BARE_STREAM,
    BEFORE,
    BY_HAND,
    OURS,
    PEERS,
    PICOWS,
    WEBSOCKETS_TRIO,
    WEBSOCKETS_UVLOOP,
)
from benchmarks.plan import HOLDERS
from benchmarks.startup import OUR_PARTS
from benchmarks.summary import Summary

_TIMES = "×"  # noqa: RUF001 - the multiplication sign is meant
_MEASURED = {
    "cpu_us": "client CPU per cancel",
    "p50_us": "p50",
    "call_p50_ms": "from the call to the wire, p50",
    "pass_worst_ms": "longest pass of the scheduler",
    "beside_p99_ms": "single beside it, p99",
    "beside_worst_ms": "single beside it, worst",
}
_Target = tuple[str, str, float | None, float, str]
"""A verdict's fields, with None for a value that was not measured."""


@attrs.frozen
class Verdict:
    """One target: what is compared with what, the value reached, and the most that it may be."""

    work: str
    against: str
    value: float
    most: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.most


def verdicts(summary: Summary) -> list[Verdict]:
    """Every target that this run measured, with what it reached; the ratios are those of medians."""
    return [
        Verdict(work, against, value, most, unit)
        for work, against, value, most, unit in (*_ratios(summary), *_absolutes(summary), *_of_a_guard(summary))
        if value is not None
    ]


def _ratios(summary: Summary) -> Iterator[_Target]:
    for work, scheme, figure, rival, most in (
        ("bulk", "wss", "cpu_us", AIOHTTP, 0.85),
        ("bulk", "wss", "cpu_us", BY_HAND, 0.10),
        ("bulk", "ws", "cpu_us", AIOHTTP, 1.00),
        # aiohttp as nobody writes it, without a future or a task per order.
        ("bulk", "wss", "cpu_us", AIOHTTP_WINDOW, 0.95),
        ("bulk", "wss", "cpu_us", PICOWS, 0.95),
        ("bulk", "ws", "cpu_us", AIOHTTP_WINDOW, 1.00),
        ("tasks", "wss", "cpu_us", WEBSOCKETS_UVLOOP, 1.00),
        ("tasks", "wss", "cpu_us", BY_HAND, 0.20),
        ("single", "wss", "p50_us", BARE_STREAM, 1.25),
        ("single", "wss", "p50_us", BY_HAND, 1.00),
        ("single", "wss", "p50_us", WEBSOCKETS_TRIO, 1.00),
        ("call", "wss", "call_p50_ms", BARE_STREAM, 1.5),
        ("tails", "wss", "pass_worst_ms", BARE_LOOP, 4.0),
        ("tails", "wss", "pass_worst_ms", BEFORE, 1 / 15),
        ("tails-batch", "wss", "pass_worst_ms", BEFORE, 1 / 15),
        ("tails-stream", "wss", "pass_worst_ms", BEFORE, 1 / 15),
        ("tails", "wss", "beside_p99_ms", BEFORE, 0.35),
        ("tails", "wss", "beside_worst_ms", BEFORE, 0.15),
    ):
        ours = _median(summary, work, scheme, OURS, figure)
        theirs = _median(summary, work, scheme, rival, figure)
        yield (f"{work}, {scheme}, {_MEASURED[figure]}", PEERS[rival].label, _ratio(ours, theirs), most, _TIMES)
    for scheme, most in (("wss", 1.6), ("ws", 2.0)):
        ours = _median(summary, "bulk", scheme, OURS, "cpu_us")
        floor = _median(summary, "floor", "", "floor", f"floor_{scheme}_us")
        yield (f"bulk, {scheme}, client CPU per cancel", "the floor without I/O", _ratio(ours, floor), most, _TIMES)
    sizes = summary.sizes("growth") or [0]
    small, large = (_median(summary, "growth", "wss", OURS, "cpu_us", size) for size in (sizes[0], sizes[-1]))
    yield (f"client CPU per cancel, bulk of {sizes[-1]:,}", f"bulk of {sizes[0]:,}", _ratio(large, small), 1.08, _TIMES)
    ours, parts = (_median(summary, "import", "", peer, "import_ms") for peer in (OURS, OUR_PARTS))
    yield ("import trio_cancel", f"importing {OUR_PARTS}", _ratio(ours, parts), 1.35, _TIMES)
    journal = _median(summary, "journal", "wss", OURS, "journal_ratio")
    yield ("bulk, wss, wall time with the journal", "without", journal, 1.4, _TIMES)
    beside, idle = (_median(summary, "call", "wss", OURS, figure) for figure in ("call_beside_p99_ms", "call_p99_ms"))
    yield ("call, wss, from the call to the wire, p99, beside a bulk", "idle", _ratio(beside, idle), 20.0, _TIMES)
    kill = _median(summary, "accounts", "wss", OURS, "kill_ratio")
    yield ("accounts, 20 orders on each canceled at once, wall time", "on one connection", kill, 2.0, _TIMES)


def _of_a_guard(summary: Summary) -> Iterator[_Target]:
    for holder, most in zip(HOLDERS[1:], (1.5, 2.0), strict=True):
        file, held = (_median(summary, "holds", "wss", name, "hold_p50_us") for name in (HOLDERS[0], holder))
        yield (f"a durable hold in {holder}, p50", HOLDERS[0], _ratio(held, file), most, _TIMES)
        for figure, what, limit, unit in (
            ("bulk_more_us", "a bulk's wall time more per order", 20.0, "µs"),
            ("refused_first_s", "a hold that is refused, the first", 3.0, "s"),
            ("refused_then_ms", "a hold that is refused, the next ones", 10.0, "ms"),
        ):
            yield (f"{what}, {holder}", "", _median(summary, "holds", "wss", holder, figure), limit, unit)
    for work, figure, what, most in (
        ("guard", "first_over_s", "kill -9 to the guard's first cancel, beyond the lease, median", 0.15),
        ("guard", "first_over_worst_s", "kill -9 to the guard's first cancel, beyond the lease, worst", 0.4),
        ("guard-dead", "all_over_s", "a dead machine's orders off the book, beyond the lease", 1.0),
    ):
        yield (what, "", _median(summary, work, "wss", OURS, figure), most, "s")


def _absolutes(summary: Summary) -> Iterator[_Target]:
    for work, figure, what, most, unit in (
        ("accounts", "account_kb", "accounts open at once, memory each", 150.0, "kB"),
        ("accounts", "opened_s", "accounts open at once, until all are connected", 10.0, "s"),
        ("report", "report_bytes", "orders in a report, memory each", 600.0, "bytes"),
    ):
        size = (summary.sizes(work) or [0])[-1]
        yield (f"{size:,} {what}", "", _median(summary, work, "wss", OURS, figure), most, unit)


def _median(
    summary: Summary, work: str, scheme: str, peer: str, figure: str, orders: int | None = None
) -> float | None:
    spread = summary.spread(work, scheme, peer, figure, orders)
    return None if spread is None else spread.median


def _ratio(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value / other
