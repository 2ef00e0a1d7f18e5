"""The lines of README that hold figures, made of a run: a report has them in `readme.md`, to be pasted."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers import AIOHTTP, AIOHTTP_WINDOW, BEFORE, BY_HAND, OURS, PICOWS, WEBSOCKETS_UVLOOP
from benchmarks.peers import WEBSOCKETS_TRIO as WEBSOCKETS
from benchmarks.summary import Summary

_ROWS = {
    OURS: "**trio_cancel**",
    BY_HAND: "trio-websocket by hand",
    WEBSOCKETS: "websockets.trio",
    WEBSOCKETS_UVLOOP: "websockets on uvloop",
    "ccxt": "ccxt.pro on uvloop",
    AIOHTTP: "aiohttp on uvloop",
    AIOHTTP_WINDOW: "aiohttp on uvloop, callbacks without futures or tasks",
    PICOWS: "picows on uvloop, futures",
}
_COLUMNS = (("bulk", "cpu_us"), ("tasks", "cpu_us"), ("single", "p50_us"))
_QUANTILES = ("p50", "p99", "worst")


def readme_lines(summary: Summary) -> Iterator[str]:
    """README's table of costs and its table of tails, as far as they were measured."""
    if any(summary.peers(work, "wss") for work, _ in _COLUMNS):
        yield f"| | bulk of {_size(summary, 'bulk')} | one task per cancel | one at a time, p50 |"
        yield "|---|--:|--:|--:|"
        for peer, name in _ROWS.items():
            cells = [_figure(summary, work, peer, figure) for work, figure in _COLUMNS]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""
    peers = summary.peers("tails", "wss")
    if peers:
        yield f"| a single cancel beside a bulk of {_size(summary, 'tails')}, ms | p50 | p99 | worst |"
        yield "|---|--:|--:|--:|"
        for peer, name in (*_ROWS.items(), (BEFORE, "trio_cancel before")):
            if peer in peers:
                cells = [_figure(summary, "tails", peer, f"beside_{quantile}_ms") for quantile in _QUANTILES]
                yield f"| {name} | {' | '.join(cells)} |"
        yield ""


def _size(summary: Summary, work: str) -> str:
    """How many orders a work had, as README has it; empty if it was not done."""
    sizes = summary.sizes(work)
    return f"{sizes[-1]:,}".replace(",", " ") if sizes else ""


def _figure(summary: Summary, work: str, peer: str, figure: str) -> str:
    """A median as README has it; empty if it was not measured."""
    spread = summary.spread(work, "wss", peer, figure)
    if spread is None:
        return ""
    digits = 0 if spread.median >= 100 else 1 if spread.median >= 1 else 2
    return f"{spread.median:,.{digits}f}".replace(",", " ")
