"""Reads a journal in a PostgreSQL database and forgets some of it, in the transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from trio_cancel._journal import forgetting
from trio_cancel._journal.forgetting import ALIVE, RECORDS, words
from trio_cancel._journal.rows import SessionRow, Tables, spread

_WORDS = words(
    table="(SELECT * FROM trio_cancel.{0} WHERE journal = %(journal)s) AS {0}",
    value="%({})s",
    schema="trio_cancel",
    temp="pg_temp",
    whose="journal = %(journal)s",
)
_UNSETTLED: LiteralString = """
FROM {intent}
WHERE NOT EXISTS (SELECT FROM {outcome} WHERE outcome.intent = intent.number AND kind <> 'unknown')
AND NOT EXISTS (SELECT FROM {answer} WHERE answer.intent = intent.number)
"""
NAMES: LiteralString = f"""
WITH unsettled AS (
    SELECT external, {{name}} AS key, max(number) AS last {_UNSETTLED} GROUP BY 1, 2
), told AS (
    SELECT external, {{name}} AS key, max(number) AS last FROM {{intent}}
    JOIN (SELECT intent, kind FROM {{outcome}} UNION ALL SELECT intent, kind FROM {{answer}}) AS ends
        ON ends.intent = intent.number AND kind IN {{told}}
    WHERE {{named}} IN (SELECT external, key FROM unsettled) GROUP BY 1, 2
)
SELECT external, {{name}} FROM {{hold}} WHERE NOT EXISTS (SELECT FROM {{release}} WHERE release.hold = hold.number)
UNION
SELECT unsettled.external, unsettled.key FROM unsettled LEFT JOIN told USING (external, key)
WHERE told.last IS NULL OR told.last < unsettled.last
""".format(**_WORDS)
"""The names of which something may be left."""
COLUMNS: dict[LiteralString, LiteralString] = {
    "hold": "number, session, external, key, held, clock_low, clock_high",
    "placed": "hold, told, id",
    "release": "hold, released",
    "intent": "number, session, external, key, intended",
    "attempt": "number, intent, connection, written, answered, status",
    "outcome": "intent, kind, settled, error_code",
    "answer": "number, intent, connection, written, answered, status, kind, error_code",
}
"""The columns of each table, as in ``_journal.rows``."""
_URL: LiteralString = """
SELECT url FROM trio_cancel.account WHERE id = (SELECT account FROM trio_cancel.journal WHERE id = %(journal)s)
"""
_SESSIONS: LiteralString = """
SELECT number, prefix, first_attempt, opened, alive, closed FROM trio_cancel.session WHERE journal = %(journal)s
ORDER BY number
"""
_LAST: LiteralString = """
SELECT greatest((SELECT max(number) FROM trio_cancel.hold WHERE journal = %(journal)s),
                (SELECT max(number) FROM trio_cancel.intent WHERE journal = %(journal)s), 0) AS number,
       greatest((SELECT max(number) FROM trio_cancel.attempt WHERE journal = %(journal)s),
                (SELECT max(number) FROM trio_cancel.answer WHERE journal = %(journal)s), 0) AS attempt
"""
"""The last number of a hold or intent, and of an attempt."""
_ROWS: LiteralString = ", ".join(
    f"""(SELECT json_agg(json_build_array({columns}) ORDER BY {columns.partition(",")[0]}) FROM trio_cancel.{table}
         WHERE journal = %(journal)s AND {RECORDS[table]} = ANY((SELECT numbers FROM theirs)::bigint[]))"""
    for table, columns in COLUMNS.items()
)
_LEFT: LiteralString = f"""
WITH name (external, key) AS MATERIALIZED ({NAMES}), every AS MATERIALIZED (
    SELECT external, key FROM name
    UNION
    SELECT 0, lower(placed.id) FROM {{hold}} JOIN {{placed}} ON placed.hold = hold.number
    WHERE placed.id IS NOT NULL AND {{named}} IN (SELECT external, key FROM name)
), theirs AS MATERIALIZED (
    SELECT array_agg(number) AS numbers FROM (
        SELECT number FROM {{hold}} WHERE {{named}} IN (SELECT external, key FROM every)
        UNION
        SELECT number FROM {{intent}} WHERE {{named}} IN (SELECT external, key FROM every)
    ) AS number
)
SELECT number, attempt, CASE WHEN EXISTS (SELECT FROM name) THEN json_build_array(
    ({_URL}),
    (SELECT json_agg(json_build_array(number, prefix, first_attempt, opened, greatest(alive, at), closed)
                     ORDER BY number)
     FROM {{session}} LEFT JOIN ({ALIVE}) AS signs (session, at) ON signs.session = number),
    {_ROWS}
) END FROM ({_LAST}) AS last
""".format(**_WORDS)
"""Where the numbers go on, and the rows that concern the names of which something may be left, or the venue's ids that
they had. It is one statement, so that whoever takes over many journals waits for only one answer per journal."""
_IDS = {"hold": 3, "placed": 2, "intent": 3}
"""The place of an order's id in the rows of a table."""
_ESCAPE = "\x1a"
"""In an id, begins what stands for a NUL and for itself."""


def stored(text: str) -> str:
    """Return an id as the database can keep it: a text there cannot contain a NUL, and an id may."""
    if "\0" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, f"{_ESCAPE}1").replace("\0", f"{_ESCAPE}0")
    return text


def original(text: str) -> str:
    """Return the id that was stored."""
    return text.replace(f"{_ESCAPE}0", "\0").replace(f"{_ESCAPE}1", _ESCAPE) if _ESCAPE in text else text


def names_left(cursor: psycopg.Cursor[Any], journal: int) -> list[tuple[int, str]]:
    """Return the names of which something may be left: 1 for an external id, and the id."""
    return cursor.execute(NAMES, {"journal": journal}).fetchall()


def left_of(cursor: psycopg.Cursor[Any], journal: int) -> tuple[int, int, Tables | None]:
    """Return the last number of a hold or intent, that of an attempt, and the rows that tell what was left, or None.

    Other rows are not read, because a journal may be large.
    """
    row = cursor.execute(_LEFT, {"journal": journal}).fetchone()
    assert row is not None
    number, attempt, left = row
    if left is None:
        return number, attempt, None
    url, sessions, *tables = left
    return number, attempt, _tables(url, sessions or (), dict(zip(COLUMNS, tables, strict=True)))


def tables_of(cursor: psycopg.Cursor[Any], journal: int) -> Tables:
    """Return all rows of a journal."""
    values = {"journal": journal}
    found = cursor.execute(_URL, values).fetchone()
    assert found is not None
    sessions = cursor.execute(_SESSIONS, values).fetchall()
    queries: dict[str, LiteralString] = {
        table: f"SELECT {columns} FROM trio_cancel.{table} WHERE journal = %(journal)s ORDER BY 1"
        for table, columns in COLUMNS.items()
    }
    rows = {table: cursor.execute(query, values).fetchall() for table, query in queries.items()}
    return _tables(found[0], sessions, rows)


def _tables(url: str, sessions: Iterable[Sequence[Any]], rows: Mapping[str, Iterable[Sequence[Any]] | None]) -> Tables:
    def of(table: str) -> list[Any]:
        found = map(tuple, rows[table] or ())
        place = _IDS.get(table)
        if place is None:
            return list(found)
        return [
            (*row[:place], original(row[place]), *row[place + 1 :]) if row[place] and _ESCAPE in row[place] else row
            for row in found
        ]

    return Tables(
        url,
        [SessionRow(*row) for row in sessions],
        of("hold"),
        of("release"),
        of("intent"),
        *spread(of("answer"), of("attempt"), of("outcome")),
        placed=of("placed"),
    )


_PREPARE: tuple[LiteralString, ...] = (
    'CREATE TEMP TABLE open_name (external smallint, key text COLLATE "C", PRIMARY KEY (external, key)) ON COMMIT DROP',
    'CREATE TEMP TABLE unsettled (external smallint, key text COLLATE "C") ON COMMIT DROP',
    "CREATE TEMP TABLE gone (number bigint PRIMARY KEY) ON COMMIT DROP",
    f"INSERT INTO pg_temp.open_name {NAMES}",
    f"INSERT INTO pg_temp.unsettled SELECT DISTINCT external, {{name}} {_UNSETTLED}",
)


def forget(cursor: psycopg.Cursor[Any], journal: int, before: int, most: int) -> int:
    """Forget what was settled before a time; see ``_journal.forgetting``. It is done in the cursor's transaction."""

    def execute(statement: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        found = cursor.execute(statement, values)
        return [] if found.description is None else found.fetchall()

    values = {"journal": journal, "before": before, "most": most}
    count = forgetting.forget(execute, _WORDS, values, _PREPARE)
    if count:
        gone = "DELETE FROM trio_cancel.name WHERE journal = %s AND hold IN (SELECT number FROM pg_temp.gone)"
        cursor.execute(gone, (journal,))
    return count
