"""Picks the faults of one sandbox.

A script is asked first. Then a table is checked, of what was set for that order, for the next request or the next
connection. Then chance decides, with a seed. Each fault that fired is counted.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable

import attrs

from trio_cancel.sandbox._faults import CustomReply, Fault, Faults, Point, draw
from trio_cancel.sandbox._log import RequestRecord

Script = Callable[[RequestRecord], Fault | CustomReply | None]


class FaultPlan:
    """Picks the faults of one sandbox: by script, by table, by chance. Counts those that fired."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self.counts: Counter[Fault] = Counter()
        self.script: Script | None = None
        self._rng = rng
        self._orders: dict[str, deque[Fault | CustomReply | None]] = {}
        self._next: dict[Point, deque[Fault | None]] = {point: deque() for point in Point}
        self.faults = faults

    @property
    def faults(self) -> Faults:
        """The chances; new ones may be set at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._chances = {
            point: [(fault, chance) for fault, chance in faults.chances.items() if chance and fault.point is point]
            for point in Point
        }

    def for_order(self, key: str, faults: Iterable[Fault | CustomReply | None]) -> None:
        """Set what hits the next requests for an order (id or external id), one after another; None: nothing."""
        planned = list(faults)
        for fault in planned:
            if isinstance(fault, Fault) and fault.point is not Point.REQUEST:
                raise ValueError(f"{fault} cannot hit a request: it fires at the point {fault.point}.")
        self._orders.setdefault(key, deque()).extend(planned)

    def for_next(self, point: Point, faults: Iterable[Fault | None]) -> None:
        """Set what happens at the next upgrades, requests or Closes, one after another; None: nothing.

        A fault that only a successful request can have waits for one.
        """
        planned = list(faults)
        for fault in planned:
            if fault is not None and fault.point is not point:
                raise ValueError(f"{fault} fires at the point {fault.point}, not {point}.")
        self._next[point].extend(planned)

    def clear(self) -> None:
        """Clear the script, the chances and what was set; the counts stay."""
        self.script = None
        self.faults = attrs.evolve(self._faults, chances={})
        self._orders.clear()
        for planned in self._next.values():
            planned.clear()

    def at(self, point: Point) -> Fault | None:
        """Pick the fault of an upgrade or Close."""
        planned = self._next[point]
        fault = planned.popleft() if planned else self._drawn(point, succeeds=False)
        if fault is not None:
            self.counts[fault] += 1
        return fault

    def for_request(self, record: RequestRecord, *, succeeds: bool) -> Fault | CustomReply | None:
        """Pick what hits a request; ``succeeds`` says whether it would be answered with 200."""
        chosen: Fault | CustomReply | None = self.script(record) if self.script is not None else None
        if chosen is None and self._orders:
            for key in (record.order_id, *record.params.values()):
                if isinstance(key, str) and (planned := self._orders.get(key)) is not None:
                    chosen = planned.popleft()
                    if not planned:
                        del self._orders[key]
                    return self._counted(chosen, succeeds)
        upcoming = self._next[Point.REQUEST]
        if chosen is None and upcoming:
            if succeeds or upcoming[0] is None or not upcoming[0].needs_result:
                return self._counted(upcoming.popleft(), succeeds)
        elif chosen is None:
            chosen = self._drawn(Point.REQUEST, succeeds=succeeds)
        return self._counted(chosen, succeeds)

    def _counted(self, chosen: Fault | CustomReply | None, succeeds: bool) -> Fault | CustomReply | None:
        if isinstance(chosen, Fault):
            if chosen.needs_result and not succeeds:
                return None
            self.counts[chosen] += 1
        return chosen

    def _drawn(self, point: Point, *, succeeds: bool) -> Fault | None:
        chances = self._chances[point]
        fault = draw(chances, self._rng) if chances else None  # without chances, the generator stays as it is
        return None if fault is None or (fault.needs_result and not succeeds) else fault
