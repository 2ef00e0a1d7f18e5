"""The venue's request limits: a token bucket and a number per day (sans-I/O: the time is passed in)."""

from __future__ import annotations

from trio_cancel.sandbox._protocol import DAILY_LIMIT, TOO_MANY, Refusal

DAY = 86_400.0  # s


class Limits:
    """How many requests the account may make; a refused request does not count.

    Args:
        rate: requests a second, None for no limit.
        burst: requests at once after a pause, at least 1; if left out, the rate itself, at least 1.
        daily: requests in each 24 h from the first one, None for no limit.
    """

    def __init__(self, rate: float | None = None, burst: float | None = None, daily: int | None = None) -> None:
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError("rate must be requests a second, more than 0.")
        if burst is not None and (rate is None or burst < 1):
            raise ValueError("burst must be at least 1, and it needs a rate.")
        if daily is not None and daily < 0:
            raise ValueError("daily_limit must not be negative.")
        self.rate = rate
        self.burst: float = burst if burst is not None else max(1.0, rate or 1.0)
        self.daily = daily
        self._tokens = float(self.burst)
        self._filled_at: float | None = None
        self._day_began: float | None = None
        self._today = 0

    def refusal(self, now: float) -> Refusal | None:
        """Count one request at time ``now`` (s, any clock that only goes forward); return the refusal if it is over."""
        if self.daily is not None:
            if self._day_began is None or now - self._day_began >= DAY:
                self._day_began, self._today = now, 0
            if self._today >= self.daily:
                return DAILY_LIMIT
        if self.rate is not None:
            if self._filled_at is not None:
                self._tokens = min(float(self.burst), self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens < 1:
                return TOO_MANY
            self._tokens -= 1
        self._today += 1
        return None
