"""The tables of trio_cancel in a PostgreSQL database; only ``trio-cancel journal --migrate`` makes them.

Everything is in the schema ``trio_cancel`` and named with it, so no setting of a connection matters. Several journals
share the tables. The rows of each are those of ``_journal.rows``, and the number of a session is the epoch of its
journal: whoever writes for an epoch that is over finds no row to update, and writes nothing.

``name`` says which hold has an external id now, for each account: the last one that was recorded under it, in whichever
journal. Whoever cancels for another session looks there before each attempt.

``pace`` has what was granted of an account's rate if its sessions share one (``_engine.shared_rate``), and
``pace_member`` has those who may ask for it. Times there are seconds of the database's clock.

A guard beats in its row of ``guard`` at least once per second, and ``guard_account`` says whose credentials it has, so
that a session can tell whether a guard watches.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

VERSION = 2
"""The version of the tables. A database with a higher one is refused, one with a lower one has to be migrated."""
LOCK = 0x7472694A
"""The key of the advisory lock under which tables are made or changed, by one transaction at a time."""

_FIRST: LiteralString = """
CREATE SCHEMA IF NOT EXISTS trio_cancel;
CREATE TABLE trio_cancel.format (version integer NOT NULL, salt bytea NOT NULL);
CREATE TABLE trio_cancel.account (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    UNIQUE (url, fingerprint)
);
CREATE TABLE trio_cancel.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    account bigint NOT NULL REFERENCES trio_cancel.account,
    epoch bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    lease_ms integer NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'free' CHECK (state IN ('free', 'live', 'left')),
    seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE trio_cancel.session (
    journal bigint NOT NULL REFERENCES trio_cancel.journal ON DELETE CASCADE,
    number bigint NOT NULL,
    prefix text COLLATE "C" NOT NULL,
    first_attempt bigint NOT NULL,
    opened bigint NOT NULL,
    alive bigint NOT NULL,
    closed bigint,
    acknowledged timestamptz,
    PRIMARY KEY (journal, number)
);
CREATE TABLE trio_cancel.hold (
    journal bigint NOT NULL,
    number bigint NOT NULL,
    session bigint NOT NULL,
    external smallint NOT NULL,
    key text COLLATE "C" NOT NULL,
    held bigint NOT NULL,
    clock_low bigint,
    clock_high bigint,
    PRIMARY KEY (journal, number)
);
CREATE TABLE trio_cancel.placed (
    journal bigint NOT NULL,
    hold bigint NOT NULL,
    told bigint NOT NULL,
    id text COLLATE "C",
    PRIMARY KEY (journal, hold)
);
CREATE TABLE trio_cancel.release (
    journal bigint NOT NULL,
    hold bigint NOT NULL,
    released bigint NOT NULL,
    PRIMARY KEY (journal, hold)
);
CREATE TABLE trio_cancel.intent (
    journal bigint NOT NULL,
    number bigint NOT NULL,
    session bigint NOT NULL,
    external smallint NOT NULL,
    key text COLLATE "C" NOT NULL,
    intended bigint NOT NULL,
    PRIMARY KEY (journal, number)
);
CREATE TABLE trio_cancel.attempt (
    journal bigint NOT NULL,
    number bigint NOT NULL,
    intent bigint NOT NULL,
    connection bigint NOT NULL,
    written bigint NOT NULL,
    answered bigint,
    status integer,
    PRIMARY KEY (journal, number)
);
CREATE TABLE trio_cancel.outcome (
    journal bigint NOT NULL,
    intent bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    settled bigint NOT NULL,
    error_code bigint,
    PRIMARY KEY (journal, intent)
);
CREATE TABLE trio_cancel.answer (
    journal bigint NOT NULL,
    number bigint NOT NULL,
    intent bigint NOT NULL,
    connection bigint NOT NULL,
    written bigint NOT NULL,
    answered bigint NOT NULL,
    status integer,
    kind text COLLATE "C" NOT NULL,
    error_code bigint,
    PRIMARY KEY (journal, number)
);
CREATE TABLE trio_cancel.name (
    account bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    journal bigint NOT NULL,
    hold bigint NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE TABLE trio_cancel.guard (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    beat bigint NOT NULL DEFAULT 0,
    seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE trio_cancel.guard_account (
    guard bigint NOT NULL REFERENCES trio_cancel.guard ON DELETE CASCADE,
    account bigint NOT NULL REFERENCES trio_cancel.account,
    PRIMARY KEY (account, guard)
);
INSERT INTO trio_cancel.format SELECT 1, uuid_send(gen_random_uuid());
"""
_PACE: LiteralString = """
CREATE TABLE trio_cancel.pace (
    account bigint PRIMARY KEY REFERENCES trio_cancel.account,
    rate double precision NOT NULL,
    burst integer NOT NULL,
    full_at double precision NOT NULL DEFAULT 0,
    guard_at double precision NOT NULL DEFAULT 0,
    others_at double precision NOT NULL DEFAULT 0,
    asked_at double precision NOT NULL DEFAULT 0,
    since double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE trio_cancel.pace_member (
    account bigint NOT NULL REFERENCES trio_cancel.pace ON DELETE CASCADE,
    member text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    seen double precision NOT NULL,
    PRIMARY KEY (account, member)
) WITH (fillfactor = 50);
"""
STEPS: tuple[LiteralString, ...] = (_FIRST, _PACE)
"""The statements that bring the tables from each version to the next."""


def version_of(cursor: psycopg.Cursor[Any]) -> int:
    """Return the version of the tables that are there; 0 if there are none."""
    found = cursor.execute("SELECT to_regclass('trio_cancel.format') IS NOT NULL").fetchone()
    if found is None or not found[0]:
        return 0
    row = cursor.execute("SELECT version FROM trio_cancel.format").fetchone()
    return 0 if row is None else int(row[0])


def make(cursor: psycopg.Cursor[Any]) -> int:
    """Make the tables, or bring them up to date, in the cursor's transaction; return the version that was there."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    before = version_of(cursor)
    for step in STEPS[before:]:
        cursor.execute(step)
    cursor.execute("UPDATE trio_cancel.format SET version = %s", (max(before, VERSION),))
    return before
