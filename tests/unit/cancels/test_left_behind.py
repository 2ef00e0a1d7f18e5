"""What dead sessions left: the warning, ``ws.left_behind``, ``ws.resume()``, ``ws.dismiss()``, names not to use yet."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from tests.tools.venues import EPOCH, Venue, one_clock, open_venue, venue_clock
from trio_cancel import CancelRequest, ConfigurationError, InvalidRequest, JournalError, LookupFailed
from trio_cancel._journal import opening
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Changes, HoldRow, micros
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import Account
from trio_cancel.journal import JournalOrder, read_journal
from trio_cancel.lookup import OrderState


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)
    monkeypatch.setattr(opening, "open_journal", _in_the_loop)


def _in_the_loop(*args: Any, **keywords: Any) -> Any:
    return open_journal(*args, run_sync=Executor(), **keywords)


def die(
    path: Path,
    venue: Venue,
    *,
    holds: tuple[str, ...] = (),
    cancels: tuple[tuple[str, str | None], ...] = (),
    ids: tuple[str, ...] = (),
    placed: tuple[tuple[int, str | None], ...] = (),
    at: float = EPOCH - 1,
    clock: int = 10_000,
) -> None:
    """Leave external ids that were held, and cancelled with that outcome; ``ids`` are the venue's, held."""
    now = micros(at)
    store = SQLiteStore.open(path, Account("ws://localhost", venue.sandbox.credentials), "dead", now)
    first, session = store.begun.number, store.begun.session
    names = [(1, name) for name in holds] + [(0, key) for key in ids]
    held: list[HoldRow] = [(first + i, session, ext, key, now, -clock, clock) for i, (ext, key) in enumerate(names)]
    number = first + len(held)
    store.commit(
        Changes(
            holds=held,
            placed=[(first + i, now, order_id) for i, order_id in placed],
            intents=[(number + i, session, 1, key, now) for i, (key, _) in enumerate(cancels)],
            outcomes=[(number + i, kind, now, None) for i, (_, kind) in enumerate(cancels) if kind is not None],
        )
    )
    store.close()


def names(ws: Any) -> list[str]:
    return [order.request.key for order in ws.left_behind]


async def test_a_warning_names_what_was_left_and_resume_settles_it(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="held")
        venue.book.create(external_id="tried")
        (by_id,) = venue.orders(1)
        die(path, venue, holds=("held",), cancels=(("tried", None), ("done", "canceled")), ids=(by_id,))
        async with venue.open(journal=path) as ws:
            (warning,) = [record for record in caplog.records if "left behind" in record.message]
            assert warning.levelno == logging.WARNING
            assert all(word in warning.message for word in ("3 orders were", "held", "tried", by_id, "ws.resume()"))
            assert names(ws) == ["held", by_id, "tried"]
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                ws.left_behind[0].unsettled = True  # type: ignore[misc]
            report = await ws.resume()
            assert [outcome.kind for outcome in report.outcomes] == ["canceled"] * 3
            assert [outcome.request.key for outcome in report.outcomes] == ["held", by_id, "tried"]
            assert ws.left_behind == ()
            requests = len(venue.log)
            assert (await ws.resume()).outcomes == ()
            assert len(venue.log) == requests
        caplog.clear()
        async with venue.open(journal=path) as ws:
            assert ws.left_behind == ()
            assert "left behind" not in caplog.text
        assert read_journal(path).left == ()


async def test_the_warning_names_ten_and_counts_the_rest(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue(clock=venue_clock) as venue:
        die(tmp_path / "j", venue, holds=tuple(f"mm-{number}" for number in range(25)))
        async with venue.open(journal=tmp_path / "j") as ws:
            assert len(ws.left_behind) == 25
    assert "mm-9 and 15 more" in caplog.text
    assert "mm-10" not in caplog.text


async def test_a_name_that_was_left_is_not_held_again_before_it_is_seen_to(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="mm-1")
        die(path, venue, holds=("mm-1", "mm-2"), cancels=(("mm-3", "unknown"),))
        async with venue.open(journal=path) as ws, ws.open_order_scope() as orders:
            for name in ("mm-1", "mm-2", "mm-3"):
                with pytest.raises(InvalidRequest, match=r"ws\.resume\(\)"):
                    await orders.add(external_id=name)
            assert len(orders) == 0
            await orders.add(external_id="mm-4")
            orders.discard(external_id="mm-4")
            await ws.dismiss(external_id="mm-2")
            assert names(ws) == ["mm-1", "mm-3"]
            await orders.add(external_id="mm-2")
            orders.discard(external_id="mm-2")
            await ws.cancel(external_id="mm-1")  # closed, but perhaps another one: it was held by its name
            assert names(ws) == ["mm-1", "mm-3"]
            with pytest.raises(InvalidRequest):
                await orders.add(external_id="mm-1")
            began = trio.current_time()
            report = await ws.resume()
            assert 10 <= trio.current_time() - began < 12
            assert {outcome.request.key: outcome.kind for outcome in report.outcomes} == {
                "mm-1": "unknown",
                "mm-3": "not_found",
            }
            assert ws.left_behind == ()
            await orders.add(external_id="mm-1")
            orders.discard(external_id="mm-1")
        assert read_journal(path).left == ()


async def test_what_is_dismissed_stays_so_and_what_is_not_left_cannot_be(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        die(path, venue, holds=("a", "both"), cancels=(("b", None), ("both", "unknown")))
        async with venue.open(journal=path) as ws:
            for name in ("a", "b", "both"):
                await ws.dismiss(external_id=name)
                with pytest.raises(InvalidRequest, match="left_behind"):
                    await ws.dismiss(external_id=name)
            with pytest.raises(InvalidRequest):
                await ws.dismiss()  # type: ignore[call-overload]  # what the test is about
            assert ws.left_behind == ()
            assert read_journal(path).left == ()
            assert len(venue.log) == 0
        async with venue.open(journal=path) as ws:
            assert ws.left_behind == ()
        story = {order.request.key: [cancel.kind for cancel in order.cancels] for order in read_journal(path).orders}
        assert story == {"a": [], "both": ["unknown", "dismissed"], "b": [None, "dismissed"]}


async def test_a_dismissal_on_a_broken_journal_is_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = micros(EPOCH)
    async with open_venue(clock=venue_clock) as venue:
        store = MemoryStore()
        store.commit(Changes(holds=[(1, 1, 1, "a", now, -10_000, 10_000)]))
        left = read_left(store)
        store.begun = attrs.evolve(store.begun, session=2, number=2, left=left)
        in_memory = partial(open_journal, run_sync=Executor(), open_store=store.open)
        monkeypatch.setattr(opening, "open_journal", in_memory)
        await trio.sleep(15)  # longer than the two clocks can differ
        venue.book.create(external_id="a")
        async with venue.open(journal="in memory") as ws:
            store.failure = OSError("the disk is full")
            with pytest.raises(JournalError):
                await ws.dismiss(external_id="a")
            assert ws.left_behind == ()
        async with venue.open(journal="in memory") as ws:
            report = await ws.resume()
            assert [outcome.kind for outcome in report.outcomes] == ["canceled"]
            assert report.journal_failed
            assert ws.left_behind == ()


def read_left(store: MemoryStore) -> Any:
    from trio_cancel._journal.rows import SessionRow, Tables

    changes = store.changes
    session = SessionRow(1, "dead", 0, 0, 0, None)
    return Tables(ACCOUNT.url, [session], list(changes.holds), [], list(changes.intents), [], [])


async def test_without_a_journal(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        assert ws.left_behind == ()
        with pytest.raises(ConfigurationError, match="journal="):
            await ws.resume()
        with pytest.raises(ConfigurationError, match="journal="):
            await ws.dismiss(external_id="x")
        with pytest.raises(ConfigurationError, match="True or False"):
            await ws.resume(old_external_ids="yes")  # type: ignore[arg-type]


async def test_two_resumes_at_once_cancel_each_order_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        for number in range(20):
            venue.book.create(external_id=f"mm-{number}")
        die(tmp_path / "j", venue, holds=tuple(f"mm-{number}" for number in range(20)))
        reports = []

        async def resume() -> None:
            reports.append(await ws.resume())

        async with venue.open(journal=tmp_path / "j") as ws, trio.open_nursery() as nursery:
            nursery.start_soon(resume)
            nursery.start_soon(resume)
        assert sorted(len(report) for report in reports) == [0, 20]
        assert len(venue.log) == 20


async def test_a_resume_that_is_cancelled_leaves_the_rest_for_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="there")
        die(path, venue, holds=("there", "late"))
        async with venue.open(journal=path) as ws:
            with trio.move_on_after(3) as scope:
                await ws.resume()
            assert scope.cancelled_caught
            assert names(ws) == ["late"]
            with pytest.raises(InvalidRequest, match="resume"):
                async with ws.open_order_scope() as orders:
                    await orders.add(external_id="late")
        assert [order.request.key for order in read_journal(path).left] == ["late"]
        venue.book.create(external_id="late")
        async with venue.open(journal=path) as ws:
            (outcome,) = (await ws.resume()).outcomes
            assert outcome.kind == "canceled"
        assert read_journal(path).left == ()


async def test_what_is_being_resumed_cannot_be_dismissed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        die(tmp_path / "j", venue, holds=("late",))
        async with venue.open(journal=tmp_path / "j") as ws, trio.open_nursery() as nursery:
            nursery.start_soon(ws.resume)
            await trio.sleep(1)
            with pytest.raises(InvalidRequest, match="being canceled"):
                await ws.dismiss(external_id="late")
            nursery.cancel_scope.cancel()
        assert len(read_journal(tmp_path / "j").left) == 1


async def test_old_external_ids_are_left_unless_asked_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="old")
        (by_id,) = venue.orders(1)
        die(tmp_path / "j", venue, holds=("old",), ids=(by_id,), placed=((0, None),), at=EPOCH - 4000)
        async with venue.open(journal=tmp_path / "j") as ws:
            report = await ws.resume()
            assert [outcome.kind for outcome in report.outcomes] == ["canceled", "not_sent"]
            assert "old_external_ids=True" in str(getattr(report.outcomes[1], "cause", ""))
            assert names(ws) == ["old"]
            report = await ws.resume(old_external_ids=True)
            assert [outcome.kind for outcome in report.outcomes] == ["canceled"]
            assert ws.left_behind == ()


async def test_what_this_session_holds_itself_is_skipped(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        first, second = venue.orders(2)
        die(path, venue, holds=("mm-1",), ids=(second,), placed=((0, first),))
        async with venue.open(journal=path) as ws:
            async with ws.open_order_scope() as orders:
                await orders.add(second)
                await orders.add(external_id="mm-9")
                orders.placed(external_id="mm-9", id=first)
                report = await ws.resume()
                assert [outcome.kind for outcome in report.outcomes] == ["not_sent", "not_sent"]
                assert "held it itself" in str(getattr(report.outcomes[0], "cause", ""))
                assert len(venue.log) == 0
                orders.discard(second)
            assert names(ws) == [second]
            (outcome,) = (await ws.resume()).outcomes
            assert outcome.kind == "not_sent"
            await ws.cancel(second)
            assert ws.left_behind == ()
        assert read_journal(path).left == ()


async def test_a_silent_venue_leaves_it_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "j"
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="mm-1")
        die(path, venue, holds=("mm-1", "mm-2"))
        async with venue.open(journal=path) as ws:
            venue.failures += [OSError("no way")] * 1000
            await venue.cut()
            began = trio.current_time()
            report = await ws.resume()
            assert trio.current_time() - began <= 36
            assert not any(outcome.off_book for outcome in report.outcomes)
            assert names(ws) == ["mm-1", "mm-2"]
        assert len(read_journal(path).left) == 2


async def test_with_a_lookup_that_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def lookup(request: object) -> OrderState:
        raise LookupFailed("no")

    async with open_venue(clock=venue_clock) as venue:
        venue.book.create(external_id="mm-1")
        die(tmp_path / "j", venue, holds=("mm-1",), cancels=(("gone", None),))
        async with venue.open(journal=tmp_path / "j", lookup=lookup, look_up_closed=True) as ws:
            report = await ws.resume()
            assert [outcome.kind for outcome in report.outcomes] == ["canceled", "not_found"]
            assert ws.left_behind == ()


async def test_what_a_resume_leaves_it_says_in_these_words(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        (ours,) = venue.orders(1)
        die(tmp_path / "j", venue, holds=("old",), ids=(ours,), at=EPOCH - 4000)
        async with venue.open(journal=tmp_path / "j") as ws, ws.open_order_scope() as orders:
            await orders.add(ours)
            report = await ws.resume()
            why = "its external id is older than 1 h"
            assert [str(getattr(outcome, "cause", "")) for outcome in report.outcomes] == [
                f"{why} and may name a newer order; ws.resume(old_external_ids=True) takes it",
                "this session has held it itself; its scope takes care of it, or ws.dismiss(…)",
            ]


async def test_a_resume_tells_each_order_by_the_name_that_the_journal_has(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create(external_id="mm-1")
        die(tmp_path / "j", venue, holds=("mm-1",), placed=((0, order.id),))
        async with venue.open(journal=tmp_path / "j") as ws:
            (outcome,) = (await ws.resume()).outcomes
            assert (outcome.kind, outcome.request) == ("canceled", CancelRequest(external_id="mm-1"))


async def test_a_name_is_free_to_be_dismissed_after_a_resume_that_left_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_venue(clock=venue_clock) as venue:
        die(tmp_path / "j", venue, holds=("mm-1",))
        async with venue.open(journal=tmp_path / "j") as ws:
            with trio.move_on_after(5):
                await ws.resume()
            assert names(ws) == ["mm-1"]
            await ws.dismiss(external_id="mm-1")
            assert ws.left_behind == ()


async def test_with_the_venues_clock_a_yes_is_surely_about_a_younger_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It was created after it was held, by what this session knows of the venue's clock; so one question is enough."""
    async with open_venue(clock=venue_clock) as venue:
        die(tmp_path / "j", venue, holds=("mm-1",), at=EPOCH - 1, clock=10_000_000)
        await trio.sleep(5)
        venue.book.create(external_id="mm-1")
        async with venue.open(journal=tmp_path / "j") as ws:
            began = trio.current_time()
            (outcome,) = (await ws.resume()).outcomes
            assert outcome.kind == "canceled"
            assert trio.current_time() - began < 1
            assert ws.left_behind == ()


def essence(left: tuple[JournalOrder, ...]) -> list[tuple[Any, ...]]:
    """What a resume goes by."""
    return [(order.request, order.open_holds, order.unsettled, order.known_at, order.meant) for order in left]
