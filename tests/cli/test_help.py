"""What a person reads who asks how a command is called, or calls it wrongly."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from trio_cancel._cli import run
from trio_cancel._cli._help import MANUALS

COMMANDS = sorted(MANUALS)


@pytest.fixture(params=[40, 80, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_says_statuses_an_example_and_fits(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Exit status:" in text
    assert "Example" in text
    assert f"trio-cancel {name}" in text
    assert "[default: ()]" not in text
    assert "[default: False]" not in text
    assert "JOURNAL" not in text
    assert "None" not in text
    assert max(map(len, text.splitlines())) <= max(columns, 90)  # an example's path is not broken


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_on_a_dumb_terminal_is_as_wide_as_elsewhere(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for term in ("xterm", "dumb"):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert run([*name.split(), "--help"]) == 0
        said.append(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out))
    assert said[0] == said[1]
    boxes = [line for line in said[1].splitlines() if line.startswith("╭")]
    assert boxes
    assert all(len(line) <= columns for line in boxes)


@pytest.mark.parametrize("name", ["cancel", "show", "resume", "doctor"])
def test_own_and_common_options_stand_apart(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([name, "--help"])
    text = capsys.readouterr().out
    own, connection, common = (
        text.index(title) for title in ("─ Options ─", "─ Connection ─", "─ For every command ─")
    )
    assert own < text.index("│ --json") < connection < text.index("│ --proxy URL") < common < text.index("│ --debug")
    assert connection < text.index("--env-file FILE") < common
    assert "Environment:" in text
    assert "RIPIO_API_SECRET_FILE" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_command_is_short_for_the_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", name]) == 0
    first = capsys.readouterr().out
    assert run([name, "--help"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cancel", "--frm", "x"], "Unknown option: --frm. Did you mean --from? See trio-cancel cancel --help."),
        (["doctor", "foo", "bar"], 'Unexpected arguments: "foo", "bar". See trio-cancel doctor --help.'),
        (["demo", "1000"], 'Unexpected argument: "1000". See trio-cancel demo --help.'),
        (["demo", *map(str, range(99))], 'Unexpected arguments: "0", "1", "2" and 96 more.'),
        (["cancel", "--deadline", "soon"], '--deadline takes a number, not "soon". See trio-cancel cancel --help.'),
        (["demo", "--orders", "many"], '--orders takes a whole number, not "many".'),
        (["demo", "--orders", "1_0"], '--orders takes a whole number, not "1_0".'),
        (["demo", "--orders", "1.5"], '--orders takes a whole number, not "1.5".'),
        (["sandbox", "--seed", "1.5"], '--seed takes a whole number, not "1.5".'),
        (["sandbox", "--port", "1.0"], '--port takes a whole number, not "1.0".'),
        (["journal", "x", "--session", "1.5"], '--session takes a whole number, not "1.5".'),
        (["cancel", "--rate"], "--rate needs a value. See trio-cancel cancel --help."),
        (["cancel", "A", "--rate", "0"], "--rate needs a finite number of requests a second greater than 0."),
        (["cancel", "A", "--give-up-after", "nan"], "--give-up-after needs a finite number of seconds greater than 0."),
        (["cancel", "A", "--give-up-after", "inf"], "--give-up-after needs a finite number of seconds greater than 0."),
        (["journal", "x", "--days", "3"], "--days belongs to --compact; to see what is new, use --since 3d."),
        (["cancel", "A", "--env-file="], "--env-file needs the name of a file. See trio-cancel cancel --help."),
        (["cancel", "A", "--journal="], "--journal needs the name of a file. See trio-cancel cancel --help."),
        (["cancel", "--from="], "--from needs the name of a file, or - for stdin. See trio-cancel cancel --help."),
        (["cancel", "A", "--ca-file="], "--ca-file needs the name of a file."),
        (["journal"], "FILE is missing. See trio-cancel journal --help."),
        (["completion", "tcsh"], 'Invalid value "tcsh" for SHELL. Choose from: "bash", "zsh", "fish".'),
        (["frob"], 'Unknown command "frob". See trio-cancel --help.'),
        (["cancle"], 'Unknown command "cancle". Did you mean "cancel"? See trio-cancel --help.'),
        (["show", "--from", "x"], "Unknown option: --from. See trio-cancel show --help."),
        (["journal", "x", "--since", "-5m"], "--since needs a moment such as 2026-01-31"),
        (["help", "frob"], 'Unknown command "frob".'),
        (["cancel", "A", "--log-level", "loud"], "--log-level"),
    ],
)
def test_wrong_usage_names_the_help_that_helps(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "a")
    monkeypatch.setenv("RIPIO_API_SECRET", "b")
    monkeypatch.setenv("TRIO_CANCEL_URL", "ws://127.0.0.1:9")
    assert run(words) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "--help." in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "[" not in printed.err
    assert not printed.out


def test_version_has_a_short_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-V"]) == 0
    assert capsys.readouterr().out[0].isdigit()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_with_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "give-up-after", "env-file", "log-level"):
        assert word in script


def test_completion_script_is_good_bash(capsys: pytest.CaptureFixture[str]) -> None:
    run(["completion", "bash"])
    script = capsys.readouterr().out
    ask = f"{script}\nCOMP_WORDS=(trio-cancel can); COMP_CWORD=1; _trio_cancel; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["cancel"], done.stderr


@pytest.mark.parametrize("words", [["help"], ["help", "cancel"], ["--help"], ["completion", "bash"]])
def test_a_reader_that_wants_one_line_only_makes_no_error(words: list[str]) -> None:
    command = f"{sys.executable} -m trio_cancel {' '.join(words)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert not done.stderr
