"""One writer per journal: a lock on a file beside it, which the system takes back when its process dies.

The lock is not on the journal itself, so that others can read that while it is being written. The file beside it stays:
removing it would let two writers lock two files of one name. A forked child gives its copy of the lock up at once.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import stat
import time
from contextlib import suppress
from typing import Protocol

from trio_cancel._journal import fork

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
"""False where the system is no POSIX."""
_TRIES = 100
"""How often the file is opened anew because the process was forked, or the file replaced, at that moment."""
_BUSY = 20
"""How often a lock that is taken is tried again, a millisecond later: perhaps somebody only looks at it."""


class Lock(Protocol):
    """A lock that is held."""

    path: str
    """Of its file."""

    def release(self) -> None:
        """Let another writer in. In a forked child it does nothing: the lock is the parent's."""


class _FileLock:
    """By the system's lock on an open file (``flock``), which also tells two sessions of one process apart."""

    def __init__(self, path: str) -> None:
        import fcntl  # which not every system has

        self.path = path
        self._file: int | None = None
        busy = 0
        for _ in range(_TRIES):
            before = fork.forks()
            self._file = file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
            fork.note(self)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(f"{path} is not a file")
                if not fork.has_forked(before):  # else a child may have the open file and not know it
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _names(path, file):
                        return
            except BlockingIOError:
                self._close()
                busy += 1
                if busy > _BUSY:
                    raise
            except BaseException:
                self._close()
                raise
            self._close()
            time.sleep(0.001)
        raise OSError(f"{path} was being replaced all the time")

    def release(self) -> None:
        if self._file is not None:
            import fcntl

            # Explicitly: also where a child that was made behind Python's back still has the file open.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._close()

    def forked(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)

    def _close(self) -> None:
        fork.forget(self)
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class _DatabaseLock:
    """By SQLite's own exclusive lock, which works wherever SQLite does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._process = os.getpid()
        self._database = sqlite3.connect(path, timeout=0, check_same_thread=False)
        try:
            self._database.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._database.close()
            if "locked" in str(error):
                raise BlockingIOError from error
            raise
        fork.keep_for_ever(self._database)

    def release(self) -> None:
        if self._process == os.getpid():
            self._database.close()
            fork.let_go(self._database)


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


def is_locked(path: str) -> bool | None:
    """Return True if a session writes the journal at ``path`` now, False if none does, None if that cannot be told."""
    if not HAS_FLOCK:
        return None
    import fcntl

    try:
        file = os.open(f"{path}.lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)  # and with it the lock
    return False


def _names(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
