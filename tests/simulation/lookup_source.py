"""What a run's lookups ask: the venue's book as a replica has it, over REST or by a callable of the user's.

What was told is put on record for the checker: an outcome may only rest on what a lookup said.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import trio
from trio.testing import memory_stream_pair

from trio_cancel import CancelRequest, LookupFailed
from trio_cancel.lookup import OrderState, RestLookup
from trio_cancel.sandbox import NoSuchOrder, Order, RestFault, RestFaults, RestRecord, Sandbox

from .odd import ERRORS
from .record import Recorder, Told
from .scenario import LookupPlan

NO_ANSWERS = (RestFault.CUT, RestFault.SLOW)
LONG_LAG = 15.0
"""Seconds: longer than the venue says that anything takes."""


class Source:
    """The lookups of one run."""

    def __init__(self, plan: LookupPlan, sandbox: Sandbox, recorder: Recorder, seed: int) -> None:
        self._plan = plan
        self._sandbox = sandbox
        self._began = sandbox.now()  # what is on the book then has been there for long
        self._faults = recorder.faults
        self._rng = random.Random(f"lookup {seed}")
        self.told: list[Told] = []
        self.answered: list[float] = []
        self.limited = False
        sandbox.rest_lag = plan.lag
        sandbox.rest_faults = RestFaults.each(plan.chance / len(RestFault)) if plan.chance else RestFaults()

    @property
    def argument(self) -> Any:
        """What ``lookup=`` is given."""
        return RestLookup(base_url="http://localhost/trade", dial=self._dial) if self._plan.rest else self._look_up

    async def _dial(self, _host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self._sandbox.accept_rest(theirs)
        return ours

    async def _look_up(self, request: CancelRequest) -> OrderState:
        rng, plan = self._rng, self._plan
        now = trio.current_time()
        await trio.sleep(rng.choice((0.0, rng.uniform(0, 0.3))))
        if rng.random() < plan.chance:
            match rng.randrange(4):
                case 0:
                    self._faults["lookup_hangs"] += 1
                    await trio.sleep_forever()
                case 1:
                    self._faults["lookup_raises"] += 1
                    raise rng.choice(ERRORS)()
                case _:
                    self._faults["lookup_fails"] += 1
                    status = rng.choice((None, 403, 500, 503, 429 if plan.limits else None))
                    self._answer(status is not None)
                    self.limited = self.limited or status == 429
                    raise LookupFailed("It failed.", status=status)
        self._answer()
        lag = rng.uniform(*plan.lag) if isinstance(plan.lag, tuple) else plan.lag
        try:
            as_of = max(self._began, self._sandbox.now() - round(1000 * lag))
            order = self._sandbox.book.as_of(as_of, request.id, external_id=request.external_id)
        except NoSuchOrder:
            self._faults["lookup_finds_nothing"] += 1
            raise LookupFailed("There is no such order.", status=404) from None
        self.told.append(Told(now, order.id, str(order.status)))
        self._count(order, lag)
        return _state(order, now)

    def _answer(self, answered: bool = True) -> None:
        if answered:
            self.answered.append(trio.current_time())

    def _count(self, order: Order, lag: float) -> None:
        self._faults[f"lookup_says_{order.status}"] += 1
        self._faults["lookup_lags_long"] += lag > LONG_LAG

    def finish(self) -> None:
        """Take in what was told over REST, and count it."""
        faults: Counter[str] = self._faults
        records: list[RestRecord] = list(self._sandbox.rest_log.requests)
        for record in records:
            if record.fault is RestFault.STALLED:
                faults["lookup_hangs"] += 1
            elif record.fault is not None:
                faults["lookup_fails"] += 1
            elif record.order is None:
                faults["lookup_finds_nothing"] += record.status == 404
            else:
                now = record.as_of + 1000 * LONG_LAG
                self._count(record.order, math.inf if self._venue_time(record) > now else 0.0)
            if record.order is not None:
                self.told.append(Told(record.received_at, record.order.id, str(record.order.status)))
            self.limited = self.limited or record.status == 429
            if record.status is not None and record.fault not in NO_ANSWERS:
                self.answered.append(record.received_at)
        self.answered.sort()

    def _venue_time(self, record: RestRecord) -> float:
        return self._sandbox.now() - 1000 * (trio.current_time() - record.received_at)


def _date(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)


def _state(order: Order, now: float) -> OrderState:
    names = attrs.fields_dict(OrderState)
    known: dict[str, Any] = {name: value for name, value in attrs.asdict(order).items() if name in names}
    dates = {name: _date(known.pop(name)) for name in ("create_date", "update_date")}
    return OrderState(**(known | dates | {"status": str(order.status), "seen_at": now}))
