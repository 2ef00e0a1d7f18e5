"""Run under asyncio by mistake: every door says so in one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from trio_cancel import ConfigurationError, Credentials, cancel_on_signals, open_trading_ws
from trio_cancel.lookup import RestLookup
from trio_cancel.sandbox import open_sandbox, serve_sandbox

CREDENTIALS = Credentials("t", "s")


async def a_session() -> None:
    async with open_trading_ws("wss://localhost:1", credentials=CREDENTIALS):
        pytest.fail("asyncio cannot run it")


async def a_session_with_a_journal() -> None:
    async with open_trading_ws("wss://localhost:1", credentials=CREDENTIALS, journal="nowhere/journal"):
        pytest.fail("asyncio cannot run it")


async def signals() -> None:
    async with cancel_on_signals():
        pytest.fail("asyncio cannot run it")


async def a_lookup() -> None:
    async with RestLookup().opened(credentials=CREDENTIALS):
        pytest.fail("asyncio cannot run it")


async def a_sandbox() -> None:
    async with open_sandbox():
        pytest.fail("asyncio cannot run it")


async def a_served_sandbox() -> None:
    await serve_sandbox()


@pytest.mark.parametrize(
    ("main", "error", "door"),
    [
        (a_session, ConfigurationError, r"open_trading_ws\(\)"),
        (a_session_with_a_journal, ConfigurationError, r"open_trading_ws\(\)"),
        (signals, ConfigurationError, r"cancel_on_signals\(\)"),
        (a_lookup, ConfigurationError, r"RestLookup\.opened\(\)"),
        (a_sandbox, RuntimeError, "A sandbox"),
        (a_served_sandbox, RuntimeError, "A sandbox"),
    ],
)
def test_every_door_says_that_it_needs_trio(
    main: Callable[[], Coroutine[None, None, None]],
    error: type[Exception],
    door: str,
) -> None:
    with pytest.raises(error, match=rf"^{door} works under trio only, .*asyncio.*trio\.run\(main\)") as caught:
        asyncio.run(main())  # what anyio runs by default, too
    assert str(caught.value).count(". ") == 0


def test_where_nothing_runs_it_says_so_too() -> None:
    coroutine = a_session()
    with pytest.raises(ConfigurationError, match="trio is not running here"):
        coroutine.send(None)
