"""The command line as its users run it: processes, pipes, signals, real TLS."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import IO

import attrs
import pytest

PROGRAM = [sys.executable, "-m", "trio_cancel"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("RIPIO_", "TRIO_CANCEL_"))}
PATIENCE = 60.0


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # passes options on
        [*PROGRAM, *words],
        **{"env": CLEAN, "capture_output": True, "text": True, "timeout": PATIENCE, "check": False, **options},
    )


@attrs.frozen
class Served:
    """A sandbox in another process."""

    process: subprocess.Popen[str]
    printed: str

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.printed, re.MULTILINE)
        assert match is not None, self.printed
        return match[1]

    @property
    def environment(self) -> dict[str, str]:
        return CLEAN | {
            "RIPIO_API_TOKEN": self.found(r"token +(\S+)"),
            "RIPIO_API_SECRET": self.found(r"secret +(\S+)"),
            "TRIO_CANCEL_URL": self.found(r"(wss?://\S+)"),
        }

    @property
    def rest_url(self) -> str:
        return self.found(r"REST +(\S+)")

    @property
    def ca_file(self) -> str:
        return self.found(r"CA +(\S+)")

    @property
    def ids_file(self) -> str:
        return self.found(r"all in (.+)\)")

    @property
    def commands(self) -> list[str]:
        """The ready-made commands, as they stand there."""
        return re.findall(r"^  RIPIO_API_TOKEN=(?:.*\\\n)+.*$", self.printed, re.MULTILINE)


def read_until(stream: IO[str], last: str) -> str:
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if line.startswith(last):
            break
    return "".join(lines)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Generator[Served]:
    words = getattr(request, "param", ["--tls", "--orders", "20"])
    with subprocess.Popen([*PROGRAM, "sandbox", *words], env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(process, read_until(process.stdout, "It serves"))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()  # else leaving the block would wait for it for ever


def test_the_demo_gets_every_order_off_the_book() -> None:
    done = run("demo", "--orders", "200")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "200 of 200 orders are off the book" in done.stdout
    assert "The exchange's own book agrees: 0 open orders left." in done.stdout
    assert re.search(r"canceled +200 +yes", done.stdout)
    assert re.search(r"p50 .* p90 .* p99 .* max ", done.stdout)
    assert "█" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_ready_made_commands_work_as_pasted(served: Served) -> None:
    one, everything, show = served.commands
    done = subprocess.run(["/bin/sh", "-c", one], env=CLEAN, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "canceled"
    done = subprocess.run(["/bin/sh", "-c", everything], env=CLEAN, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20
    assert "19 canceled, 1 already closed" in done.stderr
    done = subprocess.run(["/bin/sh", "-c", show], env=CLEAN, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "canceled"
    assert shlex.split(one)[-1] == Path(served.ids_file).read_text().splitlines()[0]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_what_the_sandbox_wrote_is_gone_afterwards(signum: int) -> None:
    with subprocess.Popen([*PROGRAM, "sandbox", "--tls"], env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        served = Served(process, read_until(process.stdout, "It serves"))
        folder = Path(served.ca_file).parent
        assert folder.is_dir()
        process.send_signal(signum)
        assert process.wait(PATIENCE) == 0
    assert not folder.exists()


@pytest.mark.parametrize("ignored", ["HUP", "INT"])
def test_a_signal_that_was_ignored_stays_ignored(ignored: str) -> None:
    command = f"trap '' {ignored}; exec {shlex.join(PROGRAM)} sandbox --tls"
    with subprocess.Popen(["/bin/sh", "-c", command], env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        served = Served(process, read_until(process.stdout, "It serves"))
        process.send_signal(getattr(signal, f"SIG{ignored}"))
        done = run("doctor", "--ca-file", served.ca_file, env=served.environment)
        assert done.returncode == 0, done.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("served", [["--orders", "1"]], indirect=True)
def test_a_sandbox_without_tls(served: Served) -> None:
    assert "ca-file" not in served.printed
    assert "ca.pem" not in served.printed
    done = subprocess.run(["/bin/sh", "-c", served.commands[0]], env=CLEAN, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["off_book"] is True


@pytest.mark.parametrize("served", [["--orders", "3", "--dialect", "openapi"]], indirect=True)
def test_a_sandbox_of_the_other_dialect(served: Served) -> None:
    environment = served.environment
    words = ("cancel", "--json", "--from", served.ids_file)
    done = run(*words, env=environment)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["canceled"] * 3
    again = run(*words, env=environment)
    assert again.returncode == 0, again.stderr
    answers = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(answer["error"]["error_code"], answer["closed_as"]) for answer in answers] == [(40020, "canceled")] * 3
    absent = run("cancel", "--json", "no-such-order", env=environment)
    assert absent.returncode == 1
    assert (error := json.loads(absent.stdout)["error"])["status"] == 404
    assert error["error_code"] == 40400
    stranger = run("cancel", "--json", "x", env=environment | {"RIPIO_API_SECRET": "another"})
    assert stranger.returncode == 2
    assert json.loads(stranger.stdout)["error"]["status"] == 401


@pytest.mark.parametrize("served", [["--orders", "2", "--token-field", "apiToken"]], indirect=True)
def test_a_sandbox_that_wants_the_other_spelling_of_the_token(served: Served) -> None:
    environment = served.environment
    refused = run("cancel", "--from", served.ids_file, env=environment)
    assert refused.returncode == 1
    assert "TRIO_CANCEL_TOKEN_FIELD" in refused.stderr
    checked = run("doctor", env=environment)
    assert checked.returncode != 0
    assert "choose api_token or apiToken with TRIO_CANCEL_TOKEN_FIELD" in checked.stdout
    # The printed command sets it.
    done = subprocess.run(
        ["/bin/sh", "-c", served.commands[1]], env=CLEAN, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["canceled"] * 2


@pytest.mark.parametrize("served", [["--orders", "0"]], indirect=True)
def test_a_sandbox_with_an_empty_book(served: Served) -> None:
    done = subprocess.run(["/bin/sh", "-c", served.commands[0]], env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "not_found"


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    port = served.found(r"wss://127\.0\.0\.1:(\d+)")
    done = run("sandbox", "--port", port)
    assert done.returncode == 2
    assert done.stderr == f"trio-cancel: Port {port} cannot be used: Address already in use.\n"


def test_orders_are_looked_up_from_another_process(served: Served) -> None:
    first, second, third, *_ = Path(served.ids_file).read_text().split()
    trust = ["--ca-file", served.ca_file]
    environment = served.environment | {"TRIO_CANCEL_REST_URL": served.rest_url}
    done = run("show", first, "--external-id", "sandbox-2", *trust, env=environment)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["open"] * 2
    for words in ([first], [first, second], [third, "--rest-url", served.rest_url]):
        done = run("cancel", "--look-up", *words, *trust, env=environment)
        assert done.returncode == 0, done.stderr
    done = run("cancel", "--look-up", first, *trust, env=environment)
    [record] = map(json.loads, done.stdout.splitlines())
    assert (record["status"], record["closed_as"], record["executed_amount"]) == ("already_closed", "canceled", "0")
    done = run("doctor", *trust, env=environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\nok ") == 10


def test_stdin_with_duplicates_is_accounted_for(served: Served) -> None:
    ids = Path(served.ids_file).read_text()
    done = run(
        "cancel", "--ca-file", served.ca_file, "--from", "-", input=ids + ids + "nobody\n", env=served.environment
    )
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 41
    assert sum(record["status"] == "canceled" for record in records) == 40
    assert [record["id"] for record in records if not record["off_book"]] == ["nobody"]


def test_lines_come_as_the_outcomes_do(served: Served) -> None:
    # The second order never answers; the first one's line must be there all the same.
    order = Path(served.ids_file).read_text().split()[0]
    read, write = os.pipe()
    with subprocess.Popen(
        [*PROGRAM, "cancel", order, "--ca-file", served.ca_file],
        env=served.environment,
        stdout=write,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(write)
        with os.fdopen(read) as lines:
            assert json.loads(lines.readline())["status"] == "canceled"
        assert process.wait(PATIENCE) == 0


def test_a_reader_that_leaves_stops_no_cancel(served: Served) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(PROGRAM)} cancel --ca-file {served.ca_file} --from {served.ids_file} | true"],
        env=served.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "20 orders: 20 canceled" in done.stderr
    assert "stdout could not be written (Broken pipe)" in done.stderr


def test_help_into_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(PROGRAM)} demo --orders 20 | true"],
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not done.stderr


def test_the_doctor_over_tls(served: Served) -> None:
    done = run("doctor", "--ca-file", served.ca_file, env=served.environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\nok ") == 7


def test_ctrl_c_while_reading(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with (
        subprocess.Popen(
            [*PROGRAM, "cancel", "--from", str(fifo)],
            env=CLEAN,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        fifo.open("w"),
    ):  # waits until the other side reads
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert error == "trio-cancel: interrupted\n"


@pytest.mark.parametrize(
    "words",
    [
        ["sandbox", "--port", "70000"],
        ["sandbox", "--port", "x"],
        ["sandbox", "--orders", "-1"],
        ["demo", "--orders", "0"],
        ["demo", "--orders", "100001"],
        ["demo", "--orders", "many"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_2_and_one_line(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("trio-cancel: ")


@pytest.mark.parametrize("module", ["cyclopts", "rich", "trustme"])
def test_a_missing_extra_is_named(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    done = run("demo", "--orders", "5", env=CLEAN | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"needs {module}" in line
    assert "pip install 'trio-cancel[cli]'" in line


def test_a_missing_module_of_somebody_else_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['attrs'] = None\n")
    done = run("demo", env=CLEAN | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "trio-cancel"
    if not script.exists():
        pytest.skip("run from a checkout that is not installed")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == run("--version").stdout


KILLED = """
import os, signal, ssl, sys
import trio
from trio_cancel import open_trading_ws

async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    async with open_trading_ws(ssl_context=context, journal=sys.argv[1]) as ws:
        async with ws.open_order_scope() as orders:
            for order_id in sys.argv[3:]:
                await orders.add(order_id)
            os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


def test_resume_looks_up(served: Served, tmp_path: Path) -> None:
    first, second, *_ = ids = Path(served.ids_file).read_text().split()
    partly = ids[9]  # some of it was executed
    journal, trust = str(tmp_path / "the.journal"), ["--ca-file", served.ca_file]
    words = [sys.executable, "-c", KILLED, journal, served.ca_file, first, second, partly, "never"]
    killed = subprocess.run(words, env=served.environment, capture_output=True, timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run("cancel", first, partly, *trust, env=served.environment)
    assert done.returncode == 0, done.stderr
    done = run("resume", journal, "--rest-url", served.rest_url, *trust, env=served.environment)
    assert done.returncode == 2
    assert "--look-up" in done.stderr
    done = run("resume", journal, "--look-up", "--rest-url", served.rest_url, *trust, env=served.environment)
    records = {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}
    told = {key: (record["status"], record["closed_as"], record["executed_amount"]) for key, record in records.items()}
    assert told == {
        first: ("already_closed", "canceled", "0"),
        second: ("canceled", None, "0"),
        partly: ("already_closed", "canceled", "0.0004"),
        "never": ("not_found", None, None),
    }, done.stderr
    assert done.returncode == 1
