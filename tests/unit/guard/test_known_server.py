"""A take-over goes to no server that is older than the one where its journal was seen, nor one asked long ago."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_cancel._guard import database
from trio_cancel._guard.database import FRESH, SpareConnections
from trio_cancel._journal.address import server_of
from trio_cancel._journal.database import Settings, Unusable

KNOWN = Settings(read_only=False, standby=False, safe=True, replicated=True, timeline=2, system="1", process=1)
SERVER = server_of("postgresql://first,second/trading")


class Connection:
    """Stands for a connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closed = False

    def close(self) -> None:
        self.closed = True


@attrs.define
class World:
    """What there is to connect to, and when."""

    now: float = 100.0
    settings: Settings = KNOWN
    unusable: bool = False
    known: list[Settings | None] = attrs.Factory(list)
    made: list[Connection] = attrs.Factory(list)

    def connect(self, server: object, seconds: float, *, known: Settings | None) -> Connection:
        self.known.append(known)
        if self.unusable:
            raise Unusable("the server was left behind by a promotion")
        self.made.append(Connection(self.settings))
        return self.made[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(database, "connect", world.connect)
    monkeypatch.setattr(database, "steady", lambda: world.now)
    return world


@pytest.fixture
def spare(world: World) -> SpareConnections:
    assert SERVER is not None
    return SpareConnections(SERVER)


def use(spare: SpareConnections, known: Settings | None = KNOWN) -> Any:
    with spare.using(known) as connection:
        return connection


def test_a_take_over_refuses_what_its_guard_knows_to_be_older(world: World, spare: SpareConnections) -> None:
    world.unusable = True
    with pytest.raises(Unusable, match="left behind by a promotion"):
        use(spare)
    assert world.known == [KNOWN]


def test_one_that_was_made_a_moment_ago_is_used_again(world: World, spare: SpareConnections) -> None:
    first = use(spare)
    world.now += FRESH
    assert use(spare) is first
    assert not first.closed


def test_how_often_it_was_used_makes_it_no_younger(world: World, spare: SpareConnections) -> None:
    first = use(spare)
    world.now += FRESH / 2
    assert use(spare) is first
    world.now += FRESH
    assert use(spare) is not first
    assert first.closed


def test_one_of_an_older_timeline_than_is_known_by_now_is_let_go_of(world: World, spare: SpareConnections) -> None:
    first = use(spare)
    world.settings = newer = attrs.evolve(KNOWN, timeline=3)
    assert use(spare, newer) is not first
    assert first.closed


def test_after_an_error_it_is_not_used_again(world: World, spare: SpareConnections) -> None:
    with pytest.raises(OSError, match="lost"), spare.using(KNOWN):
        raise OSError("lost")
    assert world.made[0].closed
    assert use(spare) is not world.made[0]


def test_those_in_use_at_the_same_time_are_different_ones_and_both_are_kept(
    world: World, spare: SpareConnections
) -> None:
    with spare.using(KNOWN) as first, spare.using(KNOWN) as second:
        assert first is not second
    with spare.using(KNOWN), spare.using(KNOWN):
        pass
    assert len(world.made) == 2


def test_what_nobody_needs_any_more_is_let_go_of(world: World, spare: SpareConnections) -> None:
    first = use(spare)
    spare.tidy()
    assert not first.closed
    world.now += FRESH + 0.001
    spare.tidy()
    assert first.closed


def test_after_the_end_none_stays_open(world: World, spare: SpareConnections) -> None:
    idle = use(spare)
    with spare.using(KNOWN) as used:
        with spare.using(KNOWN):
            pass
        spare.close()
        assert not world.made[0].closed
    assert used is idle
    assert [connection.closed for connection in world.made] == [True, True]
