"""What a session says of its connections and its end, and how long it pauses: each rule alone."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.tools.venues import Remembering, open_venue
from trio_cancel import ConnectionLost, HandshakeFailed, NotSent, Outcome, SessionClosed, Unknown
from trio_cancel._engine.engine import Engine
from trio_cancel._session.session import (
    BACKOFF_FIRST,
    EARLY_FIRST,
    EARLY_MOST,
    HURRY,
    RETRY_AFTER_MOST,
)
from trio_cancel.sandbox import Fault
from trio_cancel.types import SessionState


async def test_the_observer_is_told_of_each_connection_by_its_number(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch):
        for _ in range(2):
            venue.failures = [OSError("down")]
            await venue.cut()
            await trio.sleep(30)
    assert watch.of("connection_opened") == [(1,), (2,), (3,)]
    lost = watch.of("connection_lost")
    assert [number for number, _ in lost] == [1, 2, 3]
    assert [type(cause) for _, cause in lost] == [ConnectionLost, ConnectionLost, type(None)]
    failed = watch.of("connection_failed")
    assert [type(error) for (error,) in failed] == [HandshakeFailed] * 2


async def test_a_session_that_fails_tells_why(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
        await venue.cut()
        await trio.sleep(5)
        assert ws.state is SessionState.FAILED
        assert watch.of("connection_failed") == [(ws._session.failure,)]


async def test_what_is_under_way_at_the_end_says_that_it_was_the_end(autojump_clock: MockClock) -> None:
    outcomes: list[Outcome] = []
    async with open_venue(delay=60.0) as venue, trio.open_nursery() as nursery, venue.open() as ws:

        async def cancel(order_id: str) -> None:
            outcomes.append(await ws.try_cancel(order_id))

        for order_id in venue.orders(30):
            nursery.start_soon(cancel, order_id)
        await trio.sleep(1)
    causes = {str(outcome.cause) for outcome in outcomes if isinstance(outcome, NotSent | Unknown)}
    assert causes == {"the session's block has ended"}
    assert len(outcomes) == 30
    with pytest.raises(SessionClosed) as closed:
        await ws.try_cancel("later")
    assert str(closed.value) == ("This session is closed: its block has ended. Open a new one with open_trading_ws().")


async def test_a_ping_takes_as_long_as_it_takes(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        await trio.sleep(5)
        assert 0 <= await ws.ping() < 1
        venue.failures = [OSError("down")] * 10
        await venue.cut()
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError, match=r"^there is no connection now$"):
            await ws._session.ping()


async def test_the_pauses_between_tries(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_venue() as venue, venue.open() as ws:
        session = ws._session

        async def pause(backoff: float, retry_after: float | None = None) -> float:
            began = trio.current_time()
            await session._pause(backoff, retry_after)
            return trio.current_time() - began

        await trio.sleep(100)
        assert await pause(4.0) == 4.0
        assert await pause(4.0, 10.0) == 10.0
        assert await pause(4.0, 1.0) == 4.0
        assert await pause(4.0, 1e9) == RETRY_AFTER_MOST
        monkeypatch.setattr(Engine, "last_chance", True)
        assert await pause(100.0) == pytest.approx(BACKOFF_FIRST / 2)
        assert await pause(100.0) == pytest.approx(HURRY)
        assert await pause(100.0) == pytest.approx(HURRY)
        monkeypatch.setattr(Engine, "last_chance", False)
        monkeypatch.setattr(Engine, "waiting", True)
        early = EARLY_FIRST
        while early < EARLY_MOST:
            assert await pause(0.1, 1e9) == pytest.approx(early)
            early *= 2
        assert await pause(0.1, 1e9) == pytest.approx(EARLY_MOST)
        assert await pause(EARLY_MOST + 1, 1e9) == pytest.approx(EARLY_MOST + 1)
