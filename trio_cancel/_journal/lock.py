"""One writer per journal: a lock on a file beside it, which the system releases when its process dies.

The lock is not on the journal itself, so that others can read that while it is being written. The file beside it stays:
if it were removed, two writers could lock two files of one name. A forked child gives up its copy of the lock at once.
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
"""False on a system that is not POSIX."""
_TRIES = 100
"""How often the file is opened again because the process was forked, or the file replaced, at that moment."""
_BUSY = 20
"""How often a lock that is taken is tried again, a millisecond later: perhaps somebody only checks it."""


class Lock(Protocol):
    """A lock that is held."""

    path: str
    """The path of its file."""

    def release(self) -> None:
        """Let another writer in. In a forked child this does nothing: the lock is the parent's."""


class _FileLock:
    """The system's lock on an open file (``flock``), which also tells two sessions of one process apart."""

    def __init__(self, path: str) -> None:
        import fcntl  # not every system has it

        self.path = path
        self._file: int | None = None
        busy = 0
        for _ in range(_TRIES):
            before = fork.forks()
            self._file = file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
            fork.note(self.forked)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(f"{path} is not a file")
                if not fork.has_forked(before):  # otherwise a child may have the open file without knowing
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

            # Explicitly, because a child that was not forked by Python may still have the file open.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._close()

    def forked(self) -> None:
        """Give up the child's copy, and leave the parent's."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)

    def _close(self) -> None:
        fork.forget(self.forked)
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class _DatabaseLock:
    """SQLite's own exclusive lock, which works wherever SQLite does."""

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
        BlockingIOError: another session is writing it.
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
    """Return True if a session is writing the journal at ``path``, False if none is, None if that is not known."""
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
        os.close(file)  # which also releases the lock
    return False


def _names(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
