"""How fast requests may start: a rate that the user sets, and one found from the venue's answers.

Both get the time from outside and only say when the next request may start. The sessions of one account may share a
:class:`Pacer`; an :class:`AdaptiveRate` belongs to one session.
"""

from __future__ import annotations

import math
from contextlib import suppress

import trio

from trio_cancel._values.errors import ConfigurationError

WINDOW_START = 8
"""Requests in flight at first: few enough that an unknown limit costs few refusals."""
WINDOW_MOST = 256
"""Requests in flight at most: enough to fill one write. More gains nothing, and loses more if a connection breaks."""
BESIDE_LEAST = 64
"""Requests in flight that bulk cancels may always have beside single ones."""
BESIDE_FOR = 1.0
"""Seconds after a single cancel for which room is kept for the next one."""
BESIDE_MOST = 0.02
"""Seconds until an answer above which no room is kept: the venue itself may be slow, whatever the queue."""
PACED_START = 5.0
"""Requests a second after the first 429: slow, because it doubles quickly."""
PACED_LEAST = 0.2
"""Requests a second below which the pace never falls, so that every order still gets its turn."""
PACED_MOST = 5_000.0
"""Requests a second above which a pace no longer limits anything."""
DOUBLING = 0.5
"""Seconds in which the pace doubles until it reaches the limit."""
RECOVERY = 0.02
"""Growth of the pace per second after that."""
RECOVERY_EACH = 0.003
"""Growth of the pace per answer after that, at most: a slow venue should not refuse one of every few requests."""

_LEAST = 1e-9
"""Requests a second at least: one in 30 years."""
_BURST_MOST = 10**9
_ANY = 10**9
"""Requests in flight if only the window bounds them."""


class Pacer:
    """A rate limit on requests: ``rate`` a second, ``burst`` at once (the generic cell rate algorithm on trio's clock).

    Give one to each ``open_trading_ws(pacer=…)`` of an account and they share it. Use it in one ``trio.run`` at a time;
    it starts afresh in the next one. A copy (also by ``pickle``) has the same rate and burst and shares nothing.

    Args:
        rate: requests a second in the long run, more than 0.
        burst: requests that may start at once after a pause, at least 1.
        shared: share the rate with all sessions of the account whose journals are in the same database, on any machine,
            and with its guards. Each session that is opened with it needs such a journal, and keeps one more connection
            to the database. See the guide on databases.

    Raises:
        ConfigurationError: if ``rate`` or ``burst`` is out of range.

    Attributes:
        rate: as given.
        burst: as given.
        shared: as given.
    """

    __slots__ = ("_limit", "burst", "rate", "shared")

    def __init__(self, rate: float, burst: int = 1, *, shared: bool = False) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigurationError(f"Pacer needs a rate of more than 0 requests a second, not {rate!r}.")
        if rate < _LEAST:
            raise ConfigurationError(f"Pacer needs a rate of at least {_LEAST:g} requests a second, not {rate!r}.")
        if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
            raise ConfigurationError(f"Pacer needs a burst of at least 1 request, not {burst!r}.")
        if burst > _BURST_MOST:
            raise ConfigurationError(f"Pacer needs a burst of at most {_BURST_MOST} requests.")
        if not isinstance(shared, bool):
            raise ConfigurationError(f"shared must be True or False, not {shared!r}.")
        self.rate: float = rate
        self.burst: int = burst
        self.shared: bool = shared
        self._limit = Limit(rate, burst)

    def __repr__(self) -> str:
        return f"Pacer(rate={self.rate!r}, burst={self.burst!r}{', shared=True' if self.shared else ''})"

    def __reduce__(self) -> tuple[object, tuple[float, int, bool]]:
        return _made, (self.rate, self.burst, self.shared)


def _made(rate: float, burst: int, shared: bool) -> Pacer:
    return Pacer(rate, burst, shared=shared)


class Limit:
    """What a :class:`Pacer` has let through, and when it lets the next request through; its sessions share it.

    Attributes:
        rate: requests a second.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self._interval = 1 / rate
        self._tolerance = (burst - 1) / rate
        self._full_at = -math.inf
        self._run: trio.lowlevel.TrioToken | None = None

    def begin(self) -> None:
        """Begin to be used in this ``trio.run``; an earlier one that has ended is forgotten: its clock was another.

        Raises:
            ConfigurationError: it is in use in another run, in another thread.
        """
        run = trio.lowlevel.current_trio_token()
        if self._run is run:
            return
        if self._run is not None:
            with suppress(trio.RunFinishedError):
                self._run.run_sync_soon(_nothing)
                raise ConfigurationError("This Pacer is used in another trio.run that is running; give each its own.")
        self._run = run
        self._full_at = -math.inf

    @property
    def in_force(self) -> bool:
        """True if it limits anything."""
        return True

    @property
    def full_at(self) -> float:
        """The time (trio's clock, seconds) from which the whole burst is available again; it may be in the past."""
        return self._full_at

    def ready_at(self, now: float = -math.inf, before: int = 0) -> float:
        """Return the time (trio's clock, seconds) from which the next request may start; it may be in the past.

        Args:
            now: trio's clock; needed only with ``before``.
            before: how many requests will start before it.
        """
        if before:
            return max(self._full_at, now) + before * self._interval - self._tolerance
        return self._full_at - self._tolerance

    def lookup_at(self, now: float) -> float:  # noqa: ARG002 - of another kind of limit it depends on it
        """Return the time from which a lookup may start: one that leaves the whole burst to cancels."""
        return self._full_at

    def start(self, now: float) -> None:
        """Count a request that starts now."""
        self._full_at = max(self._full_at, now) + self._interval


def limit_of(pacer: Pacer) -> Limit:
    """Return the limit that a pacer shares between its sessions."""
    return pacer._limit


def pacer_of(limit: Limit) -> Pacer:
    """Return a pacer for one session, around another kind of limit."""
    pacer = Pacer(1)
    pacer._limit = limit
    return pacer


def _nothing() -> None:
    """Do nothing: only a run that goes on accepts it."""


class AdaptiveRate:
    """As fast as the venue allows, found out with care.

    The window of requests in flight starts small and grows with each answer. The first 429 switches to a pace: slow,
    doubling until the next 429, then halved, then growing slowly with one small decrease per burst of 429s. All 429s of
    requests that were written before a decrease belong to its burst.

    A single cancel comes after the requests that bulk cancels have in flight: the venue answers in order, and we read
    in order. If answers take more than twice as long as the fastest one of the connection, the rest of the time is
    spent in that queue, so fewer in flight are as fast. Then bulk cancels have fewer while single ones are made
    (:meth:`bulk_window`).
    """

    def __init__(self) -> None:
        self.window: int = WINDOW_START
        self.rate: float | None = None
        self._doubling = True
        self._next_at = -math.inf
        self._decreased_at = -math.inf
        self._since_decrease = 0
        self._grown_at = 0.0
        self._soonest = math.inf  # seconds until an answer
        self._beside = _ANY  # requests in flight that bulk cancels may have beside single ones
        self._beside_until = -math.inf

    def reset_window(self) -> None:
        """Start again with a small window: a new connection may lead to another machine."""
        self.window = WINDOW_START
        self._soonest = math.inf
        self._beside = _ANY

    def single(self, now: float) -> None:
        """Note a single cancel."""
        self._beside_until = now + BESIDE_FOR

    def answered(self, took: float, in_flight: int) -> None:
        """Note that an answer took ``took`` seconds, while ``in_flight`` requests were in flight."""
        if took < self._soonest:
            self._soonest = took
        # This many would be answered in twice the shortest time, if the venue takes them one after the other.
        self._beside = _ANY
        if 0 < took < BESIDE_MOST:
            self._beside = max(BESIDE_LEAST, int(in_flight * 2 * self._soonest / took))

    def bulk_window(self, now: float) -> int:
        """Return how many requests may be in flight for a bulk cancel to write another."""
        return min(self.window, self._beside) if now < self._beside_until else self.window

    def ready_at(self, now: float = -math.inf, before: int = 0) -> float:
        """Return the time from which the next request may start, after ``before`` others; it may be in the past."""
        if before and self.rate is not None:
            return max(self._next_at, now) + before / self.rate
        return self._next_at

    def start(self, now: float) -> None:
        """Count a request that starts now."""
        if self.rate is not None:
            self._next_at = max(self._next_at, now) + 1 / self.rate

    def accepted(self, now: float) -> None:
        """Count an answer that was not a 429."""
        if self.window < WINDOW_MOST:
            self.window += 1
        if self.rate is None:
            return
        self._since_decrease += 1
        # Only time in which requests flowed counts: an idle hour must not make the pace grow.
        busy = min(now - self._grown_at, 2 / self.rate)
        self._grown_at = now
        self.rate *= 2 ** (busy / DOUBLING) if self._doubling else 1 + min(RECOVERY * busy, RECOVERY_EACH)
        if self.rate > PACED_MOST:
            self.rate = None

    def limited(self, now: float, written_at: float) -> bool:
        """Count a 429 for a request written at ``written_at``; return True if it changed the pace."""
        if written_at <= self._decreased_at:
            return False
        if self.rate is None:
            self.rate = PACED_START
            self._doubling = True
        elif self._doubling or self._since_decrease < 4:
            self.rate = max(PACED_LEAST, self.rate / 2)
            self._doubling = False
        else:
            self.rate = max(PACED_LEAST, self.rate * 0.9)
        self._decreased_at = self._grown_at = now
        self._since_decrease = 0
        self._next_at = now + 1 / self.rate
        return True
