"""What is written next: single cancels before retries of bulk ones before new bulk ones (sans-I/O).

Single and scope-exit cancels are queued one by one. A bulk cancel is a :class:`Source` that is asked for its next order
only when there is room for it, so that no queue grows with the input; several sources take turns. Orders that were
written as a last chance (see ``_engine.silence``) and have to be tried again come between retries and new bulk ones.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Protocol

from trio_cancel._engine.order import OrderCancel, State


class Source(Protocol):
    """A bulk cancel, as the queue sees it."""

    @property
    def held_since(self) -> float:
        """Trio's clock when the first waiting order was handed in; inf if nothing waits."""

    @property
    def waiting(self) -> bool:
        """Whether it has an order to give now."""

    def take(self, most: int) -> list[OrderCancel]:
        """Return its next orders, at most ``most``; none if there are none now."""

    def take_last(self, most: int) -> list[OrderCancel]:
        """Return its next orders that get their last chance, at most ``most``."""

    def behind(self) -> int:
        """Return how many orders have not been taken yet, as far as it knows."""

    def give_up(self, cause: BaseException, before: float) -> bool:
        """Settle the orders that have not been taken and were handed in by ``before``: they will never be sent.

        Return True if nothing more can come from it.
        """

    def refuse(self, cause: BaseException) -> None:
        """Settle every order that has not been taken yet, for good: they will never be sent."""

    def give_up_after(self) -> float:
        """Return how many seconds it waits for a sign of life."""


class Queue:
    """Everything that waits to be written, in the order in which it may be."""

    def __init__(self) -> None:
        # The single cancels, oldest first, including those that were withdrawn.
        self.priority: deque[OrderCancel] = deque()
        # Those of them that the engine has not checked yet, perhaps with others that have been taken.
        self.fresh: deque[OrderCancel] = deque()
        # Orders not written that should be written before their time is over in a silence.
        self.last_chance: deque[OrderCancel] = deque()
        # Orders that have no place in the window and wait for their next attempt.
        self.returning: deque[OrderCancel] = deque()
        # Orders that wait for their next attempt: a heap of those not due yet, and two lines of those that are due.
        self._later: list[tuple[float, int, OrderCancel]] = []
        self._due_priority: deque[OrderCancel] = deque()
        self._due: deque[OrderCancel] = deque()
        self._number = 0  # breaks ties, so that equal times keep their order
        self._sources: deque[Source] = deque()

    def __bool__(self) -> bool:
        return bool(
            self.priority
            or self._sources
            or self._later
            or self._due
            or self._due_priority
            or self.returning
            or self.last_chance
        )

    def add(self, order: OrderCancel) -> None:
        """Queue a single cancel."""
        self.priority.append(order)
        self.fresh.append(order)

    def add_source(self, source: Source) -> None:
        """Let a bulk cancel take its turns."""
        self._sources.append(source)

    def remove_source(self, source: Source) -> None:
        """Forget a bulk cancel; it need not be there."""
        if source in self._sources:
            self._sources.remove(source)

    def retry(self, order: OrderCancel) -> None:
        """Queue an order for its next attempt, not before ``order.not_before``."""
        self._number += 1
        heapq.heappush(self._later, (order.not_before, self._number, order))

    def release(self, now: float) -> None:
        """Let orders be written from ``now`` on if their next attempt had no time yet."""
        held = [order for at, _, order in self._later if at == math.inf and order.state is State.RETRYING]
        self._later = [entry for entry in self._later if entry[0] < math.inf]
        heapq.heapify(self._later)
        for order in held:
            order.not_before = now
            self.retry(order)

    def retrying(self) -> list[OrderCancel]:
        """Return the orders that wait for their next attempt."""
        waiting = [*self._due_priority, *self._due, *(order for _, _, order in self._later)]
        return [order for order in waiting if order.state is State.RETRYING]

    def take_priority(self, most: int) -> list[OrderCancel]:
        """Return the next single cancels, at most ``most``."""
        priority, queued = self.priority, State.QUEUED
        taken: list[OrderCancel] = []
        while priority and len(taken) < most:
            order = priority.popleft()
            if order.state is queued:
                taken.append(order)
        if not priority:
            self.fresh.clear()
        return taken

    def next_returning(self) -> OrderCancel | None:
        """Return the next order that gets a place in the window for its next attempt, or None."""
        while self.returning:
            order = self.returning.popleft()
            if order.state is State.RETRYING:
                return order
        return None

    def next_retry(self, now: float) -> OrderCancel | None:
        """Return the next order whose next attempt is due, single ones first, or None."""
        later = self._later
        while later and later[0][0] <= now:
            order = heapq.heappop(later)[2]
            (self._due_priority if order.priority else self._due).append(order)
        for due in (self._due_priority, self._due):
            while due:
                order = due.popleft()
                if order.state is State.RETRYING:
                    return order
        return None

    def take_bulk(self, most: int) -> list[OrderCancel]:
        """Return the next orders of the bulk cancels, at most ``most``; several bulk cancels share them."""
        sources = self._sources
        if len(sources) == 1:
            return sources[0].take(most)
        taken: list[OrderCancel] = []
        for left in range(len(sources), 0, -1):
            # Each gets its share of what is left; what it does not need goes to the others.
            share = -(-(most - len(taken)) // left)
            if share <= 0:
                break
            sources.rotate(-1)
            taken += sources[-1].take(share)
        return taken

    def next_due(self, now: float) -> float:
        """Return when the earliest next attempt that is not due yet will be; inf if there is none."""
        later = self._later
        while later and (later[0][0] <= now or later[0][2].state is not State.RETRYING):
            order = heapq.heappop(later)[2]
            if order.state is State.RETRYING:
                (self._due_priority if order.priority else self._due).append(order)
        return later[0][0] if later else math.inf

    def waiting(self, now: float) -> bool:
        """Return True if an order could be written now, or could if there were room for it."""
        if any(p.state is State.QUEUED for p in self.priority) or any(source.waiting for source in self._sources):
            return True
        return any(p.not_before <= now for p in self.retrying())

    def has_heads(self) -> bool:
        """Return True if a single cancel has not been tried yet."""
        return any(order.state is State.QUEUED for order in self.priority)

    def heads(self) -> list[OrderCancel]:
        """Return the single cancels that have not been tried yet, oldest first."""
        return [p for p in self.priority if p.state is State.QUEUED]

    def sources(self) -> list[Source]:
        """Return the bulk cancels."""
        return list(self._sources)

    def clear(self) -> tuple[list[OrderCancel], list[Source]]:
        """Take everything out: the single cancels not tried yet, and the bulk ones."""
        taken = self.heads(), list(self._sources)
        for line in (self.priority, self.fresh, self.last_chance, self.returning, self._sources):
            line.clear()
        return taken
