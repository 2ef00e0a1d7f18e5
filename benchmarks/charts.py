"""The charts of a run, as SVG files that are the same bytes for the same figures."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.peers import AIOHTTP, BEFORE, BY_HAND, OURS, PEERS
from benchmarks.summary import Summary

_STYLE: Any = {
    "svg.hashsalt": "trio_cancel",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": "#4a5361",
    "xtick.color": "#4a5361",
    "ytick.color": "#1c2430",
    "text.color": "#1c2430",
}
_OURS = {"wss": "#0f766e", "ws": "#7cc4bd"}
_OTHERS = {"wss": "#7a8699", "ws": "#c8cfd9"}
_MARKERS = {AIOHTTP: "s", BY_HAND: "^"}
_FLOOR = "#b45309"
_WHISKERS = {"ecolor": "#1c2430", "lw": 0.7}


def write_charts(summary: Summary, directory: pathlib.Path) -> list[tuple[str, str]]:
    """Write a chart for each work that was measured.

    Returns:
        Each file's name, with the sentence that describes what it shows.
    """
    written = []
    with mpl.rc_context(_STYLE):
        for name, description, figure in _charts(summary):
            FigureCanvasSVG(figure)
            figure.savefig(directory / name, format="svg", metadata={"Date": None, "Creator": None})
            written.append((name, description))
    return written


def _charts(summary: Summary) -> Iterator[tuple[str, str, Figure]]:
    for work, figure, title, unit in (
        ("bulk", "cpu_us", "Bulk cancel: client CPU per cancel", "µs per cancel"),
        ("tasks", "cpu_us", "One task per cancel, 256 in flight: client CPU per cancel", "µs per cancel"),
        ("single", "p50_us", "One at a time: median time from call to answer", "µs"),
    ):
        if summary.sizes(work):
            chart = _bars(summary, work, figure, title, unit)
            yield f"{work}.svg", f"{title}, less is better.", chart
    if summary.sizes("tails"):
        title = "A single cancel beside a bulk on the same connection, wss://"
        yield "tails.svg", f"{title}: less is better.", _tails(summary, title)
    if summary.sizes("growth"):
        title = "How the cost of a bulk cancel grows, wss://"
        yield "growth.svg", f"{title}.", _lines(summary, title)


def _bars(summary: Summary, work: str, figure: str, title: str, unit: str) -> Figure:
    """Horizontal bars, the cheapest on top, a pair (wss, ws) for each competitor; whiskers from lowest to highest."""
    medians = {}
    for peer in _rivals(summary, work):
        spread = summary.spread(work, "wss", peer, figure)
        if spread is not None:
            medians[peer] = spread.median
    order = sorted(medians, key=lambda peer: -medians[peer])
    chart, axes = _canvas(title, height=1.3 + 0.52 * len(order))
    for place, peer in enumerate(order):
        for scheme, offset in (("wss", 0.19), ("ws", -0.19)):
            spread = summary.spread(work, scheme, peer, figure)
            if spread is None:
                continue
            colour = (_OURS if peer == OURS else _OTHERS)[scheme]
            whiskers = [[spread.median - spread.low], [spread.high - spread.median]]
            axes.barh(place + offset, spread.median, 0.36, color=colour, xerr=whiskers, error_kw=_WHISKERS)
            text = f"{spread.median:,.{0 if spread.median >= 100 else 1}f}  {scheme}"
            axes.annotate(
                text,
                (spread.high, place + offset),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#4a5361",
            )
    floor = summary.spread("floor", "", "floor", "floor_wss_us")
    if figure == "cpu_us" and floor is not None:
        axes.axvline(floor.median, color=_FLOOR, lw=1, ls=(0, (4, 3)), zorder=3)
        axes.annotate(
            f"floor without I/O: {floor.median:.1f}",
            (floor.median, len(order) - 0.52),
            (4, 0),
            textcoords="offset points",
            fontsize=8,
            color=_FLOOR,
            va="bottom",
        )
    axes.set_yticks(range(len(order)), [PEERS[peer].label for peer in order])
    for label, peer in zip(axes.get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if peer == OURS else "normal")
    axes.set_ylim(-0.55, len(order) - 0.2)
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    axes.xaxis.grid(visible=True, color="#eceff3")
    axes.tick_params(axis="y", length=0)
    return chart


def _lines(summary: Summary, title: str) -> Figure:
    """One line a competitor over the number of orders, on a logarithmic axis."""
    chart, axes = _canvas(title, height=3.6)
    sizes = summary.sizes("growth")
    for peer in _rivals(summary, "growth"):
        spreads = {size: summary.spread("growth", "wss", peer, "cpu_us", size) for size in sizes}
        points = [(size, spread.median) for size, spread in spreads.items() if spread is not None]
        colour = (_OURS if peer == OURS else _OTHERS)["wss"]
        marker = _MARKERS.get(peer, "o")
        label = PEERS[peer].label
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, lw=2 if peer == OURS else 1.2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.legend(loc="center right", frameon=False)
    axes.set_xlabel("orders in one bulk cancel")
    axes.set_ylabel("client CPU, µs per cancel")
    axes.grid(visible=True, color="#eceff3")
    return chart


def _tails(summary: Summary, title: str) -> Figure:
    """One line a competitor from the median to the worst, on a logarithmic axis."""
    chart, axes = _canvas(title, height=4.2)
    figures = {"p50": "beside_p50_ms", "p99": "beside_p99_ms", "p99.9": "beside_p999_ms", "worst": "beside_worst_ms"}
    for number, peer in enumerate(_rivals(summary, "tails")):
        spreads = [summary.spread("tails", "wss", peer, figure) for figure in figures.values()]
        values = [spread.median for spread in spreads if spread is not None]
        if len(values) == len(figures):
            ours = peer == OURS
            colour = _OURS["wss"] if ours else _OTHERS["wss"]
            marker = "o" if ours else "sv^D<>Pp"[number % 8]
            axes.plot(range(4), values, color=colour, marker=marker, lw=2 if ours else 1, label=PEERS[peer].label)
    axes.set_yscale("log")
    axes.set_xticks(range(4), list(figures))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_ylabel("ms from call to answer")
    axes.grid(visible=True, color="#eceff3")
    return chart


def _rivals(summary: Summary, work: str) -> list[str]:
    """Who is drawn: the tables have our own earlier commit as well."""
    return [peer for peer in summary.peers(work, "wss") if peer != BEFORE]


def _canvas(title: str, height: float) -> tuple[Figure, Any]:
    chart = Figure(figsize=(8.4, height), layout="constrained")
    axes = chart.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return chart, axes
