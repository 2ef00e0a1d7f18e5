"""Nothing auxiliary stops a cancel: no thread, stdout and stderr closed or full, no temporary folder, no metadata."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.test_end_to_end import CLEAN, PATIENCE, PROGRAM, Served, read_until, run

COUNT = 40
NO_THREAD = """
import threading
def start(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
"""
NO_METADATA = """
import importlib.metadata
def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = importlib.metadata.distribution = missing
"""
NO_TEMPORARY_FOLDER = """
import tempfile
def gettempdir():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile.gettempdir = gettempdir
tempfile._get_default_tempdir = gettempdir
"""


@pytest.fixture
def served() -> Generator[Served]:
    words = [*PROGRAM, "sandbox", "--tls", "--orders", str(COUNT)]
    with subprocess.Popen(words, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(process, read_until(process.stdout, "It serves"))
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


def shell(served: Served, redirections: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [*PROGRAM, "cancel", "--ca-file", served.ca_file, "--from", served.ids_file]
    return subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(words)} {redirections}"],
        env=served.environment | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def site(folder: Path, text: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def check_all_closed(served: Served) -> None:
    done = shell(served, "")
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == ["already_closed"] * COUNT, done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_thread_can_be_started(served: Served, tmp_path: Path, host: str) -> None:
    url = served.environment["TRIO_CANCEL_URL"].replace("127.0.0.1", host)
    done = shell(served, "", **site(tmp_path, NO_THREAD), TRIO_CANCEL_URL=url)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == COUNT
    assert "Traceback" not in done.stderr
    assert f"{COUNT} orders: {COUNT} canceled" in done.stderr
    assert "no thread could be started (can't start new thread)" in done.stderr


@pytest.mark.parametrize(
    ("redirections", "told"),
    [
        (">/dev/full", "stdout could not be written (No space left on device)"),
        (">&-", "stdout could not be written (stdout is closed)"),
        ("2>/dev/full", None),
        ("2>&-", None),
        ("</dev/null >&- 2>&-", None),
        ("<&- >&- 2>&-", None),
    ],
)
def test_streams_that_are_closed_or_full(served: Served, redirections: str, told: str | None) -> None:
    done = shell(served, redirections)
    assert done.returncode == 0, done.stderr
    if told is not None:
        assert told in done.stderr
        assert f"{COUNT} orders: {COUNT} canceled" in done.stderr
    elif ">&- 2>&-" not in redirections:
        assert len(done.stdout.splitlines()) == COUNT
    check_all_closed(served)


def test_nobody_reads_stderr(served: Served) -> None:
    bad = Path(served.ids_file).with_name("bad.txt")
    bad.write_text(Path(served.ids_file).read_text() + "not one id\n" * 2000)
    words = [*PROGRAM, "cancel", "--skip-bad", "--ca-file", served.ca_file, "--from", str(bad)]
    with subprocess.Popen(
        words, env=served.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.wait(PATIENCE) == 1
    check_all_closed(served)


@pytest.mark.parametrize("place", [".", "missing/keys"])
def test_a_key_log_that_cannot_be_written(served: Served, tmp_path: Path, place: str) -> None:
    done = shell(served, "", SSLKEYLOGFILE=str(tmp_path / place))
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} canceled" in done.stderr


def test_no_metadata(served: Served, tmp_path: Path) -> None:
    environment = site(tmp_path, NO_METADATA)
    done = shell(served, "", **environment)
    assert done.returncode == 0, done.stderr
    done = run("--version", env=CLEAN | environment)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "dist-info" in line


@pytest.mark.parametrize("words", [["sandbox"], ["sandbox", "--tls"], ["demo", "--orders", "5"]])
def test_no_temporary_folder(words: list[str], tmp_path: Path) -> None:
    done = run(*words, env=CLEAN | site(tmp_path, NO_TEMPORARY_FOLDER))
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "No usable temporary directory" in line
    assert "TMPDIR" in line
    assert "Port" not in line


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["demo", "--orders", "5"], ["sandbox"], ["doctor", "--url", "ws://127.0.0.1:9"]],
    ids=lambda words: words[0],
)
def test_what_goes_to_a_full_stdout_is_named(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*words, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert line.lower().rstrip(".") == "trio-cancel: stdout cannot be written (no space left on device)"
