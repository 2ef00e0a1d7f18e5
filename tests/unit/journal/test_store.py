"""The journal's file: who may open it, what survives, what is refused and left as it was."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.journals import ACCOUNT
from trio_cancel import JournalError
from trio_cancel._journal.lock import lock
from trio_cancel._journal.rows import Changes, micros
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import Account
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel.journal import read_journal

SECOND = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def open_store(path: Path, account: Account = ACCOUNT, prefix: str = "a") -> SQLiteStore:
    return SQLiteStore.open(path, account, prefix, 5 * SECOND)


def fill(path: Path, orders: int = 300) -> None:
    store = open_store(path)
    number = store.begun.number
    rows = [(number + i, store.begun.session, i % 2, f"order-{i:09}", 6 * SECOND) for i in range(orders)]
    store.commit(Changes(intents=rows))
    store.close()


def sql(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


def test_nothing_secret_is_in_the_files(path: Path) -> None:
    fill(path)
    store = open_store(path)
    store.commit(Changes(holds=[(1000, 2, 0, "x", 1, None, None)]))
    found = b"".join(file.read_bytes() for file in path.parent.iterdir())
    store.close()
    assert ACCOUNT.credentials.api_token.encode() not in found
    assert ACCOUNT.credentials.api_secret.encode() not in found
    assert b"order-000000007" in found


def test_the_urls_query_is_left_out() -> None:
    endpoint = parse_endpoint("wss://Venue.example:443/path?key=secret")
    assert Account.of(endpoint, ACCOUNT.credentials).url == "wss://venue.example/path"
    assert Account.of(parse_endpoint("wss://venue.example/path"), ACCOUNT.credentials).url == "wss://venue.example/path"
    assert Account.of(parse_endpoint("wss://venue.example"), ACCOUNT.credentials).url == "wss://venue.example"


def test_a_journal_that_exists_is_still_its_accounts() -> None:
    """Another fingerprint would lock all who have a journal out of it."""
    assert ACCOUNT.fingerprint(bytes(16)).hex() == "91cd47dba7e8e4e8c5a37db45d43f914"


# Refusals


def _garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(5000))


def _short(path: Path) -> None:
    fill(path)
    path.write_bytes(path.read_bytes()[:50])


def _cut(path: Path) -> None:
    fill(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scribbled(path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    rng = random.Random(1)
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = rng.randbytes(200)
    path.write_bytes(data)


def _without_a_table(path: Path) -> None:
    fill(path)
    sql(path, "DROP TABLE hold")


def _without_its_account(path: Path) -> None:
    fill(path)
    sql(path, "DELETE FROM account")


def _newer(path: Path) -> None:
    fill(path)
    sql(path, "PRAGMA user_version = 3")


def _of_another_program(path: Path) -> None:
    sql(path, "CREATE TABLE holidays (day)")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "garbage": (_garbage, "is damaged or not a journal"),
    "short": (_short, "is not a trio_cancel journal"),
    "cut": (_cut, "is damaged or not a journal"),
    "scribbled": (_scribbled, "is damaged or not a journal"),
    "without a table": (_without_a_table, "tables are missing"),
    "without its account": (_without_its_account, "its account is missing"),
    "newer": (_newer, r"newer trio_cancel \(format 3, this one knows 2\)"),
    "of another program": (_of_another_program, "is not a trio_cancel journal"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence_and_never_changed(path: Path, name: str) -> None:
    prepare, text = REFUSED[name]
    prepare(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(JournalError, match=text) as refused:
            open_store(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("length", [1, 99, 100, 511, 512, 513, 4095, 4096, 4097, 8192, 3 * 4096, 16384])
def test_a_journal_of_which_only_a_part_is_left_is_refused(path: Path, length: int) -> None:
    fill(path)
    whole = path.read_bytes()
    assert len(whole) > length
    path.write_bytes(whole[:length])
    with pytest.raises(JournalError, match=r"not a (trio_cancel )?journal"):
        open_store(path)
    assert path.read_bytes() == whole[:length]


@pytest.mark.parametrize("name", ["garbage", "short", "without a table", "newer", "of another program"])
def test_what_cannot_be_used_is_not_read_either(path: Path, name: str) -> None:
    prepare, text = REFUSED[name]
    prepare(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=text):
        read_journal(path)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot be locked \(No such file or directory\); check its directory"):
        open_store(tmp_path / "nowhere" / "the.journal")
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="cannot be opened"):
        open_store(tmp_path / "directory")
    with pytest.raises(JournalError, match="There is no journal at"):
        read_journal(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_journal_whose_main_file_is_gone_is_not_begun_anew_over_the_rest(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"what was committed last")
    with pytest.raises(JournalError, match="-wal, a part of it, is there"):
        open_store(path)
    assert not path.exists()


def test_what_a_crash_left_while_a_journal_was_made_is_no_hindrance(path: Path) -> None:
    path.touch()
    Path(f"{path}.new-journal").write_bytes(b"half of it")
    open_store(path).close()
    assert read_journal(path).orders == ()
    assert not Path(f"{path}.new-journal").exists()


# One writer


@pytest.mark.parametrize("flock", [True, False])
def test_one_session_writes_at_a_time(path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", flock)
    store = open_store(path)
    before = read_journal(path)
    with pytest.raises(JournalError, match="is being written by another session; end that one first"):
        open_store(path)
    assert read_journal(path) == before
    store.close()
    open_store(path).close()


def test_a_link_to_a_journal_is_that_journal(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    store = open_store(link)
    with pytest.raises(JournalError, match="being written"):
        open_store(path)
    store.close()


def test_a_refused_journal_is_not_left_locked(path: Path) -> None:
    _newer(path)
    with pytest.raises(JournalError):
        open_store(path)
    lock(str(path)).release()


@pytest.mark.parametrize("flock", [True, False])
def test_a_lock_that_cannot_be_had_is_told_from_one_that_is_held(
    tmp_path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", flock)
    with pytest.raises(OSError, match=r"No such file|unable to open") as caught:
        lock(str(tmp_path / "nowhere" / "x"))
    assert not isinstance(caught.value, BlockingIOError)


def test_times_are_microseconds() -> None:
    assert micros(1_700_000_000.123456) == 1_700_000_000_123_456
