"""What is counted so that a forked child knows what is its parent's."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest

from trio_cancel._journal import fork
from trio_cancel._journal.lock import lock

PATH = "/nowhere/the.journal"


def test_a_journal_is_open_as_long_as_anybody_has_it_open() -> None:
    assert not fork.is_open(PATH)
    fork.opened(PATH)
    fork.opened(PATH)
    with fork.using(PATH):
        assert fork.is_open(PATH)
    fork.closed(PATH)
    assert fork.is_open(PATH)
    assert not fork.is_parents(PATH)
    fork.closed(PATH)
    assert not fork.is_open(PATH)
    with pytest.raises(KeyError), fork.using(PATH):
        raise KeyError
    assert not fork.is_open(PATH)


class Lock:
    def __init__(self) -> None:
        self.given_up = False

    def forked(self) -> None:
        self.given_up = True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_gives_up_the_locks_and_knows_the_journals_of_its_parent() -> None:
    kept, released = Lock(), Lock()
    for held in (kept, released):
        fork.note(held.forked)
    fork.forget(released.forked)
    fork.forget(released.forked)  # it is no error
    before = fork.forks()
    assert not fork.has_forked(before)

    with fork.using(PATH):
        child = os.fork()
        if not child:
            told = (kept.given_up, released.given_up, fork.is_parents(PATH), fork.is_open(PATH))
            os._exit(0 if told == (True, False, True, False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (kept.given_up, fork.is_parents(PATH)) == (False, False)
    assert fork.has_forked(before)
    assert not fork.has_forked(fork.forks())
    fork.forget(kept.forked)


def test_a_connection_that_is_kept_is_kept_by_one_reference_more() -> None:
    connection = sqlite3.connect(":memory:")
    before = sys.getrefcount(connection)
    fork.keep_for_ever(connection)
    assert sys.getrefcount(connection) == before + 1
    fork.let_go(connection)
    assert sys.getrefcount(connection) == before
    connection.close()


@pytest.mark.parametrize("flock", [True, False])
def test_a_lock_is_let_go_of_once(flock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", flock)
    let_go: list[sqlite3.Connection] = []
    monkeypatch.setattr(fork, "keep_for_ever", lambda connection: None)
    monkeypatch.setattr(fork, "let_go", let_go.append)
    path = str(tmp_path / "x")
    held = lock(path)
    assert held.path == f"{path}.lock"
    with pytest.raises(BlockingIOError):
        lock(path)
    held.release()
    assert let_go == ([] if flock else [vars(held)["_database"]])
    lock(path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_lock_that_is_given_up_is_nobodys_to_release(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    held = lock(path)
    held.forked()  # type: ignore[attr-defined]  # as in a child; here it was the only one that had the file open
    again = lock(path)
    held.release()
    held.forked()  # type: ignore[attr-defined]
    with pytest.raises(BlockingIOError):
        lock(path)
    again.release()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_lock_that_is_not_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    os.mkfifo(f"{path}.lock")
    with pytest.raises(OSError, match=r"x\.lock is not a file$"):
        lock(path)
