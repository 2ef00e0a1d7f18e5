"""The venue without its connections: judges each message, applies it to the book, writes the log (no I/O, no task).

A message is received (read, counted against the limits, its signature and timestamp checked, at that moment). After the
venue's processing delay it is processed (a fault is picked, the order is looked up, the cancel is applied).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from trio_cancel._values.models import Credentials
from trio_cancel.sandbox import _protocol as protocol
from trio_cancel.sandbox._book import Book, BookStatus, NoSuchOrder, Order
from trio_cancel.sandbox._faults import CustomReply, Fault, Faults
from trio_cancel.sandbox._limits import Limits
from trio_cancel.sandbox._log import ConnectionRecord, Log, RequestRecord
from trio_cancel.sandbox._plan import FaultPlan
from trio_cancel.sandbox._protocol import DIALECTS, TOKEN_FIELDS, Dialect, Refusal, Request


def _faulty_answers(dialect: Dialect) -> dict[Fault, Refusal]:
    return {
        Fault.ERROR_500_BEFORE: dialect.internal,
        Fault.ERROR_503_BEFORE: dialect.unavailable,
        Fault.ERROR_408_BEFORE: protocol.TIMED_OUT,
        Fault.REFUSE_429: dialect.too_many,
        Fault.REFUSE_DAILY: dialect.daily_limit,
        Fault.REFUSE_40011: dialect.bad_signature,
        Fault.REFUSE_UNKNOWN_CODE: protocol.UNKNOWN_CODE,
        Fault.ERROR_500_AFTER: dialect.internal,
        Fault.ERROR_503_AFTER: dialect.unavailable,
        Fault.ERROR_408_AFTER: protocol.TIMED_OUT,
    }


@attrs.frozen
class Received:
    """A message on its way to being processed."""

    record: RequestRecord
    request: Request
    refusal: Refusal | None


@attrs.frozen
class VenueAnswer:
    """The answer to a processed request, and the fault that interferes with it, if any."""

    request_id: str | None
    text: str
    order: Order | None
    fault: Fault | CustomReply | None


class Exchange:
    """One account at the venue: book, limits, fault plan and log.

    Args:
        clock: returns Unix milliseconds.
        rng: draws order ids and faults.
        dialect, token_field, full_results, log_limit: as for `open_sandbox`.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        clock: Callable[[], int],
        rng: random.Random,
        limits: Limits,
        faults: Faults,
        dialect: Dialect = DIALECTS["page"],
        token_field: str = TOKEN_FIELDS[0],
        full_results: bool = False,
        log_limit: int | None = None,
    ) -> None:
        self._clock = clock
        self._dialect = dialect
        self._token_field = token_field
        self._faulty_answers = _faulty_answers(dialect)
        self._verifier = protocol.Verifier(credentials, dialect)
        self._full_results = full_results
        self.credentials = credentials
        self.clock_skew = 0
        self.limits = limits
        self.book: Book = Book(now=self.now, rng=random.Random(rng.getrandbits(64)))
        self.plan: FaultPlan = FaultPlan(faults, random.Random(rng.getrandbits(64)))
        self.log: Log = Log(log_limit)

    def now(self) -> int:
        """Return the venue's Unix time in milliseconds, its skew included."""
        return self._clock() + self.clock_skew

    def receive(self, text: str, connection: ConnectionRecord, moment: float) -> Received:
        """Receive a message that came at time ``moment`` (s, trio's clock)."""
        now = self.now()
        request = protocol.read_request(text, self._token_field)
        record = RequestRecord(
            number=self.log.received,
            connection=connection.number,
            received_at=moment,
            received_ms=now,
            request_id=request.id,
            method=request.method,
            params=request.business,
            timestamp=request.timestamp,
            signature=request.signature,
        )
        self.log.add(record)
        connection.requests += 1
        refusal = self.limits.refusal(moment)
        if refusal is not None:
            refusal = self._dialect.daily_limit if refusal is protocol.DAILY_LIMIT else self._dialect.too_many
        return Received(record, request, refusal or self._verifier.refusal(request, now))

    def process(self, received: Received, moment: float, *, silent: bool = False) -> VenueAnswer:
        """Judge a message at time ``moment``, apply it unless a fault forbids, and return what to answer.

        If ``silent``, nobody will hear the answer: then no fault is picked.
        """
        record, request, refusal = received.record, received.request, received.refusal
        order: Order | None = None
        dialect = self._dialect
        if refusal is None:
            try:
                order = self.book.get(**request.order)
            except NoSuchOrder:
                refusal = dialect.not_found
            else:
                record.order_id = order.id
                if order.status is BookStatus.PENDING_CREATION:
                    refusal = dialect.not_found
                elif order.status is BookStatus.CANCELED:
                    refusal = dialect.canceled_before
                elif not order.status.active:
                    refusal = dialect.executed_before
        fault = None if silent else self.plan.for_request(record, succeeds=refusal is None)
        applies = True if fault is None else fault.applies
        if isinstance(fault, Fault):
            record.fault = fault
            refusal = self._faulty_answers.get(fault, refusal)
            record.note = str(fault)
        elif fault is not None:
            record.note = "custom reply"
        if order is not None and order.status.active and applies:
            order = self.book.cancel(order.id)
            record.applied_at = moment
        if refusal is not None:
            text = protocol.render_refusal(request.id, refusal)
            record.status, record.error_code = refusal.status, refusal.error_code
        else:
            assert order is not None
            result = protocol.render_order(order, full=self._full_results, requested_value=dialect.requested_value)
            text = protocol.render_result(request.id, result)
            record.status = 200 if applies else None
        self.log.processed(record)
        return VenueAnswer(request.id, text, order if refusal is None else None, fault)

    def apply_late(self, record: RequestRecord, moment: float) -> None:
        """Apply at time ``moment`` a request that was processed but not applied, if the order can still be canceled."""
        if record.order_id is not None and self.book.get(record.order_id).status.active:
            self.book.cancel(record.order_id)
            record.applied_at = moment
            self.log.applied_late(record)
