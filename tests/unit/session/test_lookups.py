"""Lookups of one session, each rule alone: on an engine without sockets."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Desk, bare
from trio_cancel import CancelRequest, LookupFailed
from trio_cancel._session.lookups import PATIENCE, Lookups
from trio_cancel.lookup import OrderState


def unexpected(what: object) -> None:
    raise AssertionError(what)


class Lister:
    """A lookup that lists, as it is told."""

    def __init__(self, found: Any = None) -> None:
        self.found = found

    async def __call__(self, request: CancelRequest) -> OrderState:
        raise LookupFailed("no")

    async def open_orders(self, page: int) -> Any:
        if self.found is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.found


async def test_what_is_no_page_is_named(autojump_clock: MockClock) -> None:
    lookups = Lookups(Lister([1]), Desk().engine, unexpected)
    with pytest.raises(LookupFailed) as caught:
        await lookups.open_orders(1)
    assert str(caught.value) == "The list of open orders is list, not a page."


async def test_a_list_that_does_not_return_is_named(autojump_clock: MockClock) -> None:
    lookups = Lookups(Lister(), Desk().engine, unexpected)
    with pytest.raises(LookupFailed) as caught:
        await lookups.open_orders(1)
    assert str(caught.value) == "The list of open orders did not return within 30 s."
    assert trio.current_time() == PATIENCE


def test_what_is_due_at_the_same_time_comes_in_order() -> None:
    lookups = Lookups(Lister(), Desk().engine, unexpected)
    orders = [bare(CancelRequest(f"o-{number}")) for number in range(5)]
    for order in orders:
        lookups._put(order, 1.0)
    assert [order for _, _, order in sorted(lookups._due)] == orders


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_ends_the_program_is_handed_on_and_the_lookups_go_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    handed: list[BaseException] = []
    lookups = Lookups(Lister(), Desk().engine, handed.append)
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        await trio.lowlevel.checkpoint()
        if runs < 3:
            raise error
        await trio.sleep_forever()

    monkeypatch.setattr(lookups, "_run", run)
    with trio.move_on_after(1):
        await lookups.run()
    assert handed == [error, error]
    assert runs == 3
