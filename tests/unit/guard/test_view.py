"""When a guard may take a journal over, on a clock of the test's."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel._guard.view import FIRST_PAUSE, GAP, LIVED, LONGEST_PAUSE, Seen, View

LIVE = Seen(1, "mm-1", 7, 1, 1, 3.0, "live")
LOOK = 0.1
"""Seconds from look to look."""


class World:
    """One journal, its guard and the time."""

    def __init__(self) -> None:
        self.view = View()
        self.now = 100.0
        self.row = LIVE

    def look(self, seconds: float = LOOK, *, took: float = 0.0) -> bool:
        """Let that much time pass and look at the journal; return whether it is due."""
        self.now += seconds
        self.view.saw([] if self.row.state == "free" else [self.row], self.now - took, self.now)
        return self.view.due() == [self.row]

    def looks_until_due(self, most: float = 10.0) -> float:
        """Look until the journal is due; return the seconds from the first look."""
        self.look()
        began = self.now
        while not self.look():
            assert self.now - began < most
        return self.now - began

    def change(self, **values: object) -> None:
        self.row = attrs.evolve(self.row, **values)  # type: ignore[arg-type] # of one of the fields


def test_a_session_that_says_nothing_for_a_lease_is_due() -> None:
    assert 3.0 <= World().looks_until_due() < 3.0 + 2 * LOOK


def test_a_wait_counts_from_the_end_of_a_look_to_the_begin_of_another() -> None:
    world = World()
    world.look(took=0.08)
    for _ in range(30):
        assert not world.look(took=0.08)  # 3 s after the first, but this look began before
    assert world.look(took=0.08)


@given(st.lists(st.floats(0.3, 2.9), max_size=20))
def test_a_session_that_beats_is_never_due(pauses: list[float]) -> None:
    world = World()
    for pause in pauses:
        for _ in range(int(pause / LOOK)):
            assert not world.look()
        world.change(beat=world.row.beat + 1)
        assert not world.look()


def test_an_epoch_that_changes_starts_the_wait_anew_though_the_beat_is_the_same() -> None:
    world = World()
    for _ in range(29):
        assert not world.look()
    world.change(epoch=2)
    assert world.looks_until_due() >= 3.0


def test_a_blind_gap_starts_the_wait_anew() -> None:
    world = World()
    for _ in range(29):
        world.look()
    assert not world.look(20.0)
    assert world.looks_until_due() >= 3.0 - LOOK


def test_so_does_a_failed_look_however_short() -> None:
    world = World()
    for _ in range(29):
        world.look()
    world.view.blind()
    assert not world.view.due()
    assert not world.look()
    assert world.looks_until_due() >= 3.0 - LOOK


def test_a_database_that_is_away_costs_nobody_the_journal() -> None:
    """Nobody can beat, and the guard cannot look; then both can."""
    world = World()
    for outage in (0.9, 3.0, 3600.0):
        world.look()
        world.look()
        assert not world.look(outage)
        world.change(beat=world.row.beat + 1)
        assert not world.look()


def test_what_is_left_is_due_at_once_and_what_is_free_never() -> None:
    world = World()
    world.change(state="left")
    assert world.look()
    world.change(state="free")
    assert not world.look()


def test_what_was_not_found_is_asked_for_again_with_growing_pauses() -> None:
    world = World()
    world.change(state="left")
    world.look()
    pauses = []
    for _ in range(12):
        world.view.asked(1, world.now, again=True)
        world.change(epoch=world.row.epoch + 1, beat=world.row.beat + 2)  # our own take-over, or another guard's
        began = world.now
        while not world.look():
            pass
        pauses.append(world.now - began)
    assert FIRST_PAUSE <= pauses[0] < FIRST_PAUSE + 2 * LOOK
    assert all(later > earlier for earlier, later in pairwise(pauses[:9]))
    assert LONGEST_PAUSE <= pauses[-1] < LONGEST_PAUSE + 2 * LOOK


def test_what_is_left_for_good_is_not_asked_for_until_a_session_has_lived() -> None:
    world = World()
    world.change(state="left")
    world.look()
    world.view.asked(1, world.now, again=False)
    assert not world.look(1.0)
    assert not world.look(1e6)
    world.change(state="live", epoch=2)
    while world.now < 1e6 + 200 + 2 * LIVED:
        world.look()
        world.change(beat=world.row.beat + 1)
    world.change(state="left")
    assert world.look()


def test_one_look_is_enough_once_each_journal_has_beaten() -> None:
    world = World()
    assert not world.view.is_decided(lambda seen: seen.id == 1)
    world.look()
    assert not world.view.is_decided(lambda seen: seen.id == 1)
    world.change(beat=2)
    world.look()
    assert world.view.is_decided(lambda seen: seen.id == 1)
    world.change(state="left")
    world.look()
    assert not world.view.is_decided(lambda seen: seen.id == 1)


def test_each_journal_is_looked_at_by_itself() -> None:
    """One that is new, before others in the list, changes nothing for them."""
    view, other = View(), attrs.evolve(LIVE, id=2)
    view.saw([LIVE, other], 0.0, 0.0)
    for tenth in range(1, 31):
        view.saw([attrs.evolve(LIVE, epoch=tenth + 1), other], tenth / 10, tenth / 10)
    assert view.due() == [other]
    assert [seen.id for seen in view.journals] == [1, 2]


def test_a_lease_and_a_gap_and_a_pause_end_at_their_last_moment() -> None:
    view = View()
    gap = GAP * LIVE.lease
    for looks in range(int(LIVE.lease / gap) + 1):
        assert not view.due()
        view.saw([LIVE], looks * gap, looks * gap)
    assert view.due() == [LIVE]
    left = attrs.evolve(LIVE, state="left")
    view.asked(LIVE.id, 100.0, again=True)
    view.saw([left], 100.0 + FIRST_PAUSE, 100.0 + FIRST_PAUSE)
    assert view.due() == [left]


@pytest.mark.parametrize(
    ("lived", "state", "beats", "forgotten"),
    [
        (LIVED, "live", True, True),
        (LIVED - 0.5, "live", True, False),
        (LIVED + 1, "left", True, False),
        (LIVED + 1, "live", False, False),
    ],
)
def test_a_pause_is_forgotten_when_a_session_has_lived_and_beaten(
    lived: float, state: str, beats: bool, forgotten: bool
) -> None:
    view, began = View(), 1000.0
    view.saw([attrs.evolve(LIVE, state="left")], began - 1, began - 1)
    view.asked(LIVE.id, began - 1, again=False)
    session = attrs.evolve(LIVE, epoch=2)
    view.saw([session], began, began)
    if beats:
        session = attrs.evolve(session, beat=2)
    now = began + lived
    view.saw([attrs.evolve(session, state=state)], now, now)
    left = attrs.evolve(session, state="left")
    view.saw([left], now, now)
    assert (view.due() == [left]) is forgotten
