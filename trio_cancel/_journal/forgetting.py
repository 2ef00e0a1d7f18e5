"""What a journal can forget of what was settled long ago, in SQL for both an SQLite file and a PostgreSQL database.

A record is a hold with its release, or a cancel with its attempts and its outcome. All records of a name of which
anything may be left stay, and so do those of the venue's ids that the name had. Of any other name every hold has ended
and every cancel has an answer, so each of its records can go without the others. The exception is a cancel without an
outcome, for which a later one told: it goes with all records of its name, or stays. What decides how old a name is
stays as well: a session goes only together with all sessions before it, since the later ones limit what it can have
known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, LiteralString, TypeAlias

Execute: TypeAlias = "Callable[[LiteralString, Mapping[str, Any]], list[Any]]"
"""Runs a statement with its values; returns its rows, if it has any."""
RECORDS: Mapping[LiteralString, LiteralString] = {
    "hold": "number",
    "placed": "hold",
    "release": "hold",
    "intent": "number",
    "attempt": "intent",
    "outcome": "intent",
    "answer": "intent",
}
"""The tables that records are in, each with its column for the number of the hold or intent."""
_NAME: LiteralString = "CASE external WHEN 1 THEN key ELSE lower(key) END"


def words(
    *, table: LiteralString, value: LiteralString, schema: LiteralString, temp: LiteralString, whose: LiteralString
) -> dict[str, LiteralString]:
    """Return what one kind of database has for the words in braces in the statements here.

    Args:
        table: for a table ``{}``, as far as it is this journal's.
        value: for a value ``{}``.
        schema: where the tables are.
        temp: where temporary tables are: ``open_name``, the names of which something may be left; ``unsettled``, those
            with a cancel without an outcome; ``gone``, the numbers of the records that can go.
        whose: the condition for the rows of this journal.
    """
    named: LiteralString = f"(external, {_NAME})"
    return {
        **{name: table.format(name) for name in (*RECORDS, "session")},
        **{name: value.format(name) for name in ("before", "most", "upto", "number", "at")},
        "schema": schema,
        "temp": temp,
        "whose": whose,
        "name": _NAME,  # as `canonical_id` compares the venue's ids; the columns of a database have the collation "C"
        "named": named,
        "told": "('canceled', 'already_closed', 'not_found', 'dismissed')",  # as in `_journal.reading`
        "is_settled": f"{named} NOT IN (SELECT external, key FROM {temp}.open_name)",
        "is_unsettled": f"{named} IN (SELECT external, key FROM {temp}.unsettled)",
    }


ALIVE: LiteralString = """
SELECT session, max(at) FROM (
    SELECT session, held AS at FROM {hold} UNION ALL SELECT session, intended FROM {intent}
    UNION ALL SELECT session, settled FROM {outcome} JOIN {intent} ON intent.number = outcome.intent
    UNION ALL SELECT session, answered FROM {answer} JOIN {intent} ON intent.number = answer.intent
) AS signs GROUP BY session
"""
"""What a session wrote last is a sign of life, too."""
ADD_IDS: LiteralString = """
INSERT INTO {temp}.open_name SELECT 0, lower(placed.id) FROM {hold} JOIN {placed} ON placed.hold = hold.number
WHERE placed.id IS NOT NULL AND {named} IN (SELECT external, key FROM {temp}.open_name) ON CONFLICT DO NOTHING
"""
"""Adds the venue's ids that such a name had: what is known of them stays as well."""
_FIRST: LiteralString = """
SELECT min(at) FROM (
    SELECT at FROM (SELECT held AS at FROM {hold} ORDER BY number LIMIT 1) AS first_hold
    UNION ALL SELECT at FROM (SELECT intended AS at FROM {intent} ORDER BY number LIMIT 1) AS first_intent
) AS firsts
"""
_OLDEST: LiteralString = """
SELECT max(number) FROM (
    SELECT number FROM {hold} UNION ALL SELECT number FROM {intent} ORDER BY number LIMIT {most}
) AS oldest
"""
_NEWEST: LiteralString = """
SELECT max(number) FROM (SELECT max(number) AS number FROM {hold} UNION ALL SELECT max(number) FROM {intent}) AS newest
"""
_KEEP_YOUNG: LiteralString = """
INSERT INTO {{temp}}.open_name SELECT external, {{name}} FROM {} AND {{is_unsettled}} ON CONFLICT DO NOTHING
"""
_FIND: tuple[LiteralString, ...] = (
    ADD_IDS,
    _KEEP_YOUNG.format("{intent} WHERE (number > {upto} OR intended >= {before})"),
    _KEEP_YOUNG.format("{intent} JOIN {outcome} ON outcome.intent = intent.number WHERE settled >= {before}"),
    _KEEP_YOUNG.format("{intent} JOIN {answer} ON answer.intent = intent.number WHERE answered >= {before}"),
    _KEEP_YOUNG.format("{hold} WHERE (number > {upto} OR held >= {before})"),
    _KEEP_YOUNG.format("{hold} JOIN {release} ON release.hold = hold.number WHERE released >= {before}"),
    """INSERT INTO {temp}.gone SELECT number FROM {hold} JOIN {release} ON release.hold = hold.number
       WHERE number <= {upto} AND held < {before} AND released < {before} AND {is_settled}
       AND NOT EXISTS (SELECT 1 FROM {placed} WHERE placed.hold = hold.number AND told >= {before})
       ON CONFLICT DO NOTHING""",
    """INSERT INTO {temp}.gone SELECT intent.number FROM {intent} JOIN {outcome} ON outcome.intent = intent.number
       WHERE intent.number <= {upto} AND intended < {before} AND settled < {before} AND {is_settled}
       ON CONFLICT DO NOTHING""",
    """INSERT INTO {temp}.gone SELECT intent.number FROM {intent} JOIN {answer} ON answer.intent = intent.number
       WHERE intent.number <= {upto} AND intended < {before} AND answered < {before} AND {is_settled}
       ON CONFLICT DO NOTHING""",
    """INSERT INTO {temp}.gone SELECT number FROM {intent}
       WHERE number <= {upto} AND {is_settled} AND {is_unsettled} ON CONFLICT DO NOTHING""",
)
"""Finds what can go: every record that is older, of names of which nothing is left."""
_NOTE_ALIVE: LiteralString = """
UPDATE {schema}.session SET alive = {at} WHERE {whose} AND number = {number} AND alive < {at}
"""
_FORGET_SESSIONS: LiteralString = """
DELETE FROM {schema}.session
WHERE {whose} AND opened < {before} AND alive < {before} AND coalesce(closed, 0) < {before} AND number < (
    SELECT min(number) FROM (
        SELECT min(session) AS number FROM {hold} UNION ALL SELECT min(session) FROM {intent}
        UNION ALL SELECT max(number) FROM {session}
    ) AS kept
)
"""


def forget(
    execute: Execute,
    words: Mapping[str, LiteralString],
    values: Mapping[str, Any],
    prepare: tuple[LiteralString, ...] = (),
) -> int:
    """Forget what was settled long ago, in a transaction during which nobody else writes; return how many records.

    Args:
        execute: runs a statement in the transaction.
        words: what :func:`words` returned.
        values: ``before`` (Unix microseconds: what was written, settled or answered after this stays), ``most`` (how
            many of the oldest records are looked at, at most), and what the words need.
        prepare: makes and fills the temporary tables, unless they are there already.
    """

    def rows(statement: LiteralString, **more: int) -> list[Any]:
        return execute(statement.format(**words), {**values, **more})

    ((first,),) = rows(_FIRST)
    if first is None or first >= values["before"]:
        return 0
    for statement in prepare:
        rows(statement)
    ((last,),) = rows(_OLDEST)
    ((newest,),) = rows(_NEWEST)
    for statement in _FIND:
        rows(statement, upto=min(last, newest - 1))  # the newest one keeps the count
    ((count,),) = rows("SELECT count(*) FROM {temp}.gone")
    if count:
        for number, at in rows(ALIVE):
            rows(_NOTE_ALIVE, number=number, at=at)
        for table, column in RECORDS.items():
            gone = f"{column} IN (SELECT number FROM {{temp}}.gone)"
            rows(f"DELETE FROM {{schema}}.{table} WHERE {{whose}} AND {gone}")
        rows(_FORGET_SESSIONS)
    return int(count)
