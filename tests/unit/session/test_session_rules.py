"""What a session says of its connections and its end, and how long it pauses: each rule alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.venues import Remembering, open_venue, venue_clock
from trio_cancel import (
    CancelRequest,
    ConnectionLost,
    HandshakeFailed,
    LookupFailed,
    NotSent,
    Observer,
    Outcome,
    SessionClosed,
    TradingWS,
    Unknown,
)
from trio_cancel._engine.engine import Engine
from trio_cancel._session import session as module
from trio_cancel._session.connection import Connection
from trio_cancel._session.session import (
    BACKOFF_FIRST,
    EARLY_FIRST,
    EARLY_MOST,
    HURRY,
    RETRY_AFTER_MOST,
)
from trio_cancel._values.models import TOKEN_FIELDS
from trio_cancel._venue.codec import Signer
from trio_cancel.lookup import OrderState
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


async def test_a_connection_that_ends_is_logged_with_its_cause(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        await venue.cut()
        await trio.sleep(5)
        assert ws.state is SessionState.CONNECTED
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("connection ")]
    assert [line for line in lines if "ended" in line and line.startswith("connection 1 ended: ")]
    assert not [line for line in lines if line.startswith("connection 2 ended")]  # we closed it


async def test_a_first_connection_that_ends_at_once_keeps_its_cause(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ConnectionLost("cut")

    async def serve(*_: Any) -> ConnectionLost:
        await trio.lowlevel.checkpoint()
        return lost

    monkeypatch.setattr(Connection, "serve", serve)
    async with open_venue() as venue:
        with pytest.raises(HandshakeFailed, match="ended at once: cut") as caught:
            async with venue.open():
                raise AssertionError("it is not entered")
        assert caught.value.__cause__ is lost


class Odd:
    """A scope that cannot be ended."""

    def end(self) -> trio.Event:
        raise ValueError("no")

    def cut_off(self) -> None: ...


async def test_a_scope_that_cannot_be_ended_is_logged_and_the_session_ends(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ws._session.scopes[Odd()] = None
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["an order scope could not be ended: ValueError: no"]


async def test_no_scope_is_opened_while_the_session_ends(autojump_clock: MockClock) -> None:
    refused: list[BaseException] = []
    async with open_venue(clock=venue_clock) as venue, trio.open_nursery() as nursery:
        (order_id,) = venue.orders(1)
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)

        async def late(ws: TradingWS) -> None:
            await trio.sleep(3)
            try:
                await ws.open_order_scope().__aenter__()
            except SessionClosed as error:
                refused.append(error)

        async with venue.open() as ws:
            scope = ws.open_order_scope(grace=10)
            await scope.__aenter__()
            await scope.add(order_id)
            nursery.start_soon(late, ws)  # noqa: ASYNC111 - it is to come too late
            await trio.sleep(1)
        assert trio.current_time() >= 10
    (error,) = refused
    assert str(error).startswith("This session is ending")


@pytest.mark.parametrize("failed", [False, True])
async def test_a_session_says_that_it_is_closed_before_the_connection_says_goodbye(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    seen: list[SessionState] = []
    close = Connection.close
    async with open_venue() as venue:
        async with venue.open() as ws:

            async def noting(self: Connection) -> None:
                seen.append(ws.state)
                await close(self)

            monkeypatch.setattr(Connection, "close", noting)
            if failed:
                ws._session.state = SessionState.FAILED
        assert seen == [SessionState.FAILED if failed else SessionState.CLOSED]
        seen.append(ws.state)
        assert seen[-1] is SessionState.CLOSED


async def test_what_a_boundary_caught_is_logged_or_handed_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        handed: list[BaseException] = []
        session, fatal = ws._session, SystemExit(3)
        monkeypatch.setattr(session, "hand_on", handed.append)
        assert session._log_failure("it failed", None)
        assert session._log_failure("it failed", fatal)
        assert not caplog.records
        assert not session._log_failure("it failed", ValueError("no"))
        assert handed == [fatal]
        assert caplog.records[-1].getMessage() == "it failed: ValueError: no"


async def test_an_observer_that_ends_the_program_ends_the_block(autojump_clock: MockClock) -> None:
    class Ending(Observer):
        def connection_lost(self, number: int, cause: BaseException | None) -> None:
            raise SystemExit(3)

    async with open_venue() as venue:
        with pytest.raises(SystemExit):
            async with venue.open(observer=Ending()) as ws:
                notify, hand_on = ws._session._notify, ws._session.hand_on
                await venue.cut()
                await trio.sleep_forever()
        assert notify is not None
        assert notify._hand_on == hand_on  # so that nothing is raised in the middle of things


async def test_a_session_is_made_as_the_options_say(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def signer(*args: Any) -> Signer:
        made.append(args)
        return Signer(*args)

    async def lookup(request: CancelRequest) -> OrderState:
        raise LookupFailed("no")

    monkeypatch.setattr(module, "Signer", signer)
    async with open_venue() as venue:
        for field in TOKEN_FIELDS:
            for closed_too in (False, True):
                async with venue.open(token_field=field, lookup=lookup, look_up_closed=closed_too) as ws:
                    assert ws._session.engine._in_flight._closed_too is closed_too
                assert made.pop()[1] == field


async def test_closing_is_never_cancelled(autojump_clock: MockClock) -> None:
    """The block's clean-up may be in a cancelled scope of its own; orders get their outcomes all the same."""
    async with open_venue() as venue, venue.open() as ws:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws._session.close()
            assert ws.state is SessionState.CLOSED
        assert not scope.cancelled_caught
