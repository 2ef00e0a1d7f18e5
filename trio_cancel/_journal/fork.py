"""What a forked child must leave alone: its parent's locks, and its parent's SQLite connections.

A lock on an open file belongs to the child as well as to its parent, and lasts until both have closed the file; so the
child closes its copy at once. An SQLite connection must not be used in a child, not even to close it: that could undo
a transaction of its parent in the memory that both share. So none is ever finalised there. SQLite also remembers, for
the whole process, which locks it has on a file; a child has that memory and not the locks, so that it must not open
those files through SQLite at all.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import attrs


class Inherited(Protocol):
    """What a child gives up."""

    def forked(self) -> None:
        """Let go of it in a child, in a way that leaves the parent's."""


_locks: set[Inherited] = set()
_open: Counter[str] = Counter()  # the journals that this process has open through SQLite, and how often
_of_parents: set[str] = set()  # those that a parent of this process had open when it was forked


@attrs.define
class _Forks:
    begun: int = 0
    ended: int = 0
    guard: threading.Lock = attrs.field(factory=threading.Lock)  # of the counts of open journals


_forks = _Forks()


def forks() -> int:
    """Return a number that tells, by :func:`has_forked`, whether the process was forked since."""
    return _forks.ended


def has_forked(since: int) -> bool:
    """Return True if the process may have been forked since, or is being forked now."""
    return not _forks.begun == _forks.ended == since


def note(lock: Inherited) -> None:
    """Have a lock given up in children."""
    _locks.add(lock)


def forget(lock: Inherited) -> None:
    """Note that a lock was released."""
    _locks.discard(lock)


def is_parents(path: str) -> bool:
    """Return True if a parent had this journal open when this process was forked: SQLite must not open it here."""
    return path in _of_parents


def is_open(path: str) -> bool:
    """Return True if this process has a journal open through SQLite."""
    return path in _open


def opened(path: str) -> None:
    """Note that this process opens a journal through SQLite."""
    with _forks.guard:
        _open[path] += 1


def closed(path: str) -> None:
    """Note that this process has closed a journal."""
    with _forks.guard:
        _open[path] -= 1
        if _open[path] <= 0:
            del _open[path]


@contextmanager
def using(path: str) -> Generator[None]:
    """Note that a journal is open during the block."""
    opened(path)
    try:
        yield
    finally:
        closed(path)


def keep_for_ever(connection: sqlite3.Connection) -> None:
    """Let no garbage collector and no end of an interpreter, here or in a child, finalise a connection."""
    _count(connection, "Py_IncRef")


def let_go(connection: sqlite3.Connection) -> None:
    """Undo :func:`keep_for_ever`, after the connection was closed."""
    _count(connection, "Py_DecRef")


def _count(connection: sqlite3.Connection, change: str) -> None:
    # A reference that Python does not know of: one in a module's dict would be dropped at the interpreter's end.
    import ctypes  # for those who keep a journal

    api = getattr(ctypes, "pythonapi", None)
    if api is not None:  # CPython; others finalise nothing at their end
        getattr(api, change)(ctypes.py_object(connection))


def _before() -> None:
    _forks.begun += 1


def _in_parent() -> None:
    _forks.ended += 1


def _in_child() -> None:
    _forks.begun = _forks.ended
    _forks.guard = threading.Lock()  # perhaps another thread had it, which is not here
    _of_parents.update(_open)
    _open.clear()
    for lock in _locks:
        lock.forked()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
