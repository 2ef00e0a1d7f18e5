"""Who comes next: single cancels before retries of bulk ones before new bulk ones (pure).

Single and scope-exit cancels stand in line one by one. A bulk cancel is a :class:`Source` that is asked for its next
order only when there is room for it, so that no queue grows with the input; several take turns.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from trio_cancel._engine.order import Pending, State


class Source(Protocol):
    """A bulk cancel, as the queue sees it."""

    held_since: float
    """Trio's clock when it was handed in."""

    @property
    def waiting(self) -> bool:
        """Whether it has an order to give now."""

    def take(self, most: int) -> list[Pending]:
        """Return its next orders, at most so many; none if there is none now."""

    def refuse(self, cause: BaseException) -> None:
        """Settle everything that has not been asked for yet: it will never be sent."""

    def give_up_after(self) -> float:
        """Return how many seconds without any connection it waits."""


class Queue:
    """Everything that waits to be written.

    Attributes:
        urgent: the single cancels, oldest first, those that were withdrawn included.
    """

    __slots__ = ("_retries", "_sources", "urgent")

    def __init__(self) -> None:
        self.urgent: deque[Pending] = deque()
        self._retries: list[Pending] = []
        self._sources: deque[Source] = deque()

    def __bool__(self) -> bool:
        return bool(self.urgent or self._retries or self._sources)

    def add(self, pending: Pending) -> None:
        """Put a single cancel in line."""
        self.urgent.append(pending)

    def add_source(self, source: Source) -> None:
        """Let a bulk cancel take its turns."""
        self._sources.append(source)

    def remove_source(self, source: Source) -> None:
        """Forget a bulk cancel; one that is not there is no error."""
        if source in self._sources:
            self._sources.remove(source)

    def retry(self, pending: Pending) -> None:
        """Put an order in line for its next attempt, not before ``pending.not_before``."""
        self._retries.append(pending)

    def retrying(self) -> list[Pending]:
        """Return the orders that wait for their next attempt."""
        if self._retries:
            self._retries = [p for p in self._retries if p.state is State.RETRYING]
        return self._retries

    def take_urgent(self, most: int) -> list[Pending]:
        """Return the next single cancels, at most so many."""
        urgent, queued = self.urgent, State.QUEUED
        taken: list[Pending] = []
        while urgent and len(taken) < most:
            pending = urgent.popleft()
            if pending.state is queued:
                taken.append(pending)
        return taken

    def next_retry(self, now: float) -> Pending | None:
        """Return the next order whose next attempt is due, single ones first, or None."""
        if not self._retries:
            return None
        due = [p for p in self.retrying() if p.not_before <= now]
        if not due:
            return None
        chosen = next((p for p in due if p.urgent), due[0])
        self._retries.remove(chosen)
        return chosen

    def take_bulk(self, most: int) -> list[Pending]:
        """Return the next orders of the bulk cancels, at most so many; several bulk cancels share them."""
        sources = self._sources
        if len(sources) == 1:
            return sources[0].take(most)
        taken: list[Pending] = []
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
        if not self._retries:
            return math.inf
        return min((p.not_before for p in self.retrying() if p.not_before > now), default=math.inf)

    def waiting(self, now: float) -> bool:
        """Return True if an order could be written now, or could if there was room for it."""
        if self.heads() or any(source.waiting for source in self._sources):
            return True
        return bool(self._retries) and any(p.not_before <= now for p in self.retrying())

    def heads(self) -> list[Pending]:
        """Return the single cancels that have not been tried yet, oldest first; forget those that have ended."""
        heads = [p for p in self.urgent if p.state is State.QUEUED]
        if len(heads) < len(self.urgent):
            self.urgent = deque(heads)
        return heads

    def sources(self) -> list[Source]:
        """Return the bulk cancels."""
        return list(self._sources)

    def clear(self) -> tuple[list[Pending], list[Source]]:
        """Take everything out: the single cancels not tried yet, and the bulk ones."""
        taken = self.heads(), list(self._sources)
        self.urgent.clear()
        self._sources.clear()
        return taken
