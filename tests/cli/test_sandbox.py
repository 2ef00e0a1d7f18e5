"""The sandbox's command with a command of its own, its files and its options; ``trio-cancel fault``."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_cancel._cli._variables import written

PROGRAM = [sys.executable, "-m", "trio_cancel"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("RIPIO_", "TRIO_CANCEL_"))}
PATIENCE = 60.0
COUNTS = """
import signal, sys, time
count = 0
def note(signum, frame):
    global count
    count += 1
signal.signal(signal.SIGNUM, note)
print("ready", flush=True)
while not count:
    time.sleep(0.01)
time.sleep(0.3)
print("heard", count, flush=True)
sys.exit(40 + count)
"""


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # passes options on
        [*PROGRAM, *words],
        **{"env": CLEAN, "capture_output": True, "text": True, "timeout": PATIENCE, "check": False, **options},
    )


def python(text: str) -> list[str]:
    return ["--", sys.executable, "-c", text]


@contextmanager
def serving(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*PROGRAM, "sandbox", *words], env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_a_command_is_run_with_the_variables_set(tls: list[str]) -> None:
    mine = {"RIPIO_API_TOKEN": "my own", "RIPIO_API_SECRET_FILE": "/my/own", "TRIO_CANCEL_TOKEN_FIELD": "apiToken"}
    program = (
        "import os, sys, trio, trio_cancel\n"
        "async def main():\n"
        "    async with trio_cancel.open_trading_ws() as ws:\n"
        "        report = await ws.cancel_many(os.environ['SANDBOX_ORDER_IDS'].split(','))\n"
        "        print(dict(report.counts), 'RIPIO_API_SECRET_FILE' in os.environ)\n"
        "trio.run(main)\n"
        "sys.exit(17)"
    )
    done = run("sandbox", "--orders", "20", *tls, *python(program), env=CLEAN | mine)
    assert (done.returncode, done.stderr) == (17, "")
    assert done.stdout.startswith("{'canceled': 20")
    assert done.stdout.endswith("} False\n")


def test_the_words_after_the_dashes_are_the_commands_alone() -> None:
    done = run("sandbox", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--tls", "--", "--debug", "-h")
    assert done.stdout == "['--tls', '--', '--debug', '-h']\n"


def test_the_sandbox_ends_with_its_command(tmp_path: Path) -> None:
    files = [tmp_path / "sandbox.env", tmp_path / "sandbox.json"]
    text = f"import json; print(open({str(files[1])!r}).read())"
    done = run("sandbox", "--tls", "--env-file", str(files[0]), "--json-file", str(files[1]), *python(text))
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert not Path(values["SSL_CERT_FILE"]).parent.exists()
    assert list(tmp_path.iterdir()) == []
    assert run("fault", "--url", values["TRIO_CANCEL_URL"]).returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_passed_on_once(signum: signal.Signals) -> None:
    with serving(*python(COUNTS.replace("SIGNUM", signum.name))) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        assert process.stdout.readline() == "heard 1\n"
        assert process.wait(PATIENCE) == 41


@pytest.mark.parametrize(("how", "status"), [("ctrl-c", 41), ("killed", 41)])
def test_a_ctrl_c_at_the_terminal_is_one_signal_for_the_command(how: str, status: int) -> None:
    words = [*PROGRAM, "sandbox", *python(COUNTS.replace("SIGNUM", "SIGINT"))]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(words[0], words, CLEAN)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1024)
    if how == "ctrl-c":
        os.write(terminal, b"\x03")
    else:
        os.kill(child, signal.SIGINT)
    while not re.search(rb"heard \d", seen):
        seen += os.read(terminal, 1024)
    assert b"heard 1" in seen
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    os.close(terminal)


def test_a_command_that_a_signal_ends() -> None:
    assert run("sandbox", *python("import os; os.kill(os.getpid(), 9)")).returncode == 137


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_files_are_written_whole_and_go_with_the_sandbox(tmp_path: Path, signum: int) -> None:
    files = [tmp_path / "sandbox.env", tmp_path / "sandbox.json"]
    with serving("--env-file", str(files[0]), "--json-file", str(files[1])) as process:
        for file in files:
            wait_for(file)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        values = json.loads(files[1].read_text())
        assert files[0].read_text() == "".join(f"{name}={value}\n" for name, value in values.items())
        script = f"set -a; . {shlex.quote(str(files[0]))}; {shlex.join(PROGRAM)} cancel ${{SANDBOX_ORDER_IDS%%,*}}"
        done = subprocess.run(["/bin/sh", "-c", script], env=CLEAN, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "canceled"
        process.send_signal(signum)
        assert process.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_killed_sandbox_is_gone_until_the_next_one_listens(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.env"
    with serving("--env-file", str(file)) as process:
        wait_for(file)
        old = file.read_text()
        process.kill()
    assert file.exists()
    with serving("--env-file", str(file)) as process:
        while not file.exists() or file.read_text() == old:
            time.sleep(0.005)
        file.unlink()
        file.write_text("mine\n")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert file.read_text() == "mine\n"  # it is another's now


def test_a_copy_that_has_taken_the_place_of_our_file_stays(tmp_path: Path) -> None:
    file, copy = tmp_path / "sandbox.env", tmp_path / "copy"
    with written("--env-file", file, "A=1\n"):
        copy.write_text(file.read_text())
        copy.replace(file)
    assert file.read_text() == "A=1\n"
    with written("--env-file", file, "A=1\n"):
        file.write_text("A=2\n")
    assert file.read_text() == "A=2\n"
    with written("--env-file", file, "A=1\n"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["RIPIO_API_TOKEN=real\n", "DATABASE=x\nSANDBOX_ORDER_IDS=A\n", '{"SANDBOX_ORDER_IDS": "A", "b": "c"}', "[]"],
)
def test_a_file_that_is_not_ours_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(text)
    done = run("sandbox", "--env-file", str(file), *python(""))
    assert done.returncode == 2
    assert done.stderr == (
        f"trio-cancel: --env-file {file} exists already and was not written by trio-cancel sandbox: "
        "name another file.\n"
    )
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rate", "0"], "--rate needs a number of requests per second, more than 0, not 0."),
        (["--rate", "nan"], "--rate needs a number of requests per second, more than 0, not nan."),
        (["--delay", "soon"], "--delay needs seconds, such as 0.02 or 0.01-0.05, not 'soon'."),
        (["--delay", "2-1"], "--delay needs seconds, such as 0.02 or 0.01-0.05, not '2-1'."),
        (["--delay=-1"], "--delay needs seconds, such as 0.02 or 0.01-0.05, not '-1'."),
        (["--delay", "inf"], "--delay needs seconds, such as 0.02 or 0.01-0.05, not 'inf'."),
        (["--skew", "nan"], "--skew needs a number of seconds, at most 1,000,000,000 either way, not nan."),
        (["--fault", "nonsense"], "There is no fault 'nonsense'; trio-cancel fault lists those"),
        (["--fault", "drop_after=2"], "The chance of drop_after must be a number from 0 to 1, not '2'."),
        (["--fault", "drop_after="], "The chance of drop_after must be a number from 0 to 1, not ''."),
        (["--fault", "drop_after=0.6", "--fault", "cut=0.6"], "--fault: The chances of all faults at the point"),
        (["--seed", "x"], '--seed takes a whole number, not "x".'),
        (["--dialect", "x"], 'Invalid value "x" for --dialect. Choose from: "page", "openapi".'),
        (["--env-file="], "--env-file needs the name of a file."),
        (["--env-file", "/"], "--env-file / exists already and was not written by trio-cancel sandbox"),
        (
            ["--env-file", "/no/such/folder"],
            "--env-file /no/such/folder cannot be written: there is no folder /no/such.",
        ),
        (["--env-file", "/dev/null/x"], "--env-file /dev/null/x cannot be written"),
        (["--env-file", "x", "--json-file", "./x"], "--json-file needs its own file: ./x is named twice."),
    ],
)
def test_wrong_options_are_told(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = run("sandbox", *words, *python("print('ran')"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trio-cancel: {complaint}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "status"), [("no-such-program", 127), ("/", 126)])
def test_a_command_that_cannot_be_run(command: str, status: int) -> None:
    done = run("sandbox", command)
    assert done.returncode == status
    assert done.stderr.startswith(f"trio-cancel: {command} cannot be run (")
    assert done.stderr.count("\n") == 1


CANCEL_FIRST = (
    "import os, subprocess, sys\n"
    "first = os.environ['SANDBOX_ORDER_IDS'].split(',')[0]\n"
    "sys.exit(subprocess.call([sys.executable, '-m', 'trio_cancel', 'cancel', '--json', first]))"
)


def cancel_first(*words: str) -> dict[str, object]:
    done = run("sandbox", *words, *python(CANCEL_FIRST))
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_misbehaves_as_it_is_told() -> None:
    assert cancel_first("--fault", "error_503_before")["attempts"] != cancel_first()["attempts"]
    assert cancel_first("--fault", "silent_before=0")["status"] == "canceled"
    assert cancel_first("--fault", "close_ignored", "--delay", "0.01-0.02", "--rate", "5")["status"] == "canceled"
    assert cancel_first("--dialect", "openapi", "--fault", "refuse_daily=1")["status"] == "rejected"


def test_a_seed_repeats_and_the_clock_is_skewed() -> None:
    show = "import os; print(os.environ['SANDBOX_ORDER_IDS'])"
    first, again, other = (run("sandbox", "--seed", seed, *python(show)).stdout for seed in ("7", "7", "8"))
    assert first == again != other
    skewed = cancel_first("--skew", "-3600")
    assert skewed["status"] == "rejected"
    assert "clock" in json.dumps(skewed)


@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_faults_are_switched_from_another_process(tls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with serving("--json-file", str(file), *tls) as process:
        wait_for(file)
        environment = CLEAN | json.loads(file.read_text())
        first, second, third, *_ = environment["SANDBOX_ORDER_IDS"].split(",")

        def said(*words: str) -> str:
            done = run(*words, env=environment)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert (
            said("fault", "error_503_before", "--order", second)
            == f"error_503_before hits the next request for {second}\n"
        )
        assert said("fault", "drop_after", "close_ignored") == (
            "drop_after hits the next request\nclose_ignored hits the next closing\n"
        )
        assert json.loads(said("cancel", "--json", first))["status"] == "already_closed"
        assert json.loads(said("cancel", "--json", second))["status"] == "canceled"
        assert said("fault", "duplicated=1", "trickled=0") == (
            "duplicated hits 1 of all requests\ntrickled hits nothing by chance\n"
        )
        assert said("fault", "--clear", "duplicated=0.25") == (
            "all faults are cleared\nduplicated hits 0.25 of all requests\n"
        )
        lines = said("fault").splitlines()
        assert lines[0].split() == ["fault", "hits", "a", "chance", "fired"]
        assert ["duplicated", "request", "0.25"] in [line.split() for line in lines]
        assert ["drop_after", "request", "1"] in [line.split() for line in lines]
        assert max(map(len, lines)) < 80
        for words, complaint in (
            (["nonsense"], "There is no fault 'nonsense'"),
            (["duplicated=0.6", "cut=0.6"], "The chances of all faults at the point request"),
            (["upgrade_503", "--order", third], "upgrade_503 cannot hit a request"),
            (["cut=0.1", "--order", third], "--order needs faults that hit once"),
            (["--order", third], "--order needs faults that hit once"),
        ):
            done = run("fault", *words, env=environment)
            assert done.returncode == 2
            assert done.stderr.startswith(f"trio-cancel: {complaint}"), done.stderr
        process.terminate()
        process.wait(PATIENCE)


def test_a_sandbox_that_is_not_named_or_not_there() -> None:
    done = run("fault")
    assert (done.returncode, done.stderr) == (
        2,
        "trio-cancel: Which sandbox? Name it with --url or $TRIO_CANCEL_URL. See trio-cancel fault --help.\n",
    )
    done = run("fault", "--url", "ws://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("trio-cancel: No sandbox answers at ws://127.0.0.1:9/sandbox: ")
    done = run("fault", "--url", "nonsense")
    assert done.stderr == "trio-cancel: A sandbox's url looks like ws://127.0.0.1:8765, not like 'nonsense'.\n"
