"""What is counted so that a forked child knows what is its parent's."""

from __future__ import annotations

import os

import pytest

from trio_cancel._journal import fork

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
    for lock in (kept, released):
        fork.note(lock)
    fork.forget(released)
    fork.forget(released)  # it is no error
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
    fork.forget(kept)
