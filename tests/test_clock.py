"""The offset of the venue's clock: an interval that always holds the truth, and never a guess."""

from __future__ import annotations

import os
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel import OffsetInterval
from trio_cancel._values.clock import offset_from_date

NOW = 1_700_000_000.25


def seen(offset: float, requested: float, took: float, share: float) -> OffsetInterval | None:
    """What an upgrade tells if the venue's clock is so far ahead and answers at that share of the round trip."""
    return offset_from_date(
        formatdate(int(requested + took * share + offset), usegmt=True), requested, requested + took
    )


TIMES = st.floats(1.6e9, 1.8e9)
OFFSETS = st.floats(-1e6, 1e6)


@given(OFFSETS, st.lists(st.tuples(TIMES, st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_interval_holds_the_truth(offset: float, upgrades: list[tuple[float, float, float]]) -> None:
    all_of_them: OffsetInterval | None = None
    for requested, took, share in upgrades:
        one = seen(offset, requested, took, share)
        assert one is not None
        assert one.width == pytest.approx((1 + took) * 1000, rel=1e-3)
        width = one.width if all_of_them is None else min(one.width, all_of_them.width)
        all_of_them = one if all_of_them is None else all_of_them.intersect(one)
        assert all_of_them.low - 0.01 <= offset * 1000 <= all_of_them.high + 0.01
        assert all_of_them.width <= width + 0.01


def test_two_upgrades_at_other_parts_of_the_second_narrow_it() -> None:
    one, two = seen(0.0, NOW, 0.01, 0.5), seen(0.0, NOW + 0.7, 0.01, 0.5)
    assert one is not None
    assert two is not None
    assert one.intersect(two).width < 320


def test_a_clock_that_was_set_meanwhile_is_believed() -> None:
    old, new = OffsetInterval(0, 1000), OffsetInterval(5000, 6000)
    assert old.intersect(new) == new
    assert old.intersect(OffsetInterval(1000, 2000)) == OffsetInterval(1000, 1000)


@pytest.mark.parametrize(
    ("interval", "nearest", "way"),
    [
        (OffsetInterval(100, 1100), 100, "behind"),
        (OffsetInterval(-1100, -100), -100, "ahead of"),
        (OffsetInterval(-500, 500), 0, None),
        (OffsetInterval(0, 1000), 0, None),
        (OffsetInterval(-1000, 0), 0, None),
    ],
)
def test_the_least_correction(interval: OffsetInterval, nearest: float, way: str | None) -> None:
    assert interval.nearest_to_zero == nearest
    assert interval.excludes_zero is (way is not None)
    if way is not None:
        assert f"at least 100 ms {way} the venue's" in interval.advice
        assert "a width of 1000 ms" in interval.advice


@pytest.mark.parametrize(
    "date",
    [None, "", "yesterday", "Tue, 99 Nov 2022 08:12:31 GMT", "0", "x" * 10_000, "Tue, 15 Nov 99999 08:12:31 GMT"],
)
def test_a_date_that_cannot_be_read_tells_nothing(date: str | None) -> None:
    assert offset_from_date(date, NOW, NOW) is None


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="there is no way to set the zone here")
@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_our_time_zone_does_not_matter(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1_700_000_000
    date = formatdate(at, usegmt=True).replace("GMT", zone)
    try:
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, "TZ", "America/Sao_Paulo")
            time.tzset()
            interval = offset_from_date(date, at, at)
    finally:
        time.tzset()
    assert interval == OffsetInterval(0, 1000)


def test_a_clock_that_ran_backwards_tells_nothing() -> None:
    assert offset_from_date(formatdate(NOW, usegmt=True), NOW + 10, NOW) is None
