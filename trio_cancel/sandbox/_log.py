"""What the sandbox received, did and answered: the truth that a client's outcomes are checked against.

Every complete text message on the trading path gets a record, even if it could not be read. Tokens are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from trio_cancel._values.models import canonical_id
from trio_cancel.sandbox._faults import Fault


@attrs.define(eq=False)
class RequestRecord:
    """One message that the venue received completely, and what happened to it.

    Times are seconds of trio's clock, except ``received_ms`` (Unix ms of the venue's clock, skew included).
    """

    number: int
    """Counts the messages of this sandbox from 0."""
    connection: int
    """The connection it came on; see :attr:`Log.connections`."""
    received_at: float
    received_ms: int
    request_id: str | None
    """None if the message had none that can be answered."""
    method: str | None
    params: Mapping[str, Any]
    """The business parameters, in the order received."""
    timestamp: int | None
    signature: str
    order_id: str | None = None
    """The venue's id of the order it named, if there is such an order."""
    status: int | None = None
    """Status of the honest answer; None as long as the request has not been processed."""
    error_code: int | None = None
    applied_at: float | None = None
    """When this request took its order off the book; None if it did not."""
    fault: Fault | None = None
    replies: tuple[str | bytes, ...] = ()
    """Payloads of the answers that were handed to the connection, in order, whatever is wrong with them."""
    sent_at: float | None = None
    """When the stream had taken the last of them completely; None if that never happened."""
    note: str = ""
    """Why there was no answer, or what was wrong with it."""

    @property
    def answered(self) -> bool:
        """Whether an answer of any kind was sent completely."""
        return self.sent_at is not None


@attrs.define(eq=False)
class ConnectionRecord:
    """One connection, from its first byte to its end."""

    number: int
    opened_at: float
    path: str = ""
    upgraded_at: float | None = None
    closed_at: float | None = None
    requests: int = 0
    incomplete: int = 0
    """Bytes of an incomplete frame when the stream ended."""
    unread: int = 0
    """Messages that arrived completely after the venue had given up the connection; they were not processed."""
    close_code: int | None = None
    """Code of the client's Close, 1005 if it had none; None if it sent no Close."""
    fault: Fault | None = None
    """The fault at its upgrade, or otherwise at its Close."""
    note: str = ""
    """How it ended."""


class Log:
    """The record of one sandbox.

    Args:
        limit: keeps only this many requests and connections, the newest; all if left out.

    Attributes:
        requests: every message in the order received.
        connections: every connection in the order accepted.
        received: how many messages there were, including those that are no longer kept.
        accepted: how many connections there were, counted the same way.
        applied_count: how many requests took an order off the book.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=limit)
        self.connections: deque[ConnectionRecord] = deque(maxlen=limit)
        self.received: int = 0
        self.accepted: int = 0
        self.applied_count: int = 0
        self._by_request_id: dict[str, list[RequestRecord]] = {}
        self._by_order: dict[str, list[RequestRecord]] = {}
        self._applied: dict[str, RequestRecord] = {}

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)

    def by_request_id(self, request_id: str) -> list[RequestRecord]:
        """Return every message that had this request id: an honest client sends each at most once."""
        return list(self._by_request_id.get(request_id, ()))

    def by_order(self, order_id: str) -> list[RequestRecord]:
        """Return every processed request that named this order, by either id, in the order received."""
        return sorted(self._by_order.get(canonical_id(order_id), ()), key=lambda record: record.number)

    def applied(self, order_id: str) -> RequestRecord | None:
        """Return the request that took this order off the book, None if none did."""
        return self._applied.get(canonical_id(order_id))

    def lines(self) -> Iterator[str]:
        """Yield the log as lines of text; two runs that went the same way give the same lines."""
        for connection in self.connections:
            yield (
                f"connection {connection.number} opened {_time(connection.opened_at)} "
                f"closed {_time(connection.closed_at)} requests {connection.requests} unread {connection.unread} "
                f"incomplete {connection.incomplete} close {connection.close_code} fault {connection.fault} "
                f"note {connection.note}"
            )
        for record in self.requests:
            yield (
                f"request {record.number} on {record.connection} at {record.received_at:.6f} {record.request_id!r} "
                f"{dict(record.params)!r} timestamp {record.timestamp} order {record.order_id} status {record.status} "
                f"code {record.error_code} applied {_time(record.applied_at)} fault {record.fault} "
                f"replies {len(record.replies)} sent {_time(record.sent_at)} note {record.note}"
            )

    # The sandbox's own side.

    def add_connection(self, now: float) -> ConnectionRecord:
        """Start the record of a connection."""
        record = ConnectionRecord(self.accepted, now)
        self.accepted += 1
        self.connections.append(record)
        return record

    def add(self, record: RequestRecord) -> None:
        """Record a message that was received."""
        if len(self.requests) == self.requests.maxlen:
            self._forget(self.requests[0])
        self.received += 1
        self.requests.append(record)
        if record.request_id is not None:
            self._by_request_id.setdefault(record.request_id, []).append(record)

    def processed(self, record: RequestRecord) -> None:
        """Record what happened to it: which order it named, whether it was applied."""
        if record.order_id is not None:
            key = canonical_id(record.order_id)
            self._by_order.setdefault(key, []).append(record)
            if record.applied_at is not None:
                self.applied_count += 1
                self._applied[key] = record

    def applied_late(self, record: RequestRecord) -> None:
        """Record that a request was applied long after it was processed."""
        assert record.order_id is not None
        self.applied_count += 1
        self._applied[canonical_id(record.order_id)] = record

    def _forget(self, record: RequestRecord) -> None:
        order = None if record.order_id is None else canonical_id(record.order_id)
        for index, key in ((self._by_request_id, record.request_id), (self._by_order, order)):
            if key in index:
                index[key] = [other for other in index[key] if other is not record]
                if not index[key]:
                    del index[key]
        if order is not None and self._applied.get(order) is record:
            del self._applied[order]


def _time(moment: float | None) -> str:
    return "-" if moment is None else f"{moment:.6f}"
