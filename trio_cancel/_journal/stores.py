"""Choose a store by a journal's address: the only place that looks at it.

A path is an SQLite file, ``postgresql://…?journal=NAME`` a journal in a PostgreSQL database. The database needs a
driver, which is imported only for such an address. All functions block.
"""

from __future__ import annotations

import os

from trio_cancel._journal import lock, sqlite
from trio_cancel._journal.address import server_of
from trio_cancel._journal.rows import Tables
from trio_cancel._journal.store import Account, JournalStore
from trio_cancel._values.errors import ConfigurationError, JournalError

LEASE = 3.0
"""Seconds that a session's claim to a journal in a database lasts after its last beat, by default."""


def open_store(
    address: str | os.PathLike[str], account: Account, prefix: str, now: int, *, lease: float = LEASE
) -> JournalStore:
    """Open a journal for one session; make it if there is none.

    Args:
        address: a path, or a database's.
        account: the account that it belongs to.
        prefix: how the session's request ids begin.
        now: Unix microseconds.
        lease: seconds, for a journal in a database.

    Raises:
        JournalError: it cannot be used. It was not changed.
    """
    server = server_of(address)
    if server is None:
        return sqlite.SQLiteStore.open(address, account, prefix, now)
    _check_driver()
    from trio_cancel._journal import postgres

    return postgres.PostgresStore.open(server, account, prefix, now, lease)


def read_tables(address: str | os.PathLike[str]) -> Tables:
    """Read a journal as it is at one moment, also while it is being written.

    Raises:
        JournalError: there is none, or it cannot be read. It was not changed.
    """
    server = server_of(address)
    if server is None:
        return sqlite.read_tables(address)
    _check_driver()
    from trio_cancel._journal import postgres

    return postgres.read_tables(server)


def compact(address: str | os.PathLike[str], before: int) -> int:
    """Delete what was settled before a time (Unix microseconds), and free the space; return how many records.

    Raises:
        JournalError: there is none, a session is writing it, or it cannot be used.
    """
    server = server_of(address)
    if server is None:
        return sqlite.compact(address, before)
    _check_driver()
    from trio_cancel._journal import postgres

    return postgres.compact(server, before)


def is_written(address: str | os.PathLike[str]) -> bool | None:
    """Return True if a session is writing the journal now, False if none is, None if that is not known."""
    server = server_of(address)
    if server is None:
        return lock.is_locked(os.path.realpath(address))
    _check_driver()
    from trio_cancel._journal import postgres

    return postgres.is_written(server)


def migrate(address: str | os.PathLike[str]) -> tuple[int, int]:
    """Make the tables in a database, or bring them up to date.

    Returns:
        The format that was there, 0 if there was none; and the one that is there now.

    Raises:
        ConfigurationError: it is not the address of a database.
        JournalError: it cannot be done; nothing was changed.
    """
    server = server_of(address)
    if server is None:
        raise ConfigurationError("Only a database has tables to make; a file is made when it is opened.")
    _check_driver()
    from trio_cancel._journal import postgres, schema

    return postgres.migrate(server), schema.VERSION


def is_missing(address: str | os.PathLike[str]) -> bool:
    """Return True if there is no journal at an address where a session would make one.

    Raises:
        JournalError: the database cannot be asked.
    """
    server = server_of(address)
    if server is None:
        real = os.path.realpath(address)
        parts = (real, f"{real}-wal")  # the second without the first: the journal was moved, and something may be left
        return os.path.isdir(os.path.dirname(real)) and not os.path.isdir(real) and not any(map(os.path.lexists, parts))
    _check_driver()
    from trio_cancel._journal import postgres

    return postgres.is_missing(server)


def _check_driver() -> None:
    try:
        import psycopg  # noqa: F401 - only whether it can be
    except ImportError as error:
        raise JournalError(
            "A journal in PostgreSQL needs psycopg, which is not installed: pip install 'trio-cancel[postgres]'."
        ) from error
