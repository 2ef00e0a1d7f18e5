"""Credentials and settings from files: --env-file, RIPIO_API_TOKEN_FILE, RIPIO_API_SECRET_FILE, TRIO_CANCEL_CA_FILE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trio_cancel import ConfigurationError, Credentials
from trio_cancel._cli import run
from trio_cancel._cli._env_file import SIZE_MOST, kept_environment, parse_env, use_env_file
from trio_cancel._cli._failure import CommandError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RIPIO_API_TOKEN", "RIPIO_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("  export   A = b  ", "b"),
        ("A=", ""),
        ("A=b c", "b c"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A=# why", ""),
        ("A=b=c==", "b=c=="),
        ("A='b c' # why", "b c"),
        ("A='b\\n'", "b\\n"),
        ('A="b c"', "b c"),
        ('A="b#c"', "b#c"),
        ('A="b\\"c\\\\d\\n\\$e\\x"', 'b"c\\d\n$e\\x'),
        ("A=b'c", "b'c"),
        ("A=$HOME", "$HOME"),
        ("A='${HOME}'", "${HOME}"),
        ("A=b\r", "b"),
        ("# A=x\n\nA=b\n", "b"),
    ],
)
def test_lines_are_read_as_such_files_are_written(line: str, value: str) -> None:
    assert parse_env(line, "x.env") == {"A": value}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\nhunter2", "Line 2 of the --env-file x.env is not NAME=VALUE."),
        ("=hunter2", "Line 1 of the --env-file x.env is not NAME=VALUE."),
        ("1A=hunter2", "is not NAME=VALUE"),
        ("A-B=hunter2", "is not NAME=VALUE"),
        ("export A", "is not NAME=VALUE"),
        ("A: hunter2", "is not NAME=VALUE"),
        ("\n\nA='hunter2", "Line 3 of the --env-file x.env opens a quotation mark and does not close it."),
        ('A="hunter2', "does not close it"),
        ("A='hunter2'x", "has text after a closing quotation mark"),
        ('A="hunter2" x', "has text after a closing quotation mark"),
        ("A=hunter2\nB=1\nA=hunter2", "Line 3 of the --env-file x.env gives A again, which line 1 gave; keep one"),
        ("A=hunter2\0", "null character"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(text: str, says: str) -> None:
    with pytest.raises(CommandError) as raised:
        parse_env(text, "x.env")
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"A=\xff\n"), "is not UTF-8"),
        (lambda path: path.write_text("A=" + "x" * SIZE_MOST), "too long"),
    ],
)
def test_a_file_that_is_of_no_use_is_named(make: object, says: str, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "x.env")
    with pytest.raises(CommandError, match=says):
        use_env_file(str(tmp_path / "x.env"))


def test_the_file_comes_before_the_shell_and_ends_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("wrong")
    (tmp_path / "x.env").write_bytes(b"\xef\xbb\xbfRIPIO_API_TOKEN=token\r\nRIPIO_API_SECRET='se cret'\r\n")
    monkeypatch.setenv("RIPIO_API_TOKEN", "the shell's")
    monkeypatch.setenv("RIPIO_API_SECRET_FILE", str(tmp_path / "secret"))
    before = dict(os.environ)
    with kept_environment():
        use_env_file(str(tmp_path / "x.env"))
        found = Credentials.from_env()
        assert (found.api_token, found.api_secret) == ("token", "se cret")
    assert dict(os.environ) == before


def test_credentials_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "my-token\n"), ("secret", "my-secret\r\n")):
        (tmp_path / name).write_bytes(text.encode())
        monkeypatch.setenv(f"RIPIO_API_{name.upper()}_FILE", str(tmp_path / name))
    found = Credentials.from_env()
    assert (found.api_token, found.api_secret) == ("my-token", "my-secret")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, r"names cannot be read: No such file"),
        (lambda path: path.mkdir(), r"names cannot be read: Is a directory"),
        (lambda path: path.write_text(""), r"names is empty"),
        (lambda path: path.write_text("\n"), r"names is empty"),
        (lambda path: path.write_text(" hunter2\n"), r"begins with a blank"),
        (lambda path: path.write_text("hunter2\n\n"), r"ends with a line feed"),
        (lambda path: path.write_text("'hunter2'\n"), r"quotation marks"),
        (lambda path: path.write_bytes(b"hunter2\xff"), r"not UTF-8"),
        (lambda path: path.write_text("hunter2" * 10_000), r"too long"),
    ],
)
def test_a_secret_file_of_no_use_is_named_and_not_shown(
    make: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(tmp_path / "secret")
    monkeypatch.setenv("RIPIO_API_TOKEN", "my-token")
    monkeypatch.setenv("RIPIO_API_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(ConfigurationError, match=says) as raised:
        Credentials.from_env()
    assert "RIPIO_API_SECRET_FILE" in str(raised.value)
    assert run(["cancel", "A", "--url", "ws://127.0.0.1:9"]) == 2
    assert "hunter2" not in str(raised.value) + capsys.readouterr().err


def test_both_a_value_and_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "my-token")
    monkeypatch.setenv("RIPIO_API_SECRET", "hunter2")
    monkeypatch.setenv("RIPIO_API_SECRET_FILE", "somewhere")
    with pytest.raises(ConfigurationError, match="Both RIPIO_API_SECRET and RIPIO_API_SECRET_FILE are set"):
        Credentials.from_env()
    monkeypatch.delenv("RIPIO_API_SECRET")
    monkeypatch.setenv("RIPIO_API_SECRET_FILE", "")
    with pytest.raises(ConfigurationError, match="RIPIO_API_SECRET_FILE is empty"):
        Credentials.from_env()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TRIO_CANCEL_URL", "foo", "The url in the variable TRIO_CANCEL_URL cannot be used: its scheme must be wss://"),
        (
            "TRIO_CANCEL_CA_FILE",
            "nothing-here",
            "The CA file nothing-here of the variable TRIO_CANCEL_CA_FILE",
        ),
        ("TRIO_CANCEL_CA_FILE", __file__, "holds no certificate"),
    ],
)
def test_a_bad_setting_of_the_environment_names_its_variable(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "a")
    monkeypatch.setenv("RIPIO_API_SECRET", "b")
    monkeypatch.setenv("TRIO_CANCEL_URL", "wss://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    assert run(["cancel", "A"]) == 2
    assert says in capsys.readouterr().err
