"""The network that the simulation stands on must be as bad as it says, and no worse."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from .record import Recorder
from .stream import NetFault, Road, Wire


def wire(**road: object) -> Wire:
    return Wire(0, Road(**road), Recorder(), random.Random(0))  # type: ignore[arg-type]  # checked where it is used


async def test_a_sender_waits_for_room() -> None:
    pair = wire(capacity=1_000)
    with trio.move_on_after(0.01) as scope:
        await pair.client.send_all(bytes(5_000))
    assert scope.cancelled_caught
    assert len(pair.up.data) == 1_000
    assert len(await pair.venue.receive_some()) == 1_000


async def test_a_send_accepts_a_part_and_says_how_much() -> None:
    pair = wire(most=100)
    assert await pair.client.send_some(bytes(250)) == 100
    assert pair.client.send_now(bytes(150)) == 100
    assert [total for _, total in pair.accepts] == [100, 200]


async def test_bytes_travel_for_the_latency(autojump_clock: trio.testing.MockClock) -> None:
    pair = wire(latency=0.4)
    await pair.client.send_all(b"x")
    assert await pair.venue.receive_some() == b"x"
    assert trio.current_time() == pytest.approx(0.4)


@pytest.mark.parametrize(("fault", "arrives"), [(NetFault.RESET_LOST, b""), (NetFault.RESET_KEPT, b"0123")])
async def test_a_reset_in_the_middle_of_a_write(fault: NetFault, arrives: bytes) -> None:
    pair = wire(fault=fault, at_byte=4)
    assert pair.client.send_now(b"0123456789") == 4
    with pytest.raises(trio.BrokenResourceError):
        await pair.client.send_all(b"456789")
    if arrives:
        assert await pair.venue.receive_some() == arrives
    with pytest.raises(trio.BrokenResourceError):
        await pair.venue.receive_some()


async def test_a_black_hole_takes_bytes_and_gives_none(autojump_clock: trio.testing.MockClock) -> None:
    pair = wire(fault=NetFault.BLACKHOLE, at_byte=2, capacity=10)
    with trio.move_on_after(1_000):
        await pair.client.send_all(bytes(20))
    assert len(pair.up.data) == 10
    with trio.move_on_after(1_000) as scope:
        await pair.venue.receive_some()
    assert scope.cancelled_caught


async def test_a_stall_ends(autojump_clock: trio.testing.MockClock) -> None:
    pair = wire(fault=NetFault.STALL, at_byte=2, seconds=7.0)
    await pair.client.send_all(b"0123")
    assert await pair.venue.receive_some() == b"0123"
    assert trio.current_time() == pytest.approx(7.0)


async def test_a_cut_ends_the_stream_within_a_reply() -> None:
    pair = wire(fault=NetFault.CUT, at_byte=3, upward=False)
    with pytest.raises(trio.BrokenResourceError):
        await pair.venue.send_all(b"012345")
    assert await pair.client.receive_some() == b"012"
    assert await pair.client.receive_some() == b""


async def test_bytes_after_an_unfinished_write_are_noticed() -> None:  # noqa: ASYNC124 - the wire needs trio's clock
    pair = wire(most=4)
    pair.client.send_now(b"012345")
    pair.client.send_now(b"45")
    assert not pair.wrote_on
    pair.client.send_now(b"678901")
    pair.client.send_now(b"other")
    assert pair.wrote_on


async def test_closing_is_told_to_both_ends() -> None:
    pair = wire()
    await pair.venue.send_all(b"last")
    await pair.venue.aclose()
    assert await pair.client.receive_some() == b"last"
    assert await pair.client.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await pair.client.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await pair.venue.receive_some()
