"""One rate for all sessions of an account, on several machines, and the guard (sans-I/O; gets the time from outside).

Anything that may start requests (a session or a guard) is a *member*. A table that all members share (the *pool*) says
how much of the rate has been granted. :func:`grant` decides, in one transaction of the database, what a member gets. A
member asks ahead and in small pieces, so that even an idle one has one start in hand and a cancel need not wait.
Everything that was granted counts as spent: what gets lost on the way is one start too few, never one too many.

**The guard first.** While a guard waits, all sessions together get at most ``OTHERS`` of the rate.

**Without the database** each member goes on with its part, which is the rate divided by the number of members; together
the parts make up the rate. It starts to do so ``AWAY`` seconds after it last asked successfully. The pool reserves that
part for each member that it has heard nothing of for ``RESERVED`` seconds, which is sooner; so the sum is also right if
only some members cannot reach the database. A member that was silent for ``FORGOTTEN`` seconds while others asked has
no part any more.

The pool's times are seconds of the database's clock. If that clock is set, or another server takes its place, at most
one burst more or less is granted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import attrs

from trio_cancel._engine.rate import Limit
from trio_cancel._trio.wakeup import Wakeup

BEAT = 0.5
"""Seconds between two asks of a member that needs nothing."""
RESERVED = 1.0
"""Seconds of silence after which the pool reserves a member's part."""
AWAY = 1.5
"""Seconds since its last successful ask after which a member goes on with its part: the longest that a cancel waits."""
FORGOTTEN = 60.0
"""Seconds of silence after which it has no part."""
PIECE = 0.25
"""Seconds ahead that starts are granted: all members together have this much of the rate in hand, or one start each."""
OTHERS = 0.25
"""The part of the rate that sessions get while a guard waits."""
LATE = 0.05
"""Seconds by which a request may be written later than it was granted for, as while its intent is on its way to the
disk. The venue only counts from then on, so the last requests of a burst are granted so much later."""
GUARD_WAITS = 1.0
"""Seconds for which a guard's message that it waits counts."""
SOON = 0.01
"""Seconds between two asks at least."""
UNLIMITED = 1e6
"""Requests a second of a member whose account has no shared pace."""
_ROUNDING = 1e-6


@attrs.frozen
class Ask:
    """What a member tells the pool."""

    number: int  # starts that it asks for; if negative, starts that it gives back
    waits: bool  # whether a request is waiting for one


@attrs.frozen
class Pool:
    """What was granted of an account's rate. Times are seconds of the database's clock."""

    rate: float  # requests a second
    burst: int  # requests at once after a pause
    full_at: float = 0.0  # when the whole burst is there again
    guard_at: float = 0.0  # when a guard last said that it waits
    others_at: float = 0.0  # until when the sessions have used up their part while a guard waits
    asked_at: float = 0.0  # when a member last asked
    since: float = 0.0  # since when members have asked without a long gap; in a gap, perhaps nobody could ask


@attrs.frozen
class Grant:
    """What the pool tells a member."""

    rate: float  # of the account, requests a second
    members: int  # of its pool, at least 1
    granted: int  # starts; negative, as in the ask, if some were given back
    due_in: float  # seconds after which the first of them may be used; each further one follows `1 / rate` later
    again_in: float  # seconds after which there may be more


def grant(
    pool: Pool, seen: Mapping[str, float], member: str, ask: Ask, now: float, *, guard: bool
) -> tuple[Pool, Grant]:
    """Decide what a member gets.

    Args:
        pool: its present state.
        seen: when each member was last heard of, as far as that is on record.
        member: who asks.
        ask: what it asks for.
        now: seconds of the database's clock.
        guard: whether the member is a guard.

    Returns:
        The pool from now on, in which the member was heard of at ``asked_at``; and the answer for the member.
    """
    since = pool.since if abs(now - pool.asked_at) < AWAY else now
    there = {one: at for one, at in seen.items() if abs(now - max(at, since)) < FORGOTTEN}
    members = len(there.keys() | {member})
    # What the silent members may have started since the pool was last asked.
    kept = sum(max(0.0, now - max(at + RESERVED, pool.asked_at)) for at in there.values()) / members
    rate, burst = pool.rate, max(1, pool.burst - members)  # each member has one of it in hand
    tolerance = (burst - 1) / rate - LATE
    full_at = min(pool.full_at + kept, now + burst / rate + PIECE)  # it is no later, unless the clock was set
    pool = attrs.evolve(pool, asked_at=now, since=since, guard_at=now if guard and ask.waits else pool.guard_at)
    if ask.number <= 0:
        return attrs.evolve(pool, full_at=full_at + ask.number / rate), Grant(rate, members, ask.number, 0.0, 0.0)
    full_at = max(full_at, now)
    due_in = full_at - tolerance - now
    room = math.floor((PIECE - due_in) * rate + _ROUNDING) + 1
    others_at = pool.others_at
    yields = not guard and abs(now - pool.guard_at) < GUARD_WAITS
    if yields:
        others_at = min(max(others_at, now), now + 1 / (rate * OTHERS))
        room = min(room, 1 if others_at <= now else 0)
    granted = max(0, min(ask.number, room))
    full_at += granted / rate
    if yields:
        others_at += granted / (rate * OTHERS)
    again_in = 0.0
    if granted < ask.number:
        again_in = max(0.0, full_at - tolerance - PIECE - now, others_at - now if yields else 0.0)
    return attrs.evolve(pool, full_at=full_at, others_at=others_at), Grant(rate, members, granted, due_in, again_in)


class SharedLimit(Limit):
    """A member: what it has in hand, and what it asks for. It replaces a pacer in one session.

    Args:
        now: trio's clock.
        guard: whether it is a guard's. Then it has no limit until the account is known to have a shared pace, and what
            it asks for at a time is a piece of the whole rate, of which it gets the most while it waits.

    Attributes:
        rate: requests a second that it can count on.
        wakeup: rings when something starts to wait.
    """

    def __init__(self, now: float, *, guard: bool = False) -> None:
        super().__init__(UNLIMITED, 1)
        self.wakeup: Wakeup = Wakeup()
        self._guard = guard
        self._in_force = not guard
        self._in_hand: deque[float] = deque()  # from when each may be used
        self._used = False  # some were, since it last asked
        self._missing = 0  # starts that something waits for
        self._confirmed_at = now  # when it last asked successfully
        self._asked_at = -math.inf
        self._ask_at = now  # before then the pool has nothing
        self._local_at = -math.inf  # when its own part allows the next start
        self._piece = 1

    # For the engine

    @property
    def in_force(self) -> bool:
        """True if the account has a shared pace."""
        return self._in_force

    def ready_at(self, now: float = -math.inf, before: int = 0) -> float:
        """Return when the next request may start, or when to look again; missing starts will be asked for."""
        if not self._in_force:
            return -math.inf
        missing = before + 1 - len(self._in_hand)
        if missing <= 0:
            return self._in_hand[before]
        if not self._missing:
            self.wakeup.ring()
        self._missing = max(self._missing, missing)
        later = (missing - 1) / self.rate
        if self.is_away(now):
            return self._local_at + later
        return max(now + SOON, min(self._ask_at, self._confirmed_at + AWAY)) + later

    def start(self, now: float) -> None:
        """Count a request that starts now."""
        if not self._in_force:
            return
        if self._in_hand:
            self._in_hand.popleft()
        else:
            self._local_at = max(self._local_at, now) + 1 / self.rate
        self._used = True
        self._missing = max(0, self._missing - 1)

    def lookup_at(self, now: float) -> float:
        """Return when a lookup may start: it may use a start in hand; a cancel then waits for the next ask."""
        return self.ready_at(now)

    def is_away(self, now: float) -> bool:
        """Return True if it goes on with its own part because the pool does not answer."""
        return now >= self._confirmed_at + AWAY

    # For the task that asks

    @property
    def exchange_at(self) -> float:
        """When to ask next, unless the wakeup rings before."""
        beat_at = self._asked_at + BEAT
        enough = (self._piece + 1) // 2 if self._used else 1
        return min(beat_at, self._ask_at) if self._missing or len(self._in_hand) < enough else beat_at

    def ask(self, now: float) -> Ask:
        """Return the next ask. Starts that it gives back are gone at once."""
        waits = self._missing > 0 or self._used
        number = (self._piece if waits else 1) - len(self._in_hand)
        if number < 0 and waits:
            number = 0
        for _ in range(-number):
            self._in_hand.pop()
        self._asked_at = now
        self._used = False
        self._ask_at = now + SOON
        self._missing = 0  # what still waits will say so again
        return Ask(number, waits)

    def answered(self, answer: Grant, asked_at: float, now: float) -> None:
        """Take what was granted.

        Args:
            answer: the pool's.
            asked_at: when it was asked.
            now: trio's clock.
        """
        self._in_force = True
        self._confirmed_at = max(self._confirmed_at, asked_at)
        self._in_hand += [now + answer.due_in + number / answer.rate for number in range(answer.granted)]
        self._ask_at = now + max(SOON, answer.again_in)
        self.rate = answer.rate / answer.members
        self._piece = max(1, math.ceil((answer.rate if self._guard else self.rate) * PIECE))

    def apply(self, rate: float, now: float) -> None:
        """Note that the account has a shared pace, which at least one other member keeps to."""
        if not self._in_force:
            self._in_force = True
            self._confirmed_at = now
            self.rate = rate / 2

    def failed(self, now: float) -> None:
        """Note that the pool did not answer."""
        self._ask_at = now + BEAT / 2
