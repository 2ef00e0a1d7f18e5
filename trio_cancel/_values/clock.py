"""How far the venue's clock is from ours: an interval, never a single number and never a guess.

The only public sign of the venue's clock is the ``Date`` header of the upgrade, in whole seconds. The venue made it
between our request and its answer, so the offset (venue minus ours) lies in ``[Date - answered, Date + 1 s -
requested]``. The intervals of several connections are intersected.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import attrs

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY, _MONTH = r"(?P<day>\d{1,2})", "(?P<month>[a-z]{3})"
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d):(?P<second>\d\d)"
# RFC 9110, 5.6.7: the one form that may be sent, and the two older ones that must be understood.
_HTTP_DATES = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        rf"[a-z]+, *{_DAY}[ -]{_MONTH}[ -](?P<year>\d\d(?:\d\d)?) +{_TIME} +(?:GMT|UTC|[+-]0000)",
        rf"[a-z]{{3}} +{_MONTH} +{_DAY} +{_TIME} +(?P<year>\d{{4}})",
    )
)


@attrs.frozen
class OffsetInterval:
    """The bounds of the venue's clock minus ours, in milliseconds.

    Attributes:
        low: the least possible value, in milliseconds.
        high: the greatest possible value, in milliseconds.
    """

    low: float
    high: float

    @property
    def width(self) -> float:
        """How uncertain it is, in milliseconds."""
        return self.high - self.low

    @property
    def excludes_zero(self) -> bool:
        """True if the two clocks certainly differ."""
        return self.low > 0 or self.high < 0

    @property
    def nearest_to_zero(self) -> float:
        """The smallest correction that agrees with everything seen, in milliseconds; 0 unless 0 is excluded."""
        if self.low > 0:
            return self.low
        return self.high if self.high < 0 else 0.0

    @property
    def advice(self) -> str:
        """One clause that says in which direction our clock is off, by how much at least, and what to do."""
        way = "behind" if self.low > 0 else "ahead of"
        return (
            f"our clock is at least {abs(self.nearest_to_zero):.0f} ms {way} the venue's; the offset lies between "
            f"{self.low:.0f} and {self.high:.0f} ms, a width of {self.width:.0f} ms: set the clock, or pass "
            f'clock_offset="auto"'
        )

    def overlaps(self, other: OffsetInterval) -> bool:
        """Return True if both intervals can be true of the same clock."""
        return self.low <= other.high and other.low <= self.high

    def intersect(self, other: OffsetInterval) -> OffsetInterval:
        """Return the overlap; if the two contradict each other (a clock was set), return the newer, ``other``."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return OffsetInterval(low, high) if low <= high else other


def offset_from_date(date: str | None, requested_at: float, answered_at: float) -> OffsetInterval | None:
    """Return the interval that an upgrade's ``Date`` header allows, or None if there is no readable header.

    Args:
        date: the header's value.
        requested_at: our Unix seconds before the request was written.
        answered_at: our Unix seconds after its answer was read.
    """
    seconds = http_date(date)
    if seconds is None:
        return None
    low, high = seconds - answered_at, seconds + 1 - requested_at
    return OffsetInterval(low * 1000, high * 1000) if low <= high else None


def retry_after(value: str | None, date: str | None, answered_at: float) -> float | None:
    """Return the seconds that a server asks us to wait (RFC 9110, 10.2.3: a number, or a date by its own clock).

    Args:
        value: the ``Retry-After`` header.
        date: the ``Date`` header.
        answered_at: Unix seconds when the answer came, which stand in for ``date``.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    until, sent = http_date(value), http_date(date)
    return None if until is None else max(0.0, until - (answered_at if sent is None else sent))


def http_date(text: str | None) -> float | None:
    """Return the Unix seconds of an HTTP date (a ``Date`` or ``Retry-After`` header), or None if it is not one.

    All three forms of RFC 9110 are read, always as UTC. A year of two digits belongs to this century or, from 70 on, to
    the last. Any other text gives None: this never raises.
    """
    if text is None or len(text) > 64:
        return None
    for form in _HTTP_DATES:
        found = form.fullmatch(text.strip())
        if found is None:
            continue
        part = found.groupdict()
        month, year, second = part["month"].lower(), int(part["year"]), int(part["second"])
        if len(part["year"]) == 2:
            year += 1900 if year >= 70 else 2000
        if month not in _MONTHS or second > 60:
            return None
        try:
            at = datetime(
                year, 1 + _MONTHS.index(month), int(part["day"]), int(part["hour"]), int(part["minute"]), tzinfo=UTC
            )
        except ValueError:  # there is no such day or hour
            return None
        return at.timestamp() + second  # 60 is a leap second
    return None
