"""What is read of a journal in a PostgreSQL database, and what is forgotten of it; in the transaction of who asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from trio_cancel._journal.rows import SessionRow, Tables, spread

_NAME: LiteralString = "CASE external WHEN 1 THEN key ELSE lower(key) END"
"""As ``canonical_id`` compares the venue's ids; the columns have the collation "C"."""
_TOLD: LiteralString = "('canceled', 'already_closed', 'not_found', 'dismissed')"
"""As in ``_journal.reading``."""
NAMES: LiteralString = f"""
WITH unsettled AS (
    SELECT external, {_NAME} AS key, max(number) AS last FROM trio_cancel.intent AS i
    WHERE journal = %(journal)s
    AND NOT EXISTS (SELECT FROM trio_cancel.outcome AS o
                    WHERE o.journal = %(journal)s AND o.intent = i.number AND kind <> 'unknown')
    AND NOT EXISTS (SELECT FROM trio_cancel.answer AS a WHERE a.journal = %(journal)s AND a.intent = i.number)
    GROUP BY 1, 2
), told AS (
    SELECT external, {_NAME} AS key, max(number) AS last FROM trio_cancel.intent AS i
    JOIN (SELECT intent, kind FROM trio_cancel.outcome WHERE journal = %(journal)s
          UNION ALL SELECT intent, kind FROM trio_cancel.answer WHERE journal = %(journal)s) AS ends
        ON ends.intent = i.number AND kind IN {_TOLD}
    WHERE journal = %(journal)s AND (external, {_NAME}) IN (SELECT external, key FROM unsettled) GROUP BY 1, 2
)
SELECT external, {_NAME} FROM trio_cancel.hold AS h
WHERE journal = %(journal)s
AND NOT EXISTS (SELECT FROM trio_cancel.release AS r WHERE r.journal = %(journal)s AND r.hold = h.number)
UNION
SELECT unsettled.external, unsettled.key FROM unsettled LEFT JOIN told USING (external, key)
WHERE told.last IS NULL OR told.last < unsettled.last
"""
"""The names of which something may be left."""
_ALIVE: LiteralString = """
SELECT session, max(at) FROM (
    SELECT session, held AS at FROM trio_cancel.hold WHERE journal = %(journal)s
    UNION ALL SELECT session, intended FROM trio_cancel.intent WHERE journal = %(journal)s
    UNION ALL SELECT session, settled FROM trio_cancel.outcome AS o
        JOIN trio_cancel.intent AS i ON i.journal = o.journal AND i.number = o.intent WHERE o.journal = %(journal)s
    UNION ALL SELECT session, answered FROM trio_cancel.answer AS a
        JOIN trio_cancel.intent AS i ON i.journal = a.journal AND i.number = a.intent WHERE a.journal = %(journal)s
) AS signs GROUP BY session
"""
"""What a session wrote last is a sign of life, too."""
COLUMNS: dict[LiteralString, tuple[LiteralString, LiteralString]] = {
    "hold": ("number, session, external, key, held, clock_low, clock_high", "number"),
    "placed": ("hold, told, id", "hold"),
    "release": ("hold, released", "hold"),
    "intent": ("number, session, external, key, intended", "number"),
    "attempt": ("number, intent, connection, written, answered, status", "intent"),
    "outcome": ("intent, kind, settled, error_code", "intent"),
    "answer": ("number, intent, connection, written, answered, status, kind, error_code", "intent"),
}
"""The columns of each table, as ``_journal.rows`` has them, and the one with the number of the hold or intent."""
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
         WHERE journal = %(journal)s AND {by} = ANY((SELECT numbers FROM theirs)::bigint[]))"""
    for table, (columns, by) in COLUMNS.items()
)
_LEFT: LiteralString = f"""
WITH name (external, key) AS MATERIALIZED ({NAMES}), every AS MATERIALIZED (
    SELECT external, key FROM name
    UNION
    SELECT 0, lower(p.id) FROM trio_cancel.hold AS h
    JOIN trio_cancel.placed AS p ON p.journal = %(journal)s AND p.hold = h.number
    WHERE h.journal = %(journal)s AND p.id IS NOT NULL AND (external, {_NAME}) IN (SELECT external, key FROM name)
), theirs AS MATERIALIZED (
    SELECT array_agg(number) AS numbers FROM (
        SELECT number FROM trio_cancel.hold
        WHERE journal = %(journal)s AND (external, {_NAME}) IN (SELECT external, key FROM every)
        UNION
        SELECT number FROM trio_cancel.intent
        WHERE journal = %(journal)s AND (external, {_NAME}) IN (SELECT external, key FROM every)
    ) AS number
)
SELECT number, attempt, CASE WHEN EXISTS (SELECT FROM name) THEN json_build_array(
    ({_URL}),
    (SELECT json_agg(json_build_array(number, prefix, first_attempt, opened, greatest(alive, at), closed)
                     ORDER BY number)
     FROM trio_cancel.session LEFT JOIN ({_ALIVE}) AS signs (session, at) ON session = number
     WHERE journal = %(journal)s),
    {_ROWS}
) END FROM ({_LAST}) AS last
"""
"""Where the numbers go on, and the rows that concern the names of which something may be left, or the venue's ids that
they had. All of it in one statement, so that who takes many journals over has one answer a journal to wait for."""
_IDS = {"hold": 3, "placed": 2, "intent": 3}
"""The place of an order's id in the rows of a table."""
_ESCAPE = "\x1a"
"""Begins what stands for a NUL, and for itself, in an id."""


def stored(text: str) -> str:
    """Return an id as the database can keep it: a text there holds no NUL, and an id may."""
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
    """Return where a journal's numbers go on, and what was left in it.

    Returns:
        The last number of a hold or intent, and of an attempt; and the rows that tell what was left, None if nothing
        was. A journal may be large, the rest is history.
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
        for table, (columns, _) in COLUMNS.items()
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


_NAMED: LiteralString = f"(external, {_NAME})"
_IS_SETTLED: LiteralString = f"{_NAMED} NOT IN (SELECT external, key FROM pg_temp.open_name)"
_UNSETTLED: LiteralString = f"{_NAMED} IN (SELECT external, key FROM pg_temp.unsettled)"
_COMPACT: tuple[LiteralString, ...] = (
    'CREATE TEMP TABLE open_name (external smallint, key text COLLATE "C", PRIMARY KEY (external, key)) ON COMMIT DROP',
    'CREATE TEMP TABLE unsettled (external smallint, key text COLLATE "C") ON COMMIT DROP',
    "CREATE TEMP TABLE gone (number bigint PRIMARY KEY) ON COMMIT DROP",
    f"INSERT INTO pg_temp.open_name {NAMES}",
    # The venue's ids that such a name had: what is known of them stays as well.
    f"""INSERT INTO pg_temp.open_name SELECT 0, lower(p.id) FROM trio_cancel.hold AS h
        JOIN trio_cancel.placed AS p ON p.journal = %(journal)s AND p.hold = h.number
        WHERE h.journal = %(journal)s AND p.id IS NOT NULL AND NOT {_IS_SETTLED} ON CONFLICT DO NOTHING""",
    f"""INSERT INTO pg_temp.unsettled SELECT DISTINCT external, {_NAME} FROM trio_cancel.intent AS i
        WHERE journal = %(journal)s
        AND NOT EXISTS (SELECT FROM trio_cancel.outcome AS o
                        WHERE o.journal = %(journal)s AND o.intent = i.number AND kind <> 'unknown')
        AND NOT EXISTS (SELECT FROM trio_cancel.answer AS a WHERE a.journal = %(journal)s AND a.intent = i.number)""",
    # A cancel without an outcome goes with the later one that told, and with all there is of its name, or stays.
    *(
        f"INSERT INTO pg_temp.open_name SELECT external, {_NAME} FROM {rows} AND {_UNSETTLED} ON CONFLICT DO NOTHING"
        for rows in (
            "trio_cancel.intent WHERE journal = %(journal)s AND (number > %(upto)s OR intended >= %(before)s)",
            """trio_cancel.intent AS i JOIN trio_cancel.outcome AS o ON o.journal = i.journal AND o.intent = i.number
               WHERE i.journal = %(journal)s AND settled >= %(before)s""",
            """trio_cancel.intent AS i JOIN trio_cancel.answer AS a ON a.journal = i.journal AND a.intent = i.number
               WHERE i.journal = %(journal)s AND answered >= %(before)s""",
            "trio_cancel.hold WHERE journal = %(journal)s AND (number > %(upto)s OR held >= %(before)s)",
            """trio_cancel.hold AS h JOIN trio_cancel.release AS r ON r.journal = h.journal AND r.hold = h.number
               WHERE h.journal = %(journal)s AND released >= %(before)s""",
        )
    ),
    f"""INSERT INTO pg_temp.gone SELECT number FROM trio_cancel.hold AS h
        JOIN trio_cancel.release AS r ON r.journal = h.journal AND r.hold = h.number
        WHERE h.journal = %(journal)s AND number <= %(upto)s AND held < %(before)s AND released < %(before)s
        AND {_IS_SETTLED}
        AND NOT EXISTS (SELECT FROM trio_cancel.placed AS p
                        WHERE p.journal = %(journal)s AND p.hold = h.number AND told >= %(before)s)
        ON CONFLICT DO NOTHING""",
    *(
        f"""INSERT INTO pg_temp.gone SELECT i.number FROM trio_cancel.intent AS i
            JOIN trio_cancel.{table} AS e ON e.journal = i.journal AND e.intent = i.number
            WHERE i.journal = %(journal)s AND i.number <= %(upto)s AND intended < %(before)s AND {at} < %(before)s
            AND {_IS_SETTLED} ON CONFLICT DO NOTHING"""
        for table, at in (("outcome", "settled"), ("answer", "answered"))
    ),
    f"""INSERT INTO pg_temp.gone SELECT number FROM trio_cancel.intent
        WHERE journal = %(journal)s AND number <= %(upto)s AND {_IS_SETTLED} AND {_UNSETTLED} ON CONFLICT DO NOTHING""",
)
"""Finds what can go: every record that is older, of names of which nothing is left. See ``_journal.sqlite``."""
_FIRST: LiteralString = """
SELECT least((SELECT held FROM trio_cancel.hold WHERE journal = %(journal)s ORDER BY number LIMIT 1),
             (SELECT intended FROM trio_cancel.intent WHERE journal = %(journal)s ORDER BY number LIMIT 1))
"""
_OLDEST: LiteralString = """
SELECT number FROM trio_cancel.hold WHERE journal = %(journal)s
UNION ALL SELECT number FROM trio_cancel.intent WHERE journal = %(journal)s
ORDER BY number LIMIT %(most)s
"""
_EMPTY_SESSIONS: LiteralString = """
DELETE FROM trio_cancel.session WHERE journal = %(journal)s
AND greatest(opened, alive, coalesce(closed, 0)) < %(before)s AND number < least(
    (SELECT min(session) FROM trio_cancel.hold WHERE journal = %(journal)s),
    (SELECT min(session) FROM trio_cancel.intent WHERE journal = %(journal)s),
    (SELECT max(number) FROM trio_cancel.session WHERE journal = %(journal)s))
"""


def forget(cursor: psycopg.Cursor[Any], journal: int, before: int, most: int) -> int:
    """Forget what was settled before a time (Unix microseconds); return how many records.

    The rules are those of ``_journal.sqlite``; who calls it keeps everybody else from writing the journal meanwhile.

    Args:
        cursor: in a transaction.
        journal: its number in the database.
        before: what was written, settled or answered after this stays.
        most: look at so many of the oldest records at most.
    """
    values: dict[str, Any] = {"journal": journal, "before": before, "most": most}
    first = cursor.execute(_FIRST, values).fetchone()
    if first is None or first[0] is None or first[0] >= before:
        return 0
    numbers = [number for (number,) in cursor.execute(_OLDEST, values)]
    newest = cursor.execute(_LAST, values).fetchone()
    assert newest is not None
    values["upto"] = min(numbers[-1], newest[0] - 1)  # the newest one keeps the count
    for statement in _COMPACT:
        cursor.execute(statement, values)
    found = cursor.execute("SELECT count(*) FROM pg_temp.gone").fetchone()
    count = 0 if found is None else int(found[0])
    if count:
        for number, at in cursor.execute(_ALIVE, values).fetchall():
            cursor.execute(
                "UPDATE trio_cancel.session SET alive = greatest(alive, %s) WHERE journal = %s AND number = %s",
                (at, journal, number),
            )
        cursor.execute(
            "DELETE FROM trio_cancel.name WHERE journal = %s AND hold IN (SELECT number FROM pg_temp.gone)", (journal,)
        )
        for table, (_, by) in COLUMNS.items():
            gone = f"DELETE FROM trio_cancel.{table} WHERE journal = %s AND {by} IN (SELECT number FROM pg_temp.gone)"
            cursor.execute(gone, (journal,))
        cursor.execute(_EMPTY_SESSIONS, values)
    return count
