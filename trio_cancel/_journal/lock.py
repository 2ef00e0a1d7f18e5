"""One writer a journal: a lock on a file beside it, which the system takes back when its process dies.

The lock is not on the journal itself, so that others can read that while it is being written. The file beside it stays:
removing it would let two writers lock two files of one name.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from typing import Protocol

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
"""False where the system is no POSIX."""


class Lock(Protocol):
    """A lock that is held."""

    def release(self) -> None:
        """Let another writer in."""


class _FileLock:
    """By the system's lock on an open file (``flock``), which also tells two sessions of one process apart."""

    def __init__(self, path: str) -> None:
        import fcntl  # which not every system has

        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        os.close(self._file)


class _DatabaseLock:
    """By SQLite's own exclusive lock, which works wherever SQLite does."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._database.close()
            if "locked" in str(error):
                raise BlockingIOError(str(error)) from error
            raise

    def release(self) -> None:
        self._database.close()


def lock(path: str) -> Lock:
    """Lock the journal at ``path`` for writing.

    Raises:
        BlockingIOError: another session writes it.
        OSError: the lock's file cannot be made or locked.
    """
    beside = f"{path}.lock"
    if HAS_FLOCK:
        return _FileLock(beside)
    try:
        return _DatabaseLock(beside)
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
