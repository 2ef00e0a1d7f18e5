"""What is believed of the venue's clock, and when it is looked at again, on clocks that are numbers."""

from __future__ import annotations

import math

import pytest

from trio_cancel._engine.venue_clock import CLOCK_MOVED, FRESH_FOR, PROBE_EVERY, VenueClock
from trio_cancel._values.clock import OffsetInterval

AHEAD = OffsetInterval(2000, 3000)


class Clocks:
    """Our clock, a steady one, and what is known of the venue's."""

    def __init__(self, *, correct: bool = False, correction: float = 0.0) -> None:
        self.wall = 1_000_000.0
        self.venue = VenueClock(lambda: self.wall, lambda: 0.0, correct=correct, correction=correction)

    @property
    def known(self) -> OffsetInterval | None:
        return self.venue.interval

    @property
    def correction(self) -> float:
        return self.venue.correction

    def set_by(self, seconds: float) -> None:
        self.wall += seconds


def test_before_anything_is_known_the_given_correction_counts() -> None:
    clocks = Clocks(correct=True, correction=7.5)
    clocks.venue.check(5.0)
    assert (clocks.known, clocks.correction) == (None, 7.5)
    clocks.venue.saw(None, 3, 5.0)
    assert (clocks.known, clocks.correction) == (None, 7.5)
    clocks.venue.saw(AHEAD, 3, 5.0)
    assert (clocks.known, clocks.correction) == (AHEAD, 2.0)
    clocks = Clocks(correction=7.5)
    clocks.venue.saw(AHEAD, 3, 5.0)
    assert (clocks.known, clocks.correction) == (AHEAD, 7.5)


def test_several_looks_narrow_it_down() -> None:
    clocks = Clocks(correct=True)
    clocks.venue.saw(AHEAD, 0, 0.0)
    clocks.venue.saw(OffsetInterval(2500, 3500), 0, 1.0)
    assert clocks.known == OffsetInterval(2500, 3000)
    assert clocks.correction == 2.5


@pytest.mark.parametrize("moved", [CLOCK_MOVED + 0.001, -CLOCK_MOVED - 0.001, 3600.0])
@pytest.mark.parametrize("correct", [True, False])
def test_a_clock_that_was_set_is_known_no_more(moved: float, correct: bool, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks(correct=correct, correction=1.0)
    clocks.venue.saw(AHEAD, 0, 0.0)
    clocks.set_by(moved)
    clocks.venue.check(9.0)
    assert clocks.known is None
    assert clocks.correction == (0.0 if correct else 1.0)
    assert f"our clock was set by {moved:+.1f} s, or the machine suspended" in caplog.text
    assert len(caplog.records) == 1
    clocks.venue.check(9.0)
    assert len(caplog.records) == 1  # it is told once
    # Who corrects by it wants to know it again at once, and not twice.
    assert clocks.venue.sign_again_at(1, 9.0) == math.inf
    clocks.venue.saw(AHEAD, 0, 10.0)
    assert clocks.known == AHEAD


def test_a_clock_that_is_slewed_is_believed() -> None:
    clocks = Clocks()
    clocks.venue.saw(AHEAD, 0, 0.0)
    for moved in (CLOCK_MOVED - 0.001, -2 * (CLOCK_MOVED - 0.001)):
        clocks.set_by(moved)
        clocks.venue.check(0.0)
        assert clocks.known == AHEAD


def test_each_look_is_held_against_our_clock_as_it_is_then() -> None:
    clocks = Clocks()
    clocks.venue.saw(AHEAD, 0, 0.0)
    clocks.set_by(50)
    other = OffsetInterval(-48000, -47000)
    clocks.venue.saw(other, 0, 1.0)
    assert clocks.known == other
    clocks.venue.check(2.0)
    assert clocks.known == other


def test_one_look_is_enough_at_a_time_and_for_a_minute() -> None:
    venue = Clocks().venue
    assert venue.sign_again_at(1, 100.0) == math.inf
    assert venue.sign_again_at(2, 100.0) == math.inf  # it is under way
    venue.probed()  # and failed
    assert venue.sign_again_at(3, 100.0 + PROBE_EVERY - 0.1) is None
    assert venue.sign_again_at(3, 100.0 + PROBE_EVERY) == math.inf


def test_what_was_signed_before_the_last_look_is_signed_anew_at_once() -> None:
    venue = Clocks().venue
    venue.saw(AHEAD, 10, 100.0)
    assert venue.sign_again_at(10, 101.0) == 101.0
    assert venue.sign_again_at(11, 101.0) is None  # it was signed after it, and what was seen is fresh
    assert venue.sign_again_at(11, 100.0 + FRESH_FOR - 0.1) is None
    assert venue.sign_again_at(11, 100.0 + FRESH_FOR) == math.inf


def test_who_corrects_doubts_what_is_fresh_as_well() -> None:
    venue = Clocks(correct=True).venue
    venue.saw(AHEAD, 10, 100.0)
    assert venue.sign_again_at(11, 101.0) == math.inf
    venue.probed()
    venue.saw(AHEAD, 11, 102.0)
    assert venue.sign_again_at(12, 103.0) is None  # refusals that go on are no reason for many looks


async def test_whoever_looks_is_rung() -> None:
    clocks = Clocks(correct=True)
    clocks.venue.saw(AHEAD, 0, 0.0)
    clocks.set_by(10)
    clocks.venue.check(5.0)
    await clocks.venue.wanted.wait()
    clocks.venue.probed()
    assert clocks.venue.sign_again_at(1, 6.0) is None  # one was made a second ago
