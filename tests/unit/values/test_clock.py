"""The offset of the venue's clock: an interval that always holds the truth, and never a guess."""

from __future__ import annotations

import os
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel._values.clock import http_date, offset_from_date
from trio_cancel.types import OffsetInterval

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
    ("one", "other", "overlap"),
    [((0, 10), (10, 20), True), ((0, 10), (10.1, 20), False), ((0, 10), (3, 4), True), ((0, 10), (-5, 20), True)],
)
def test_two_intervals_of_one_clock_overlap(
    one: tuple[float, float], other: tuple[float, float], overlap: bool
) -> None:
    first, second = OffsetInterval(*one), OffsetInterval(*other)
    assert first.overlaps(second) is second.overlaps(first) is overlap
    both = first.intersect(second)
    assert both == (OffsetInterval(max(one[0], other[0]), min(one[1], other[1])) if overlap else second)


def test_the_advice_is_one_clause_with_all_its_numbers() -> None:
    assert OffsetInterval(4000.4, 5200.0).advice == (
        "our clock is at least 4000 ms behind the venue's; the offset lies between 4000 and 5200 ms, a width of "
        '1200 ms: set the clock, or pass clock_offset="auto"'
    )
    assert "at least 100 ms ahead of the venue's" in OffsetInterval(-300, -100).advice


def test_a_date_is_read_up_to_a_length_and_never_beyond() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(date.ljust(64)) == 784111777
    assert http_date(date.ljust(65)) is None


def test_the_interval_is_that_of_the_whole_second_and_the_round_trip() -> None:
    at = 1_700_000_000
    assert offset_from_date(formatdate(at, usegmt=True), at - 0.25, at + 0.5) == OffsetInterval(-500, 1250)
    # The answer came a second before the request, by our clock: that is still possible, more is not.
    assert offset_from_date(formatdate(at, usegmt=True), at + 1, at) == OffsetInterval(0, 0)
    assert offset_from_date(formatdate(at, usegmt=True), at + 1.5, at) is None


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        (" sun, 6 nov 1994 8:49:37 gmt ", 784111777),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 784111777),
        ("Saturday, 01-Jan-00 00:00:00 GMT", 946684800),
        ("Fri, 31 Dec 1999 23:59:60 GMT", 946684800),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0),
        ("Friday, 01-Jan-69 00:00:00 GMT", 3124224000),
        ("Tue, 01 Dec 2020 00:00:00 GMT", 1606780800),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        ("Sun, 06 Nov 1994 08:49:61 GMT", None),
        ("Sun, 31 Feb 2020 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:60:37 GMT", None),
        ("Mon, 01 Jan 0000 00:00:00 GMT", None),
        ("Mon, 01 Jan -001 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, " + "9" * 5000 + " Jan 2020 00:00:00 GMT", None),
        ("Sun, \u0660\u0666 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov \u0661\u0669\u0669\u0664 08:49:37 GMT", None),
        ("Sun, 06 Nov \xb2\xb3\xb2\xb3 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +0100", None),
        ("Sun, 06 Nov 1994 08:49:37 EST", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT\n", 784111777),
        ("", None),
        (None, None),
    ],
)
def test_http_dates(text: str | None, seconds: int | None) -> None:
    assert http_date(text) == seconds


DATE_LIKE = st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,2} (Jan|Feb|Nov|Xyz) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\Z")


@given(st.text(max_size=80) | DATE_LIKE)
def test_whatever_stands_for_a_date_never_raises(text: str) -> None:
    seconds = http_date(text)
    if seconds is not None:  # then it says the same day again
        day, month, year = text[5:-13].split()
        assert formatdate(seconds - seconds % 86_400, usegmt=True)[5:16] == f"{int(day):02} {month} {year}"
