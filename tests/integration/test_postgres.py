"""Journals in real PostgreSQL databases: what a commit promises, what ends a wait, who may write, what is told."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
import trio.testing
import trustme

from tests.tools.journals import ACCOUNT
from tests.tools.postgres import ADMIN, ADMIN_PASSWORD, Cluster, Database, a_cluster, all_binaries, tls_front
from trio_cancel import JournalError, TakenOver
from trio_cancel._journal import postgres as pg
from trio_cancel._journal.address import server_of
from trio_cancel._journal.database import connect, settings_of
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.schema import VERSION
from trio_cancel._journal.store import StoreFailed
from trio_cancel._journal.stores import open_store, read_tables

NOW = 5_000_000


def hold(number: int, name: str | None = None) -> Changes:
    return Changes(holds=[(number, 1, 1, name or f"mm-{number}", NOW, None, None)])


def open_it(address: str, lease: float = 3.0) -> pg.PostgresStore:
    store = open_store(address, ACCOUNT, "a", NOW, lease=lease)
    assert isinstance(store, pg.PostgresStore)
    return store


Commit = Callable[[pg.PostgresStore, Changes], int | None]


def commit_in_loop(store: pg.PostgresStore, changes: Changes) -> int | None:
    """Commit in an event loop, as a journal's task does it; a thread makes the connection."""
    store._shared._loop = None  # each call has a loop of its own
    try:
        return trio.run(store.commit_in_loop, changes)
    except trio.WouldBlock:
        return store.commit(changes)


@pytest.fixture(params=["thread", "loop"])
def commit(request: pytest.FixtureRequest) -> Commit:
    """The ways to commit."""
    return commit_in_loop if request.param == "loop" else pg.PostgresStore.commit


def take(database: Database, journal: str) -> None:
    """Take a journal over, as a guard would: whatever its session does from now on is refused."""
    database.execute(f"UPDATE trio_cancel.journal SET epoch = epoch + 1, beat = beat + 1 WHERE name = '{journal}'")


def held(address: str) -> list[str]:
    return [row[3] for row in read_tables(address).holds]


class Background:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # noqa: ASYNC103 - a thread's: the test looks at it
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(30)
        assert self.ended


def until(condition: Callable[[], Any]) -> None:
    """Wait for what another process does."""
    ends_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


@pytest.fixture(params=list(all_binaries()) or ["none"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    """A server of the test's own, of each version that there is."""
    with a_cluster(all_binaries().get(request.param)) as cluster:
        yield cluster


# Who may write


def test_nothing_of_an_old_session_is_recorded_after_a_take_over(database: Database, commit: Commit) -> None:
    store = open_it(database.url("a"))
    store.commit(hold(1))
    take(database, "a")
    for _ in range(2):
        with pytest.raises(
            TakenOver, match=r"^The journal postgresql://127\.0\.0\.1:\d+/test_\d+\?journal=a was taken"
        ):
            commit(store, hold(2))
    assert held(database.url("a")) == ["mm-1"]
    ((beat, state),) = database.execute("SELECT beat, state FROM trio_cancel.journal")
    store.close()
    assert database.execute("SELECT beat, state FROM trio_cancel.journal") == [(beat, state)], "it lets go of nothing"
    ((said,),) = database.execute("SELECT acknowledged IS NOT NULL FROM trio_cancel.session WHERE number = 1")
    assert said


def test_one_that_is_taken_over_does_not_hold_up_the_others_of_its_process(database: Database) -> None:
    stores = [open_it(database.url(name)) for name in "abc"]
    take(database, "b")
    entries = [pg._Entry(store.journal, 1, hold(1)) for store in stores]
    stores[0]._shared._waiting.extend(entries[1:])  # as if their threads had been there a moment before
    stores[0]._shared.commit(entries[0], 2.0)
    assert [type(entry.error) for entry in entries] == [type(None), TakenOver, type(None)]
    assert [held(database.url(name)) for name in "abc"] == [["mm-1"], [], ["mm-1"]]
    for store in stores:
        store.close()


def test_one_that_cannot_be_written_does_not_hold_up_the_others_of_its_process(database: Database) -> None:
    stores = [open_it(database.url(name)) for name in "ab"]
    wrong = pg._Entry(stores[1].journal, 1, hold(2**70))
    stores[0]._shared._waiting.append(wrong)
    stores[0].commit(hold(1))
    assert isinstance(wrong.error, StoreFailed)
    assert held(database.url("a")) == ["mm-1"]
    for store in stores:
        store.close()


def test_sessions_of_a_process_share_a_connection(database: Database) -> None:
    def connections() -> int:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.name}' AND usename = 'bot'"
        return int(database.cluster.execute(query)[0][0])

    stores = [open_it(database.url(f"j{number}")) for number in range(5)]
    commits = [Background(lambda store=store: [store.commit(Changes()) for _ in range(20)]) for store in stores]  # type: ignore[misc] # bound now
    for commit in commits:
        commit.wait()
    assert [commit.error for commit in commits] == [None] * 5
    assert connections() == 1
    beats = database.execute("SELECT min(beat), max(beat) FROM trio_cancel.journal")
    assert beats == [(21, 21)]
    for store in stores:
        store.close()
    until(lambda: connections() == 0)


def test_a_take_over_sees_what_was_committed_while_it_waited(database: Database) -> None:
    """It has to wait for the journal's row; a snapshot from before would lack the hold."""
    open_it(database.url("a")).close()
    admin = server_of(database.url(user=ADMIN, password=ADMIN_PASSWORD))
    assert admin is not None
    old = open_it(database.url("a"))
    connection = connect(admin, 20.0)
    other = connect(admin, 20.0)
    with other.transaction() as cursor:
        row = pg._look(cursor, old.journal)
    with connection.transaction() as cursor:  # the old session's commit, not at its end yet
        cursor.execute("UPDATE trio_cancel.journal SET seen = now() WHERE id = %s", (old.journal,))
        cursor.execute(
            "INSERT INTO trio_cancel.hold (journal, number, session, external, key, held) VALUES (%s, 1, 2, 1, 'x', 1)",
            (old.journal,),
        )
        found: list[Any] = []

        def take_it() -> None:
            with other.transaction() as cursor:
                found.append(pg._take(cursor, row, "b", NOW, 3.0))

        taker = Background(take_it)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: database.execute(waits) == [(1,)])
    taker.wait()
    assert taker.error is None
    (begun,) = found
    assert begun.left is not None
    assert [row[3] for row in begun.left.holds] == ["x"]
    connection.close()
    other.close()
    old.close()


def test_the_session_of_a_dead_process_is_succeeded_after_its_lease(database: Database) -> None:
    dead = open_it(database.url("a"), lease=1.0)
    dead.commit(hold(1))
    began = time.monotonic()
    successor = open_it(database.url("a"))
    assert time.monotonic() - began >= 1.0
    assert successor.begun.session == 2
    assert successor.begun.left is not None
    with pytest.raises(TakenOver):
        dead.commit(hold(2))
    successor.close()


def test_an_external_id_is_the_last_ones_that_added_it(database: Database) -> None:
    first, second = open_it(database.url("a")), open_it(database.url("b"))
    first.commit(hold(1, "mm-1"))
    whose = "SELECT journal, hold FROM trio_cancel.name WHERE key = 'mm-1'"
    assert database.execute(whose) == [(first.journal, 1)]
    second.commit(hold(7, "mm-1"))
    assert database.execute(whose) == [(second.journal, 7)]
    first.commit(hold(1, "mm-1"))
    assert database.execute(whose) == [(second.journal, 7)], "a commit that is made again takes nothing back"
    second.commit(Changes(holds=[(number, 1, 1, "mm-1", NOW, None, None) for number in (9, 8)]))
    assert database.execute(whose) == [(second.journal, 9)]
    first.commit(Changes(holds=[(2, 1, 0, "mm-2", NOW, None, None)]))
    assert database.execute("SELECT count(*) FROM trio_cancel.name") == [(1,)], (
        "the venue's ids are nobody's to use again"
    )
    first.close()
    second.close()


def test_a_commit_tells_what_the_guards_of_its_account_do(database: Database, commit: Commit) -> None:
    store = open_it(database.url("a"))
    assert store.commit(Changes()) is None
    database.execute(
        "INSERT INTO trio_cancel.guard (name, beat) VALUES ('one', 3), ('two', 4), ('another', 100)",
        "INSERT INTO trio_cancel.guard_account SELECT id, 1 FROM trio_cancel.guard WHERE name <> 'another'",
    )
    assert commit(store, hold(1)) == 7
    database.execute("UPDATE trio_cancel.guard SET beat = beat + 1 WHERE name = 'two'")
    assert commit(store, Changes()) == 8
    store.close()


# In the event loop


async def test_a_thread_connects_and_the_loop_goes_on(database: Database) -> None:
    store = open_it(database.url("a"))
    with pytest.raises(trio.WouldBlock):
        await store.commit_in_loop(hold(1))
    await trio.to_thread.run_sync(store.commit, hold(1))
    with trio.testing.assert_checkpoints():
        await store.commit_in_loop(hold(2))
    await store.commit_in_loop(Changes(closed=NOW, intents=[(n, 1, 1, f"mm-{n}", NOW) for n in range(3, 3_000)]))
    tables = read_tables(database.url("a"))
    assert [row[3] for row in tables.holds] == ["mm-1", "mm-2"]
    assert len(tables.intents) == 2_997
    assert tables.sessions[0].closed == NOW
    store.close()


async def test_what_the_database_does_not_take_leaves_a_connection_that_can_be_used(database: Database) -> None:
    store = open_it(database.url("a"))
    store.commit(Changes())
    connection = store._shared._connection
    for wrong in (hold(2**70), Changes(holds=[(1, 1, 1, "x", "not a time", None, None)])):  # type: ignore[list-item]
        with pytest.raises(StoreFailed):
            await store.commit_in_loop(wrong)
    await store.commit_in_loop(hold(1))
    assert store._shared._connection is connection
    assert held(database.url("a")) == ["mm-1"]
    store.close()


@pytest.fixture
async def paused(database: Database) -> AsyncGenerator[tuple[pg.PostgresStore, pg.PostgresStore]]:
    """Two sessions of one process whose database stands still; whoever wants it to go on says so."""
    first, second = (open_it(database.url(name)) for name in "ab")
    first.commit(Changes())
    database.cluster.pause()
    try:
        yield first, second
    finally:
        database.cluster.go_on()
    first.close()
    second.close()


async def test_while_a_thread_has_the_connection_the_loop_does_not_wait_for_it(
    database: Database, paused: tuple[pg.PostgresStore, pg.PostgresStore]
) -> None:
    first, second = paused
    commit = Background(lambda: first.commit(hold(1)))
    until(lambda: first._shared._turn.locked())
    with pytest.raises(trio.WouldBlock):
        await second.commit_in_loop(hold(1))
    database.cluster.go_on()
    commit.wait()
    assert commit.error is None
    await second.commit_in_loop(hold(1))
    assert held(database.url("b")) == ["mm-1"]


async def test_a_thread_waits_for_the_loop_and_is_next(
    database: Database, paused: tuple[pg.PostgresStore, pg.PostgresStore], nursery: trio.Nursery
) -> None:
    first, second = paused
    nursery.start_soon(first.commit_in_loop, hold(1))
    await trio.testing.wait_all_tasks_blocked()
    commit = Background(lambda: second.commit(hold(1)))
    until(lambda: second._shared._waiting)
    assert not commit.ended
    database.cluster.go_on()
    await trio.to_thread.run_sync(commit.wait)
    assert commit.error is None
    assert [held(database.url(name)) for name in "ab"] == [["mm-1"], ["mm-1"]]


async def test_one_who_is_cancelled_leaves_nothing_to_the_next_one(
    database: Database, paused: tuple[pg.PostgresStore, pg.PostgresStore], nursery: trio.Nursery
) -> None:
    """The answer to what was sent may still come; nobody is to take it for the answer to something else."""
    first, second = paused
    scope = trio.CancelScope()

    async def commit_and_be_cancelled() -> None:
        with scope:
            await first.commit_in_loop(hold(1))

    nursery.start_soon(commit_and_be_cancelled)
    await trio.testing.wait_all_tasks_blocked()
    commit = Background(lambda: second.commit(hold(1)))
    until(lambda: second._shared._waiting)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    database.cluster.go_on()
    await trio.to_thread.run_sync(commit.wait)
    assert commit.error is None
    assert await first.commit_in_loop(hold(1)) is None
    assert [held(database.url(name)) for name in "ab"] == [["mm-1"], ["mm-1"]]


async def test_a_loop_that_stood_still_finds_the_answer_that_has_come(database: Database) -> None:
    """Its time is over by then, but nothing is in doubt."""
    store = open_it(database.url("a"), lease=1.0)
    store.commit(Changes())

    async def stand_still() -> None:
        time.sleep(1.0)  # noqa: ASYNC251 - as a program does that blocks its loop

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.commit_in_loop, hold(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(stand_still)
    assert held(database.url("a")) == ["mm-1"]
    store.close()


def test_with_several_loops_threads_commit(database: Database) -> None:
    """One that stands still in the middle is not to hold up the sessions of the others."""
    store = open_it(database.url("a"))
    store.commit(Changes())
    trio.run(store.commit_in_loop, hold(1))
    for _ in range(2):
        with pytest.raises(trio.WouldBlock):
            trio.run(store.commit_in_loop, hold(2))
    store.close()


# What a commit promises


def test_a_commit_that_may_not_be_replicated_has_failed(cluster: Cluster, commit: Commit) -> None:
    """An administrator ends the wait for a standby that is gone: the server says that it has committed, and warns."""
    database = cluster.new_database()
    store = open_it(database.url("a"), lease=20.0)
    store.commit(Changes())  # connects
    cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'", "SELECT pg_reload_conf()")
    until(lambda: cluster.execute("SHOW synchronous_standby_names") == [("gone",)])
    committing = Background(lambda: commit(store, hold(1)))
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: cluster.execute(waits))
    cluster.execute(f"SELECT pg_cancel_backend({cluster.execute(waits)[0][0]})")
    committing.wait()
    assert isinstance(committing.error, StoreFailed)
    assert "might not have been replicated" in str(committing.error)
    cluster.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    until(lambda: cluster.execute("SHOW synchronous_standby_names") == [("",)])
    commit(store, hold(1))
    assert held(database.url("a")) == ["mm-1"]
    store.close()


def test_the_wait_for_a_standby_has_an_end(cluster: Cluster, commit: Commit) -> None:
    """And what is left at the server does not pile up: the next tries wait for its row, and give up by themselves."""
    database = cluster.new_database()
    store = open_it(database.url("a"), lease=1.0)
    cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'", "SELECT pg_reload_conf()")
    until(lambda: cluster.execute("SHOW synchronous_standby_names") == [("gone",)])
    for _ in range(5):
        with pytest.raises(StoreFailed):
            commit(store, hold(1))
    busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'bot' AND state = 'active'"
    assert cluster.execute(busy)[0][0] <= 2
    cluster.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    until(lambda: _commits(store, hold(1), commit))
    assert held(database.url("a")) == ["mm-1"]
    store.close()


def _commits(store: pg.PostgresStore, changes: Changes, commit: Commit = pg.PostgresStore.commit) -> bool:
    try:
        commit(store, changes)
    except StoreFailed:
        return False
    return True


def test_a_server_that_stands_still_ends_no_commit_and_is_waited_for_no_longer(
    cluster: Cluster, commit: Commit
) -> None:
    database = cluster.new_database()
    store = open_it(database.url("a"), lease=1.0)
    store.commit(hold(1))
    cluster.pause()
    try:
        with pytest.raises(StoreFailed):
            commit(store, hold(2))
    finally:
        cluster.go_on()
    until(lambda: _commits(store, hold(2), commit))
    assert held(database.url("a")) == ["mm-1", "mm-2"]
    store.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_is_started_again_goes_on(cluster: Cluster, how: signal.Signals, commit: Commit) -> None:
    database = cluster.new_database()
    store = open_it(database.url("a"))
    store.commit(hold(1))
    cluster.stop(how)
    with pytest.raises(StoreFailed):
        commit(store, hold(2))
    cluster.start()
    store.commit(hold(2))
    assert held(database.url("a")) == ["mm-1", "mm-2"]
    store.close()


@pytest.mark.parametrize(
    ("setting", "used"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
def test_a_commit_waits_for_the_disk_whatever_the_server_is_told(
    database: Database, setting: str, used: str, commit: Commit
) -> None:
    database.execute(
        f"ALTER ROLE bot IN DATABASE {database.name} SET synchronous_commit = '{setting}'",
        "CREATE TABLE seen (setting text)",
        "GRANT INSERT ON seen TO bot",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.seen SELECT current_setting('synchronous_commit'); RETURN NULL; END$$",
        "CREATE TRIGGER note AFTER INSERT ON trio_cancel.session EXECUTE FUNCTION note()",
        "CREATE TRIGGER note AFTER INSERT ON trio_cancel.hold EXECUTE FUNCTION note()",
    )
    store = open_it(database.url("a"))
    store.commit(Changes())
    commit(store, hold(1))
    assert database.execute("SELECT * FROM seen") == [(used,), (used,)]
    store.close()


def test_what_voids_the_promise_is_said_when_opening(caplog: pytest.LogCaptureFixture) -> None:
    with a_cluster(fsync="off") as cluster:
        database = cluster.new_database()
        with caplog.at_level(logging.WARNING):
            open_it(database.url("a")).close()
        first, second = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
        assert "fsync or full_page_writes off" in first
        assert "no synchronous standby" in second
        assert "the-bots-password" not in caplog.text


# Which server it is


@pytest.fixture
def promoted(cluster: Cluster) -> Generator[tuple[Cluster, Cluster]]:
    """A primary that was left behind, and still takes writes, and the standby that was promoted."""
    cluster.new_database()
    with cluster.standby() as standby:
        standby.start()
        yield cluster, standby


def test_a_server_that_a_promotion_left_behind_is_refused(promoted: tuple[Cluster, Cluster]) -> None:
    old, new = promoted
    database = Database(old, "test_1")
    both = database.url("a").replace(f":{old.port}/", f":{old.port},127.0.0.1:{new.port}/")
    store = open_it(both)
    store.commit(hold(1))
    until(lambda: new.execute("SELECT count(*) FROM trio_cancel.hold", database="test_1") == [(1,)])
    old.stop()
    new.execute("SELECT pg_promote()")
    until(lambda: _commits(store, hold(2)))
    old.start()  # it takes writes, and stands first in the address
    store._shared.drop()
    until(lambda: _commits(store, hold(3)))
    keys = "SELECT key FROM trio_cancel.hold ORDER BY 1"
    assert new.execute(keys, database="test_1") == [("mm-1",), ("mm-2",), ("mm-3",)]
    assert old.execute(keys, database="test_1") == [("mm-1",)]
    new.stop()
    with pytest.raises(StoreFailed):
        store.commit(hold(4))  # it learns that its connection has ended
    with pytest.raises(StoreFailed, match=r"left behind by a promotion \(its timeline is 1, not 2\)"):
        store.commit(hold(4))
    store.close()


def test_of_two_servers_that_take_writes_the_promoted_one_is_taken(promoted: tuple[Cluster, Cluster]) -> None:
    """Also by a process that has seen neither before, as a guard that was just started."""
    old, new = promoted
    database = Database(old, "test_1")
    old.stop()
    new.execute("SELECT pg_promote()")
    old.start()
    for number, ports in ((1, (old.port, new.port)), (2, (new.port, old.port))):
        both = database.url("a").replace(f":{old.port}/", f":{ports[0]},127.0.0.1:{ports[1]}/")
        store = open_it(both)
        store.commit(hold(number))
        store.close()
    keys = "SELECT key FROM trio_cancel.hold ORDER BY 1"
    assert new.execute(keys, database="test_1") == [("mm-1",), ("mm-2",)]
    assert old.execute(keys, database="test_1") == []


def test_a_server_that_does_not_answer_is_not_waited_for_where_another_does(promoted: tuple[Cluster, Cluster]) -> None:
    old, new = promoted
    database = Database(old, "test_1")
    both = database.url("a").replace(f":{old.port}/", f":{new.port},127.0.0.1:{old.port}/")
    new.pause()
    try:
        store = Background(lambda: open_it(both + "&connect_timeout=600").close())
        store.wait()
        assert store.error is None
    finally:
        new.go_on()
    assert database.execute("SELECT name, state FROM trio_cancel.journal") == [("a", "free")]


def test_a_standby_is_not_written_but_read(promoted: tuple[Cluster, Cluster]) -> None:
    old, new = promoted
    database = Database(old, "test_1")
    store = open_it(database.url("a"))
    store.commit(hold(1))
    until(lambda: new.execute("SELECT count(*) FROM trio_cancel.hold", database="test_1") == [(1,)])
    with pytest.raises(JournalError, match="the server is a standby, which cannot be written"):
        open_it(database.url("a", port=new.port))
    assert held(database.url("a", port=new.port)) == ["mm-1"]
    store.close()


# What is told


def refusal(address: str) -> str:
    with pytest.raises(JournalError) as caught:
        open_it(address)
    text = str(caught.value)
    assert "\n" not in text
    for secret in ("the-bots-password", "wrong-password", ADMIN_PASSWORD):
        assert secret not in text
        assert secret not in repr(caught.value.__cause__)
    return text


def test_a_wrong_password(database: Database) -> None:
    text = refusal(database.url("a", password="wrong-password"))
    assert "password authentication failed" in text
    assert "check the address, the credentials in it and the server" in text


def test_no_server(database: Database) -> None:
    assert "refused" in refusal(database.url("a", port=1))


def test_no_such_database(database: Database) -> None:
    assert 'database "nowhere" does not exist' in refusal(database.url("a").replace(database.name, "nowhere"))


def test_a_database_without_tables(postgres: Cluster) -> None:
    database = postgres.new_database(tables=False)
    assert refusal(database.url("a")).endswith(
        "has no tables of trio_cancel yet; make them once with trio-cancel journal --migrate URL."
    )


def test_a_newer_database(database: Database) -> None:
    database.execute(f"UPDATE trio_cancel.format SET version = {VERSION + 1}")
    assert f"are of a newer trio_cancel (format {VERSION + 1}, this one knows {VERSION})" in refusal(database.url("a"))


def test_a_role_without_rights(database: Database) -> None:
    database.execute("REVOKE INSERT ON trio_cancel.journal FROM bot")
    text = refusal(database.url("a"))
    assert "permission denied" in text
    assert "give the role its rights in the schema trio_cancel" in text
    database.execute("REVOKE USAGE ON SCHEMA trio_cancel FROM bot")
    assert "permission denied" in refusal(database.url("a"))


def test_a_database_that_takes_no_writes(database: Database) -> None:
    database.execute(f"ALTER ROLE bot IN DATABASE {database.name} SET default_transaction_read_only = on")
    assert "takes no writes (default_transaction_read_only is on)" in refusal(database.url("a"))


def test_tls_that_the_server_does_not_speak(database: Database) -> None:
    assert "SSL" in refusal(database.url("a", more="sslmode=require"))


def test_tls_with_the_servers_own_authority(database: Database, tmp_path: Path, commit: Commit) -> None:
    authority = trustme.CA()
    stranger = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with tls_front(database.cluster, context) as port:
        addresses = []
        for number, ca in enumerate((authority, stranger)):
            path = tmp_path / f"{number}.pem"
            ca.cert_pem.write_to_path(path)
            addresses.append(database.url("a", port=port, more=f"sslmode=verify-full&sslrootcert={path}"))
        store = open_it(addresses[0], lease=1.0)
        store.commit(hold(1))
        commit(store, Changes(alive=NOW))
        database.cluster.pause()  # the end of a call is the end of its socket, under TLS as well
        with pytest.raises(StoreFailed):
            commit(store, hold(2))
        database.cluster.go_on()
        until(lambda: _commits(store, hold(2), commit))
        store.close()
        assert "certificate verify failed" in refusal(addresses[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_leaves_its_parents_session_alone(database: Database) -> None:
    store = open_it(database.url("a"))
    store.commit(hold(1))
    code = (
        "import os, sys\n"
        "from tests.integration.test_postgres import hold, open_it\n"
        "from trio_cancel._journal.store import StoreFailed\n"
        "store = open_it(sys.argv[1])\n"
        "store.commit(hold(1))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        store.commit(hold(2))\n"
        "    except StoreFailed as error:\n"
        "        store.close()\n"
        "        other = open_it(sys.argv[2])\n"  # of its own, by a connection of its own
        "        other.commit(hold(3))\n"
        "        other.close()\n"
        "        os._exit(7 if 'forked' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "store.commit(hold(4))\n"
        "store.close()\n"
    )
    store.close()
    command = [sys.executable, "-W", "ignore", "-c", code, database.url("b"), database.url("c")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert held(database.url("b")) == ["mm-1", "mm-4"]
    assert held(database.url("c")) == ["mm-3"]


def test_the_tables_are_made_once(postgres: Cluster) -> None:
    database = postgres.new_database(tables=False)
    server = server_of(database.url(user=ADMIN, password=ADMIN_PASSWORD))
    assert server is not None
    assert pg.migrate(server) == 0
    assert pg.migrate(server) == VERSION
    assert database.execute("SELECT version FROM trio_cancel.format") == [(VERSION,)]


def test_the_bot_may_not_make_tables(postgres: Cluster) -> None:
    server = server_of(postgres.new_database(tables=False).url())
    assert server is not None
    with pytest.raises(JournalError, match="permission denied"):
        pg.migrate(server)


def prepared(store: pg.PostgresStore) -> int:
    connection = store._shared._connection
    assert connection is not None
    found = connection.raw.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert found is not None
    return int(found[0])


def test_statements_are_prepared_where_the_server_itself_answers(database: Database, commit: Commit) -> None:
    store = open_it(database.url("a"))
    for number in range(5):
        commit(store, hold(number + 1))
    assert prepared(store) >= 1
    store.close()


def test_behind_a_pooler_nothing_is_prepared(
    database: Database, monkeypatch: pytest.MonkeyPatch, commit: Commit
) -> None:
    """It lends each transaction another process, where other statements may have been prepared under the same names."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda self: 4711))
    store = open_it(database.url("a"))
    for number in range(5):
        commit(store, hold(number + 1))
    assert prepared(store) == 0
    store.close()


def test_what_a_server_says_of_itself(database: Database) -> None:
    server = server_of(database.url())
    assert server is not None
    connection = connect(server, 5.0)
    found = settings_of(connection)
    connection.close()
    assert not any((found.read_only, found.standby, found.replicated))
    assert (found.safe, found.timeline) == (True, 1)
    assert found.system.isdigit()
