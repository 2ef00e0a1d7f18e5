"""The written report of a run: charts, and a Markdown file with the tables, the machine, the versions and the date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform

from benchmarks.charts import write_charts
from benchmarks.readme import readme_lines
from benchmarks.summary import Summary
from benchmarks.tables import tables, target_table
from benchmarks.targets import verdicts

_PACKAGES = (
    "trio",
    "trio-websocket",
    "wsproto",
    "attrs",
    "cattrs",
    "msgspec",
    "aiohttp",
    "websockets",
    "picows",
    "uvloop",
    "ccxt",
)
_CPUINFO = pathlib.Path("/proc/cpuinfo")


def write_report(summary: Summary, directory: pathlib.Path) -> None:
    """Write `benchmarks.md`, one SVG file a chart, and `readme.md` into the directory, which is created if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    charts = [f"![{text}]({name})\n" for name, text in write_charts(summary, directory)]
    reached = [target_table(found).markdown()] if (found := verdicts(summary)) else []
    parts = ["# Benchmarks\n", _circumstances(summary), *reached, *charts]
    parts += [table.markdown() for table in tables(summary)]
    (directory / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")
    (directory / "readme.md").write_text("\n".join(readme_lines(summary)), encoding="utf-8")


def _circumstances(summary: Summary) -> str:
    """What was run where and when."""
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"Measured on {today}: {_processor()}, {os.cpu_count()} cores, {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}. Client and venue are separate processes on "
        "separate cores where there are two, over loopback.\n\n"
        f"Each figure is the median of {summary.rounds} interleaved rounds, with the lowest and the highest in "
        "brackets. Only figures of one run can be compared with each other.\n\n"
        f"{versions}\n"
    )


def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()
