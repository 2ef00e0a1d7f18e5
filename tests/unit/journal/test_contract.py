"""What every kind of store keeps, in a file or a database: its rows, its refusals, what it says was left."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.tools.journals import ACCOUNT
from trio_cancel import Credentials, JournalError
from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.rows import Changes, HoldRow
from trio_cancel._journal.store import Account, JournalStore, StoreFailed
from trio_cancel._journal.stores import compact, is_written, open_store, read_tables
from trio_cancel.journal import JournalOrder, read_journal
from trio_cancel.types import Attempt

SECOND = 1_000_000
DAY = 86_400_000_000


@attrs.frozen
class Place:
    """Somewhere a journal can be kept.

    Attributes:
        address: of a journal that is not there yet.
        shown: the address as messages have it.
        dump: returns all that is stored, for what must not be in it.
    """

    address: str
    shown: str
    dump: Callable[[], bytes]

    def open(self, prefix: str = "a", now: int = 5 * SECOND, account: Account = ACCOUNT) -> JournalStore:
        return open_store(self.address, account, prefix, now)

    def write(self, changes: Changes, now: int = 0) -> JournalStore:
        """Commit in a session of its own, which is left open."""
        store = self.open("p", now)
        store.commit(changes)
        return store


@pytest.fixture(params=["sqlite", pytest.param("postgres", id="a_server")])  # mutants are tried without a server
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        path = tmp_path / "the.journal"
        return Place(str(path), str(path), lambda: b"".join(file.read_bytes() for file in tmp_path.iterdir()))
    database = request.getfixturevalue("database")
    tables = [name for (name,) in database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'trio_cancel'")]
    shown = f"postgresql://127.0.0.1:{database.cluster.port}/{database.name}?journal=the"
    return Place(
        database.url("the"),
        shown,
        lambda: repr([database.execute(f"SELECT * FROM trio_cancel.{table}") for table in tables]).encode(),
    )


def some(at: int = 0) -> Changes:
    """A row for each table: a hold that was released, one that was not, a cancel that told, and an open one."""
    return Changes(
        holds=[(1, 1, 1, "gone", at, 1, 2), (2, 1, 1, "held", at, None, None)],
        placed=[(1, at, "venue-id")],
        releases=[(1, at)],
        intents=[(3, 1, 0, "told", at), (4, 1, 0, "open", at), (5, 1, 0, "answered", at)],
        attempts=[(1, 3, 1, at, at, 200), (2, 4, 1, at, None, None)],
        outcomes=[(3, "canceled", at, None)],
        answers=[(3, 5, 1, at, at, 200, "canceled", None)],
        alive=at + 5,
    )


# What is kept


def test_a_second_session_goes_on_where_the_first_one_ended(place: Place) -> None:
    store = place.open()
    assert (store.begun.session, store.begun.number, store.begun.attempt) == (1, 1, 0)
    store.commit(
        Changes(
            intents=[(2, 1, 0, "x", 6 * SECOND)],
            holds=[(1, 1, 1, "y", 6 * SECOND, None, None)],
            attempts=[(7, 2, 1, 7 * SECOND, None, None)],
        )
    )
    store.close()
    store = place.open("b")
    assert (store.begun.session, store.begun.number, store.begun.attempt) == (2, 3, 7)
    store.commit(
        Changes(attempts=[(8, 2, 1, 8 * SECOND, 9 * SECOND, 200)], outcomes=[(2, "canceled", 9 * SECOND, None)])
    )
    store.close()
    contents = read_journal(place.address)
    assert contents.url == "ws://localhost"
    held, canceled = contents.orders
    assert (held.request.external_id, held.holds[0].held_at, held.held, held.left) == ("y", 6.0, True, True)
    (cancel,) = canceled.cancels
    assert (cancel.kind, cancel.settled_at, canceled.left) == ("canceled", 9.0, False)
    first, second = cancel.attempts
    assert (first.request_id, first.answered_at, first.status) == ("a-7", None, None)
    assert (second.answered_at, second.status) == (9.0, 200)


def test_an_answer_is_an_attempt_and_an_outcome(place: Place) -> None:
    store = place.open()
    store.commit(
        Changes(
            intents=[(number, 1, 0, f"o{number}", 6 * SECOND) for number in range(1, 300)],
            attempts=[(7, 1, 1, 7 * SECOND, None, None)],  # it took so long that it was recorded as open before
        )
    )
    store.commit(
        Changes(
            answers=[
                (6 + number, number, 1, 7 * SECOND, 8 * SECOND, 400, "already_closed", 40408)
                for number in range(1, 300)
            ]
        )
    )
    store.close()
    for order in read_journal(place.address).orders:
        (cancel,) = order.cancels
        assert (cancel.kind, cancel.settled_at, cancel.error_code, order.left) == ("already_closed", 8.0, 40408, False)
        (attempt,) = cancel.attempts
        assert attempt == Attempt(f"a-{6 + cancel.number}", 7.0, 8.0, 400)
    store = place.open("b")
    assert store.begun.attempt == 305  # numbers of requests go on behind it
    store.close()


def test_a_sessions_signs_of_life(place: Place) -> None:
    store = place.open()
    store.commit(Changes(alive=7 * SECOND))
    (session,) = read_journal(place.address).sessions
    assert (session.opened_at, session.alive_at, session.closed_at) == (5.0, 7.0, None)
    store.commit(Changes(closed=8 * SECOND))
    store.close()
    (session,) = read_journal(place.address).sessions
    assert (session.alive_at, session.closed_at) == (8.0, 8.0)


def test_it_is_read_while_it_is_being_written(place: Place) -> None:
    store = place.open()
    assert is_written(place.address)
    assert read_journal(place.address).orders == ()
    store.commit(Changes(holds=[(1, 1, 0, "x", 6 * SECOND, None, None)]))
    (order,) = read_journal(place.address).left
    assert order.request.id == "x"
    store.commit(Changes(releases=[(1, 7 * SECOND)]))
    assert read_journal(place.address).left == ()
    store.close()
    assert not is_written(place.address)


def test_a_group_is_written_whole_or_not_at_all(place: Place) -> None:
    store = place.open()
    with pytest.raises(StoreFailed, match=r"NOT NULL|not-null"):
        store.commit(Changes(intents=[(1, 1, 0, "x", 1)], outcomes=[(1, None, 1, None)]))  # type: ignore[list-item]  # NOT NULL
    with pytest.raises(StoreFailed):
        store.commit(Changes(intents=[(1, 1, 0, "x", 1)], attempts=[(2**70, 1, 1, 1, None, None)]))
    assert read_journal(place.address).orders == ()
    store.commit(Changes(intents=[(1, 1, 0, "x", 1)]))
    store.close()
    assert len(read_journal(place.address).orders) == 1


def test_what_was_committed_may_be_committed_again(place: Place) -> None:
    """The end of a commit may be in doubt: what was in it comes again, with what has come up since."""
    store = place.open()
    changes = Changes(
        intents=[(1, 1, 0, "x", 1), (3, 1, 0, "z", 1)],
        holds=[(2, 1, 0, "x", 1, None, None)],
        placed=[(2, 1, None)],
        releases=[(2, 2)],
        attempts=[(1, 3, 1, 1, None, None)],
        outcomes=[(1, "canceled", 1, None)],
    )
    store.commit(changes)
    store.commit(changes)
    store.commit(changes.before(Changes(placed=[(2, 2, "id")], attempts=[(1, 3, 1, 1, 2, 200)])))
    store.close()
    tables = read_tables(place.address)
    assert tables.placed == [(2, 2, "id")]
    assert tables.attempts == [(1, 3, 1, 1, 2, 200)]
    assert len(contents_of(tables).orders) == 2


@pytest.mark.parametrize(
    "key",
    [
        'a"b',
        "a\\b",
        "{a,b}",
        "NULL",
        "null",
        " ",
        "a\0b",
        "\x1a0",
        "\0\x1a1",
        "é€😀",
        "%s %(key)s",
        "'; DROP TABLE x; --",
    ],
)
def test_a_name_comes_back_as_it_was(place: Place, key: str) -> None:
    store = place.open()
    store.commit(Changes(holds=[(1, 1, 1, key, 1, None, None)], placed=[(1, 1, key)], intents=[(2, 1, 1, key, 1)]))
    store.close()
    tables = read_tables(place.address)
    assert (tables.holds[0][3], tables.placed[0][2], tables.intents[0][3]) == (key, key, key)


def test_nothing_secret_is_kept(place: Place) -> None:
    place.write(some()).close()
    found = place.dump()
    assert ACCOUNT.credentials.api_token.encode() not in found
    assert ACCOUNT.credentials.api_secret.encode() not in found
    assert b"venue-id" in found


def test_every_row_comes_back(place: Place) -> None:
    store = place.write(some())
    store.commit(Changes(closed=9))
    store.close()
    tables = read_tables(place.address)
    assert tables.holds == [(1, 1, 1, "gone", 0, 1, 2), (2, 1, 1, "held", 0, None, None)]
    assert tables.placed == [(1, 0, "venue-id")]
    assert tables.releases == [(1, 0)]
    assert [row[0] for row in tables.intents] == [3, 4, 5]
    (session,) = tables.sessions
    assert (session.alive, session.closed, session.prefix) == (5, 9, "p")
    again = place.open("q", 1)
    assert (again.begun.session, again.begun.number, again.begun.attempt) == (2, 6, 3)
    assert again.begun.left is not None
    assert {order.request.key for order in contents_of(again.begun.left).left} == {"held", "open"}
    again.close()


def test_a_journal_of_which_nothing_is_left_says_so_at_once(place: Place) -> None:
    place.write(Changes(holds=[(1, 1, 1, "gone", 0, None, None)], releases=[(1, 0)])).close()
    again = place.open("q", 1)
    assert again.begun.left is None
    again.close()


# Refusals


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials("another-token", ACCOUNT.credentials.api_secret),
        Credentials(ACCOUNT.credentials.api_token, "another-secret"),
    ],
)
def test_another_account_is_refused(place: Place, credentials: Credentials) -> None:
    place.open().close()
    with pytest.raises(JournalError, match="belongs to another account; use the credentials") as caught:
        place.open(account=Account(ACCOUNT.url, credentials))
    assert place.shown in str(caught.value)
    place.open().close()


def test_another_venue_is_refused(place: Place) -> None:
    place.open().close()
    with pytest.raises(JournalError, match=r"belongs to ws://localhost, not wss://venue\.example"):
        place.open(account=Account("wss://venue.example", ACCOUNT.credentials))


def test_one_session_writes_at_a_time(place: Place) -> None:
    store = place.open()
    beats = _beating(store)
    with pytest.raises(JournalError, match="is being written by another session; end that one first") as caught, beats:
        place.open()
    assert place.shown in str(caught.value)
    store.close()
    place.open().close()


def test_a_journal_that_is_written_is_not_compacted(place: Place) -> None:
    store = place.write(some())
    with pytest.raises(JournalError, match=r"being written"), _beating(store):
        compact(place.address, DAY)
    store.close()
    assert compact(place.address, DAY) == 2


def test_there_is_nothing_to_read_where_there_is_no_journal(place: Place) -> None:
    with pytest.raises(JournalError, match=r"^There is no journal ") as caught:
        read_tables(place.address)
    assert place.shown in str(caught.value)
    with pytest.raises(JournalError, match=r"^There is no journal "):
        compact(place.address, 0)


# What is forgotten


def test_what_was_settled_before_a_time_goes_and_the_rest_stays(place: Place) -> None:
    place.write(some()).close()
    place.write(Changes(holds=[(6, 2, 1, "late", 3 * DAY, None, None)], releases=[(6, 3 * DAY)]), 2 * DAY).close()
    assert compact(place.address, 0) == 0
    assert compact(place.address, DAY) == 3  # a hold and two cancels
    tables = read_tables(place.address)
    assert [row[0] for row in tables.holds] == [2, 6]
    assert [row[0] for row in tables.intents] == [4]
    assert tables.releases == [(6, 3 * DAY)]
    assert tables.placed == []
    assert [session.number for session in tables.sessions] == [1, 2]
    assert compact(place.address, DAY) == 0
    assert [row[1] for row in tables.attempts] == [4]
    assert tables.outcomes == []


def test_the_newest_record_keeps_the_count_and_empty_sessions_go(place: Place) -> None:
    for number in range(3):
        held: list[HoldRow] = [(number + 1, number + 1, 1, f"n{number}", number, None, None)]
        place.write(Changes(holds=held, releases=[(number + 1, number)]), number).close()
    assert compact(place.address, DAY) == 2
    tables = read_tables(place.address)
    assert [row[0] for row in tables.holds] == [3]
    assert [session.number for session in tables.sessions] == [3]
    again = place.open("q", 9)
    assert (again.begun.session, again.begun.number) == (4, 4)
    again.close()


def test_opening_forgets_what_is_older_than_a_month(place: Place) -> None:
    place.write(Changes(holds=[(1, 1, 1, "a", 0, None, None)], releases=[(1, 0)])).close()
    place.write(Changes(holds=[(2, 2, 1, "b", DAY, None, None)], releases=[(2, DAY)]), DAY).close()
    place.open("q", 30 * DAY).close()
    assert len(read_tables(place.address).holds) == 2
    place.open("q", 30 * DAY + 1).close()
    assert [row[0] for row in read_tables(place.address).holds] == [2]


@pytest.mark.parametrize("seed", range(150))
def test_opening_and_compacting_find_what_reading_it_all_finds(seed: int, tmp_path: Path) -> None:
    check_what_is_found(seed, str(tmp_path / "j"))


def test_opening_and_compacting_find_the_same_on_a_server(database: Any) -> None:
    for seed in range(25):
        check_what_is_found(seed, database.url(f"j{seed}"))


def check_what_is_found(seed: int, address: str) -> None:
    """On journals of any kind, some rows tell as much as all of them, and so does what is left of a compacted one."""
    rng = random.Random(seed)
    keys = [(1, "mm-1"), (1, "mm-2"), (1, "ABC"), (0, "ABC"), (0, "abc"), (0, "X-É"), (0, "x-É"), (0, "y"), (1, "z")]
    left: list[tuple[Any, ...]] = []
    for life in range(5):
        at = life * 1000 - rng.choice((0, 0, 3000))  # the clock may be set back
        store = open_store(address, ACCOUNT, f"s{life}", at)
        begun = store.begun
        assert left == ([] if begun.left is None else essence(contents_of(begun.left).left))
        number, attempt = begun.number, begun.attempt + 1
        changes = Changes()
        for _ in range(rng.randrange(8)):
            external, key = rng.choice(keys)
            now = at + rng.randrange(900)
            if rng.random() < 0.5:
                changes.holds.append((number, begun.session, external, key, now, None, None))
                if rng.random() < 0.6:
                    changes.placed.append((number, now, rng.choice(("abc", "Y", "x-É", None))))
                if rng.random() < 0.6:
                    changes.releases.append((number, now + rng.randrange(900)))
            else:
                changes.intents.append((number, begun.session, external, key, now))
                kind = rng.choice(
                    (None, "unknown", "rejected", "not_found", "canceled", "dismissed", "answer", "answer")
                )
                if kind == "answer":
                    changes.answers.append((attempt, number, 1, now, now, 200, "already_closed", None))
                elif kind is not None:
                    changes.outcomes.append((number, kind, now + rng.randrange(2000), None))
                    changes.attempts.append((attempt, number, 1, now, None, None))
                attempt += 1
            number += 1
        store.commit(changes)
        store.close()
        before = read_tables(address)
        contents = contents_of(before)
        left = essence(contents.left)
        cutoff = rng.choice((life * 1000, life * 500, 10_000_000, -10_000))
        gone = compact(address, cutoff)
        after = read_tables(address)
        assert essence(contents_of(after).left) == left
        kept = {row[0] for row in (*after.holds, *after.intents)}
        assert gone == len(before.holds) + len(before.intents) - len(kept)
        assert not {row[2] for row in after.attempts} - {row[2] for row in before.attempts}
        for table, column in ((after.releases, 0), (after.placed, 0), (after.attempts, 1), (after.outcomes, 0)):
            assert {row[column] for row in table} <= kept, "nothing of what has gone is kept"
        for row in before.holds:
            assert row[4] < cutoff or row[0] in kept, "what is younger is kept"
        if before.holds or before.intents:
            assert max([row[0] for row in before.holds] + [row[0] for row in before.intents]) in kept, (
                "the count goes on"
            )
        used = {row[1] for row in after.holds} | {row[1] for row in after.intents}
        assert used <= {session.number for session in after.sessions}


def essence(left: tuple[JournalOrder, ...]) -> list[tuple[Any, ...]]:
    """What a resume goes by."""
    return [(order.request, order.open_holds, order.unsettled, order.known_at, order.meant) for order in left]


class _beating:  # noqa: N801 - used as a function
    """A session says that it lives for as long as the block lasts."""

    def __init__(self, store: JournalStore) -> None:
        self._store = store
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.wait(0.05):
            self._store.commit(Changes())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
