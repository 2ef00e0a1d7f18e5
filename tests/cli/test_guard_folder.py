"""What ``trio-cancel guard`` says to a folder of credentials that is of no use; nothing is contacted."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_cancel._cli import run

NOWHERE = "postgresql://127.0.0.1:1/trading"
GOOD = "RIPIO_API_TOKEN=token\nRIPIO_API_SECRET=the-secret\n"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no file in it"),
        ({".hidden": GOOD}, "has no file in it"),
        ({"a.env": "RIPIO_API_TOKEN=token\n"}, "a.env in "),
        ({"a.env": GOOD, "b.env": "the-secret\n"}, "is not NAME=VALUE"),
        ({"a.env": GOOD}, "127.0.0.1:1/trading cannot be opened"),
    ],
)
def test_a_folder(
    files: dict[str, str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those of the shell do not fill in what a file lacks: they would be another account's.
    monkeypatch.setenv("RIPIO_API_SECRET", "of-the-shell")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run(["guard", NOWHERE, "--credentials", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "the-secret" not in said.err + said.out


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guard", NOWHERE, "--credentials", str(tmp_path / "missing")]) == 2
    assert "cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_journal_is_not_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.env").write_text(GOOD)
    assert run(["guard", f"{NOWHERE}?journal=mm-1", "--credentials", str(tmp_path)]) == 2
    assert "A guard watches a whole database" in capsys.readouterr().err


def test_the_credentials_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guard", NOWHERE]) == 2
    assert "--credentials DIR is missing" in capsys.readouterr().err
