"""The journal's file and its lock: forks, stalled disks, Ctrl-C, special files, files that move, read-only places."""

from __future__ import annotations

import gc
import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.test_interrupts import Instructions, press_ctrl_c
from tests.tools.journals import ACCOUNT
from tests.tools.timings import wait_for
from tests.tools.venues import open_venue
from trio_cancel import (
    CancelRequest,
    ConfigurationError,
    Credentials,
    JournalError,
    TradingWS,
    open_trading_ws,
)
from trio_cancel._client import open_session
from trio_cancel._journal import fork
from trio_cancel._journal import opening as _journal_open
from trio_cancel._journal import sqlite as _store
from trio_cancel._journal.lock import _FileLock, lock
from trio_cancel._journal.opening import _Custody, open_journal
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import StoreFailed
from trio_cancel._values.timings import Timings
from trio_cancel.journal import read_journal

SECOND = 1_000_000
HOLD = Changes(holds=[(1, 1, 0, "x", 6 * SECOND, None, None)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def open_store(path: Path, prefix: str = "a") -> SQLiteStore:
    return SQLiteStore.open(path, ACCOUNT, prefix, 5 * SECOND)


def is_free(path: Path) -> bool:
    try:
        lock(str(path)).release()
    except BlockingIOError:
        return False
    return True


def holds(path: Path) -> list[str]:
    return [order.request.key for order in read_journal(path).left]


# Forks


@contextmanager
def forked(act: Callable[[], object] = lambda: None) -> Generator[Callable[[], int]]:
    """Fork; the child acts and lives until the block ends. Yields a function that ends it and returns its status."""
    go_read, go_write = os.pipe()
    did_read, did_write = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover - the child
        status = 1
        try:
            os.close(go_write)
            act()
            os.write(did_write, b"x")
            os.read(go_read, 1)
            status = 0
        finally:
            os._exit(status)
    os.close(go_read)
    os.close(did_write)
    ended: list[int] = []

    def end() -> int:
        if not ended:
            os.close(go_write)
            ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return ended[0]

    try:
        os.read(did_read, 1)
        yield end
    finally:
        end()
        os.close(did_read)


@pytest.mark.parametrize("flock", [True, False])
def test_the_orderly_end_frees_the_lock_though_a_child_lives(
    path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", flock)
    store = open_store(path)
    with forked():
        with pytest.raises(JournalError, match="being written by another session"):
            open_store(path)
        store.close()
        open_store(path).close()


def test_the_parents_death_frees_the_lock_though_a_child_lives(path: Path) -> None:
    program = (
        "import os, signal, sys, time\n"
        "from tests.tools.journals import ACCOUNT\n"
        "from trio_cancel._journal.rows import Changes\n"
        "from trio_cancel._journal.sqlite import SQLiteStore\n"
        "store = SQLiteStore.open(sys.argv[1], ACCOUNT, 'a', 0)\n"
        "store.commit(Changes(holds=[(1, 1, 0, 'x', 6, None, None)]))\n"
        "if not os.fork():\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.read(0, 1)\n"
        "    sys.exit()\n"
        "signal.pause()\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        os.kill(child, 0)  # it lives
        assert holds(path) == ["x"]
        store = open_store(path, "b")
        store.commit(Changes(releases=[(1, 7 * SECOND)], intents=[(2, 2, 0, "y", 7 * SECOND)]))
        assert parent.stdin is not None
        parent.stdin.close()  # the child ends, with its interpreter's whole clean-up
        assert parent.stdout.read() == b""  # it has
        assert holds(path) == ["y"]
        store.commit(Changes(intents=[(3, 2, 0, "z", 7 * SECOND)]))
        store.close()
    assert holds(path) == ["y", "z"]


def test_a_child_cannot_commit_close_or_finalise_what_is_its_parents(path: Path) -> None:
    store = open_store(path)
    store.commit(HOLD)
    box = [store]

    def act() -> None:
        with pytest.raises(StoreFailed, match="forked"):
            box[0].commit(Changes(releases=[(1, 9)]))
        box[0].close()
        box.clear()
        gc.collect()

    # In the middle of a transaction: to undo it in the child would undo it in the memory that both share.
    store._database.execute("BEGIN IMMEDIATE")
    store._database.execute("INSERT INTO release VALUES (1, 9)")
    with forked(act) as end:
        assert end() == 0
    assert not is_free(path)
    store._database.execute("COMMIT")
    assert holds(path) == []
    store.commit(Changes(intents=[(2, 1, 0, "y", 1)]))
    assert Path(f"{path}-wal").exists()
    store.close()
    assert holds(path) == ["y"]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_child_whose_interpreter_ends_harms_nothing(path: Path) -> None:
    store = open_store(path)
    store.commit(HOLD)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=gc.collect)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    store.commit(Changes(intents=[(2, 1, 0, "y", 1)]))
    assert holds(path) == ["x", "y"]
    store.close()


def test_a_child_reads_the_journal_of_its_parent_and_does_not_write_it(path: Path) -> None:
    store = open_store(path)
    store.commit(HOLD)

    def act() -> None:
        for _ in range(2):
            assert holds(path) == ["x"]
        with pytest.raises(JournalError, match="was open when this process was forked"):
            open_store(path)
        other = path.with_name("other")
        open_store(other).close()
        assert holds(other) == []

    with forked(act) as end:
        assert end() == 0
    store.close()
    with forked(lambda: open_store(path).close()) as end:  # nobody had it open
        assert end() == 0


def test_a_fork_while_the_lock_is_being_made_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that has the open file, and does not know that it is a lock, must not have the lock."""
    real = os.open
    with ExitStack() as children:

        def open_and_fork(*args: Any, **keywords: Any) -> int:
            file = real(*args, **keywords)
            monkeypatch.undo()
            children.enter_context(forked())
            return file

        monkeypatch.setattr(os, "open", open_and_fork)
        held = lock(str(path))
        assert not is_free(path)
        assert isinstance(held, _FileLock)
        held._close()  # as death would: without unlocking
        assert is_free(path)


async def test_a_session_in_a_forked_child_tells_that_it_is_none(path: Path) -> None:
    async with open_journal(path, ACCOUNT, "id", time.time) as journal:
        await journal.hold(CancelRequest("before"))

        def act() -> None:
            thread = _journal_open._Thread()
            thread._process = journal._run_sync._process  # type: ignore[attr-defined]  # the parent's
            with pytest.raises(StoreFailed, match="forked"):
                thread(int).send(None)

        with forked(act) as end:
            assert await trio.to_thread.run_sync(end) == 0
        await journal.hold(CancelRequest("after"))
    assert holds(path) == ["before", "after"]


# Disks that stall


class Gate:
    """Holds a function up, in its thread, as a disk that does not answer does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        function = getattr(_store, name)

        def held_up(*args: object, **keywords: object) -> object:
            self.reached.set()
            assert self.open.wait(60)
            return function(*args, **keywords)

        monkeypatch.setattr(_store, name, held_up)


async def until_free(path: Path) -> None:
    with trio.fail_after(30):
        while not is_free(path):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


def session(path: Path) -> AbstractAsyncContextManager[TradingWS]:
    return open_trading_ws("ws://127.0.0.1:9", credentials=ACCOUNT.credentials, journal=path)


@pytest.mark.parametrize("name", ["_open", "_size"])
async def test_entering_on_a_stalled_disk_is_cancelled_and_the_lock_is_freed(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, name)
    with trio.fail_after(10), trio.move_on_after(0.1) as scope:
        async with session(path):
            raise AssertionError
    assert scope.cancelled_caught
    gate.open.set()
    await until_free(path)


async def test_a_cancelled_entering_leaves_nothing_open_where_the_disk_answers(path: Path) -> None:
    for number in range(25):
        with trio.move_on_after(number / 1000):
            async with open_journal(path, ACCOUNT, "id", time.time):
                pass
        assert is_free(path)
    open_store(path).close()


async def test_entering_on_a_stalled_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(monkeypatch, journal_opening=0.1)
    gate = Gate(monkeypatch, "_open")
    with pytest.raises(JournalError, match=r"could not be opened within 0\.1 s; check the disk"):
        async with session(path):
            raise AssertionError
    gate.open.set()
    await until_free(path)


async def test_leaving_on_a_stalled_disk_is_bounded_and_the_lock_is_freed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_journal(path, ACCOUNT, "id", time.time, timings=Timings(journal_closing=0.1)) as journal:
        await journal.hold(CancelRequest("x"))
        gate = Gate(monkeypatch, "_insert")
        journal.release(CancelRequest("x"), at_once=True)
        await trio.to_thread.run_sync(gate.reached.wait, 30)
    assert "could not be closed within 0.1 s" in caplog.text
    assert not is_free(path)  # the thread may still write
    gate.open.set()
    await until_free(path)
    assert holds(path) == []
    open_store(path).close()


async def test_a_close_that_stalls_frees_the_lock_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_journal(path, ACCOUNT, "id", time.time, timings=Timings(journal_closing=0.1)):
        gate = Gate(monkeypatch, "_identity")
    assert not is_free(path)
    gate.open.set()
    await until_free(path)


def test_ctrl_c_while_a_journal_opens_leaves_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, "_open")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press)
            async with session(path):
                raise AssertionError

    async def press() -> None:
        await trio.to_thread.run_sync(gate.reached.wait, 30)
        press_ctrl_c()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    gate.open.set()
    trio.run(until_free, path)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_ctrl_c_at_many_instructions_of_opening_and_leaving_a_journal(path: Path) -> None:
    codes = {open_journal.__wrapped__.__code__, AsyncExitStack.enter_async_context.__code__}  # type: ignore[attr-defined]  # it is wrapped
    codes.add(open_session.__wrapped__.__code__)  # type: ignore[attr-defined]  # see above
    codes.add(_Custody.wait.__code__)

    async def main(instructions: Instructions) -> None:
        async with open_venue(seed=1) as venue:
            before = sys.gettrace()
            sys.settrace(instructions.trace)
            try:
                async with venue.open(journal=path):
                    pass
            finally:
                sys.settrace(before)

    for at in itertools.count(1, 13):
        instructions = Instructions(at, frozenset(codes))
        with suppress(KeyboardInterrupt):
            trio.run(main, instructions)
        assert is_free(path), at
        if instructions.count < at:
            break
    assert at > 100


@pytest.mark.parametrize("presses", [1, 2])
def test_only_a_second_ctrl_c_ends_the_last_transaction(
    presses: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[Gate] = []
    patient = Timings(journal_closing=30.0)

    async def press() -> None:
        for _ in range(presses):
            await trio.to_thread.run_sync(gates[0].reached.wait, 30)
            press_ctrl_c()
            await trio.sleep(0.05)
        gates[0].open.set()

    async def main() -> None:
        async with (
            trio.open_nursery() as nursery,
            open_journal(path, ACCOUNT, "id", time.time, timings=patient) as journal,
        ):
            await journal.hold(CancelRequest("x"))
            gates.append(Gate(monkeypatch, "_insert"))
            journal.release(CancelRequest("x"))
            nursery.start_soon(press)

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert gates[0].open.is_set() == (presses == 1)
    gates[0].open.set()
    trio.run(until_free, path)
    assert holds(path) == []


# What is no file


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


def _link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


def _loop(path: Path) -> None:
    path.symlink_to(path)


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "directory": (_directory, "is a directory, not a regular file"),
    "fifo": (_fifo, "is a FIFO, not a regular file"),
    "socket": (_socket, "is a socket, not a regular file"),
    "device": (_device, "is a device, not a regular file"),
    "link to a fifo": (_link_to_a_fifo, "is a FIFO, not a regular file"),
    "loop": (_loop, "symbolic links"),
}


@pytest.mark.parametrize("name", NO_FILES)
@pytest.mark.parametrize("use", [open_store, read_journal])
async def test_what_is_no_file_is_refused_and_stays(
    name: str, use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("the.journal")
    make, text = NO_FILES[name]
    make(path)
    before = {each: os.lstat(each) for each in os.listdir()}
    with pytest.raises(JournalError, match=text) as refused:
        use(path)
    assert "\n" not in str(refused.value)
    after = {each: os.lstat(each) for each in os.listdir()}
    assert {each: (s.st_mode, s.st_ino, s.st_mtime_ns) for each, s in after.items()} == {
        each: (s.st_mode, s.st_ino, s.st_mtime_ns) for each, s in before.items()
    }


def test_a_device_is_refused_by_a_session_and_nothing_is_put_beside_it() -> None:
    async def main() -> None:
        async with session(Path("/dev/null")):
            raise AssertionError

    with pytest.raises(JournalError, match="/dev/null cannot be opened: that is a device"):
        trio.run(main)
    assert not Path("/dev/null.lock").exists()
    read, write = os.pipe()
    with pytest.raises(JournalError, match="is a FIFO"):
        open_store(Path(f"/dev/fd/{read}"))
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("name", ["", b"x", "a\0b"])
def test_a_name_that_is_none_is_refused_at_once(name: object) -> None:
    with pytest.raises(ConfigurationError, match="journal must be the path of a file"):
        open_trading_ws("ws://localhost", credentials=Credentials("a", "b"), journal=name)  # type: ignore[arg-type]  # as tested
    if isinstance(name, str):
        with pytest.raises(JournalError, match="cannot be opened"):
            read_journal(name)


def test_a_directory_that_is_not_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="names no file"):
        SQLiteStore.open(f"{tmp_path}/new/", ACCOUNT, "a", 0)


@pytest.mark.parametrize("make", [_fifo, _directory, _device])
def test_a_lock_that_is_no_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(Path(f"{path}.lock"))
    with pytest.raises(JournalError, match="cannot be locked"):
        open_store(path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("make", [_fifo, _directory, _socket])
def test_what_is_no_file_where_sqlite_has_its_own_is_refused_at_once(
    path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    make(Path(f"{path}{suffix}"))
    with pytest.raises(JournalError, match=rf"{suffix}, which SQLite uses with it, is a \w+, not a regular file"):
        open_store(path)
    assert not path.exists()


# Files that move


def _delete(path: Path) -> None:
    path.unlink()


def _move(path: Path) -> None:
    os.rename(path, f"{path}s")


def _replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def _move_the_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved-directory"))


def _delete_the_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def _delete_the_lock(path: Path) -> None:
    Path(f"{path}.lock").unlink()


def _empty(path: Path) -> None:
    os.truncate(path, 0)  # as whoever rotates logs may do


MOVES = [_delete, _move, _replace, _move_the_directory, _delete_the_log, _delete_the_lock, _empty]


@pytest.mark.parametrize("move", MOVES)
async def test_a_file_that_moves_while_it_is_open_is_noticed_at_the_next_commit(
    move: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "directory" / "the.journal"
    path.parent.mkdir()
    async with open_venue() as venue, venue.open(journal=path) as ws, ws.open_order_scope() as orders:
        await orders.add(*venue.orders(1))
        move(path)
        with pytest.raises(JournalError, match=r"was (moved or deleted|replaced|emptied) while it was open"):
            await orders.add("new")
        assert "new" not in orders
        assert ws.journal_failed
        report = await ws.cancel_many(venue.orders(20))
        assert report.counts["canceled"] == 20
        assert report.journal_failed
    assert orders.report is not None
    assert orders.report.counts["canceled"] == 1
    assert "cannot be written" in caplog.text
    if move is _delete:
        assert not path.exists()
    if path.parent.exists():
        assert is_free(path)


async def test_a_file_that_comes_back_is_written_again(path: Path) -> None:
    async with open_journal(path, ACCOUNT, "id", time.time) as journal:
        _move(path)
        with pytest.raises(JournalError):
            await journal.hold(CancelRequest("x"))
        os.rename(f"{path}s", path)
        with trio.fail_after(10):
            while journal.failed:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        await journal.hold(CancelRequest("y"))
    assert holds(path) == ["y"]


async def test_a_link_that_is_turned_elsewhere_is_noticed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    async with open_journal(link, ACCOUNT, "id", time.time) as journal:
        await journal.hold(CancelRequest("x"))
        other = path.with_name("other")
        open_store(other).close()
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(JournalError, match="link was replaced while it was open"):
            await journal.hold(CancelRequest("y"))


def test_what_closes_late_leaves_the_log_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "directory" / "the.journal"
    path.parent.mkdir()
    store = open_store(path)
    store.commit(HOLD)
    _move_the_directory(path)
    path.parent.mkdir()
    successor = open_store(path, "b")
    successor.commit(HOLD)
    store.close()
    gc.collect()
    assert Path(f"{path}-wal").exists()
    assert holds(path) == ["x"]
    successor.commit(Changes(releases=[(1, 9)]))
    successor.close()
    assert holds(path) == []
    assert holds(tmp_path / "moved-directory" / "the.journal") == ["x"]


def test_a_second_writer_that_the_lock_did_not_stop_is_noticed(path: Path) -> None:
    store = open_store(path)
    lost = store._lock
    Path(f"{path}.lock").unlink()
    second = open_store(path, "b")
    second.commit(Changes(holds=[(1, 2, 0, "second", 1, None, None)]))
    store._files[lost.path] = _store._identity(lost.path) or (0, 0)  # as if the lock had not been looked at
    with pytest.raises(StoreFailed, match="another session has begun to write it"):
        store.commit(HOLD)
    second.close()
    store.close()
    assert holds(path) == ["second"]


# Places that cannot be written


@contextmanager
def nobody() -> Iterator[None]:
    """Run the block without the rights of root, for whom permissions do not count."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach."""
    directory = Path(tempfile.mkdtemp(prefix="trio-cancel-test-"))
    directory.chmod(0o755)
    yield directory / "the.journal"
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)
    shutil.rmtree(directory)


def freeze(path: Path) -> None:
    for file in path.parent.iterdir():
        file.chmod(0o444)
    path.parent.chmod(0o555)


@pytest.mark.parametrize("left", ["closed", "open", "log alone", "read before"])
def test_a_journal_in_a_place_that_cannot_be_written_is_read(left: str, place: Path) -> None:
    store = open_store(place)
    store.commit(HOLD)
    if left == "log alone":  # as a copy of the journal and its log, but of no shared memory
        copy = place.with_name("copy")
        shutil.copy(place, copy)
        shutil.copy(f"{place}-wal", f"{copy}-wal")
        store.close()
        place = copy
    elif left != "open":
        store.close()
    if left == "read before":
        assert holds(place) == ["x"]
    freeze(place)
    before = sorted(place.parent.iterdir())
    with nobody():
        with pytest.raises(PermissionError):
            place.with_name("new").touch()
        assert holds(place) == ["x"]
        with pytest.raises(JournalError, match=r"cannot be (locked|opened)"):
            open_store(place)
    assert sorted(place.parent.iterdir()) == before
    if left == "open":
        store.close()


@pytest.mark.parametrize("part", ["", "-wal"])
def test_a_part_that_may_not_be_read_is_named(part: str, place: Path) -> None:
    store = open_store(place.with_name("original"))
    store.commit(HOLD)
    for each in ("", "-wal"):
        shutil.copy(f"{store.path}{each}", f"{place}{each}")
    store.close()
    freeze(place)
    Path(f"{place}{part}").chmod(0o200)
    with nobody(), pytest.raises(JournalError) as refused:
        read_journal(place)
    text = str(refused.value)
    assert "cannot be read in its place" in text
    assert "Permission denied" in text
    if part:
        assert f"of {place}-wal" in text


def test_a_place_from_which_no_copy_can_be_made_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(place).close()
    for file in place.parent.glob("*-*"):
        file.unlink()
    freeze(place)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with nobody(), pytest.raises(JournalError, match=r"nor a copy of it \(No such file or directory of /nowhere"):
        read_journal(place)


def test_a_journal_is_copied_while_it_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy is of one moment, and holds all that was committed before it began."""
    program = (
        "import sys\n"
        "from tests.tools.journals import ACCOUNT\n"
        "from trio_cancel._journal.rows import Changes\n"
        "from trio_cancel._journal.sqlite import SQLiteStore\n"
        "store = SQLiteStore.open(sys.argv[1], ACCOUNT, 'a', 0)\n"
        "store._database.execute('PRAGMA wal_autocheckpoint = 5')\n"
        "for number in range(1, 601):\n"
        "    rows = [(2 * number, 1, 0, f'a{number}' * 50, 1), (2 * number + 1, 1, 0, f'b{number}', 1)]\n"
        "    store.commit(Changes(intents=rows))\n"
        "    print(number, flush=True)\n"
        "store.close()\n"
    )
    monkeypatch.setattr(fork, "is_parents", lambda _: True)  # so that copies are read
    copies = 0
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) % 20 == 1:
                with suppress(JournalError):  # it was changing all the time
                    found = len(read_journal(path).orders)
                    assert found % 2 == 0
                    assert found >= 2 * int(line)
                    copies += 1
    assert copies > 20
    assert len(read_journal(path).orders) == 1200


def test_a_copy_without_its_log_is_read_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(path)
    store.commit(HOLD)
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    assert holds(path) == ["x"]
    assert not caplog.records
    assert holds(copy) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "copied or moved without it, what was recorded last is missing" in record.getMessage()
    caplog.clear()
    open_store(copy, "b").close()
    assert "what was recorded last is missing" in caplog.text
    caplog.clear()
    store.commit(Changes(closed=9 * SECOND))
    store.close()
    assert holds(path) == ["x"]
    assert not caplog.records
