"""How far the venue's clock is from ours: an interval, never a point, and never a guess (pure).

The only public sign of the venue's clock is the ``Date`` header of the upgrade, in whole seconds. It was made between
our request and its answer, so the offset (venue minus ours) lies in ``[Date - answered, Date + 1 s - requested]``.
Several connections intersect their intervals.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

import attrs


@attrs.frozen
class OffsetInterval:
    """Where the venue's clock minus ours lies, in milliseconds.

    Attributes:
        low: its least possible value, in milliseconds.
        high: its greatest possible value, in milliseconds.
    """

    low: float
    high: float

    @property
    def width(self) -> float:
        """How uncertain it is, in milliseconds."""
        return self.high - self.low

    @property
    def excludes_zero(self) -> bool:
        """True if the two clocks surely differ."""
        return self.low > 0 or self.high < 0

    @property
    def nearest_to_zero(self) -> float:
        """The smallest correction that agrees with everything seen, in milliseconds; 0 unless 0 is excluded."""
        if self.low > 0:
            return self.low
        return self.high if self.high < 0 else 0.0

    @property
    def advice(self) -> str:
        """One clause that says which way our clock is off, by how much at least, and what to do."""
        way = "behind" if self.low > 0 else "ahead of"
        return (
            f"our clock is at least {abs(self.nearest_to_zero):.0f} ms {way} the venue's; the offset lies between "
            f"{self.low:.0f} and {self.high:.0f} ms, a width of {self.width:.0f} ms: set the clock, or pass "
            f'clock_offset="auto"'
        )

    def overlaps(self, other: OffsetInterval) -> bool:
        """Return True if both can be true of one clock."""
        return self.low <= other.high and other.low <= self.high

    def intersect(self, other: OffsetInterval) -> OffsetInterval:
        """Return what both allow; if they contradict each other (a clock was set meanwhile), the newer, ``other``."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return OffsetInterval(low, high) if low <= high else other


def offset_from_date(date: str | None, requested_at: float, answered_at: float) -> OffsetInterval | None:
    """Return the interval that an upgrade's ``Date`` header allows, or None if there is none that can be read.

    Args:
        date: the header's value.
        requested_at: our Unix seconds before the request was written.
        answered_at: our Unix seconds after its answer was read.
    """
    if not date:
        return None
    try:
        at = parsedate_to_datetime(date)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()  # "-0000" is UTC, too
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    low, high = seconds - answered_at, seconds + 1 - requested_at
    return OffsetInterval(low * 1000, high * 1000) if low <= high else None
