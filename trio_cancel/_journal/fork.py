"""What a forked child must leave alone: its parent's locks, and its parent's SQLite connections.

A lock on an open file belongs to the child as well as to its parent, and lasts until both have closed the file, so the
child closes its copy at once. An SQLite connection must not be used in a child, not even to close it: that could undo
a transaction of its parent in the memory that both share. So no connection is ever finalised there. SQLite also
remembers which locks the process has on a file. A child inherits that memory but not the locks, so it must not open
those files through SQLite at all.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

import attrs

_give_up: set[Callable[[], None]] = set()  # called in a child: what gives up its copies of locks
_open: Counter[str] = Counter()  # the journals that this process has open through SQLite, and how often
_of_parents: set[str] = set()  # those that a parent of this process had open when it was forked


@attrs.define
class _Forks:
    begun: int = 0
    ended: int = 0
    guard: threading.Lock = attrs.field(factory=threading.Lock)  # protects the counts of open journals


_forks = _Forks()


def forks() -> int:
    """Return a number from which :func:`has_forked` tells whether the process was forked since."""
    return _forks.ended


def has_forked(since: int) -> bool:
    """Return True if the process may have been forked since, or is being forked now."""
    return not _forks.begun == _forks.ended == since


def note(give_up: Callable[[], None]) -> None:
    """Have a function called in children, which gives up a lock there."""
    _give_up.add(give_up)


def forget(give_up: Callable[[], None]) -> None:
    """Undo :func:`note`, after the lock was released."""
    _give_up.discard(give_up)


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
    """Keep the garbage collector and the end of an interpreter, here and in children, from finalising a connection."""
    _count(connection, "Py_IncRef")


def let_go(connection: sqlite3.Connection) -> None:
    """Undo :func:`keep_for_ever`, after the connection was closed."""
    _count(connection, "Py_DecRef")


def _count(connection: sqlite3.Connection, change: str) -> None:
    # A reference that Python does not know of: one in a module's dict would be dropped at the interpreter's end.
    import ctypes  # here, because only users of a journal need it

    api = getattr(ctypes, "pythonapi", None)
    if api is not None:  # only CPython finalises anything at its end
        getattr(api, change)(ctypes.py_object(connection))


def _before() -> None:
    _forks.begun += 1


def _in_parent() -> None:
    _forks.ended += 1


def _in_child() -> None:
    _forks.begun = _forks.ended
    _forks.guard = threading.Lock()  # perhaps it was taken, by a thread that does not exist here
    _of_parents.update(_open)
    _open.clear()
    for give_up in _give_up:
        give_up()
    _give_up.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
