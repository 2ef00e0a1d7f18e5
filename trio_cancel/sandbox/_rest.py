"""The sandbox's REST side: orders looked up over HTTP/1.1, from the same book as the WebSocket's.

Written from the venue's documents with the standard library's JSON and HMAC and with h11: it shares no code with the
client. It serves the same data under both published bases, ``/trade`` and ``/v4``.

The task that calls :meth:`RestSide.serve` owns the stream and closes it, whatever happens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import random
from collections import deque
from decimal import Decimal
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

import attrs
import h11
import trio

from trio_cancel.sandbox import _protocol as protocol
from trio_cancel.sandbox._book import EXACT, Book, NoSuchOrder, Order
from trio_cancel.sandbox._exchange import Exchange
from trio_cancel.sandbox._faults import RestFault, RestFaults, draw
from trio_cancel.sandbox._outbox import Gone
from trio_cancel.sandbox._protocol import Refusal

BASES = ("/trade", "/v4")
TOLERANCE, TOLERANCE_MOST = 5_000, 60_000  # ms; source: REST authentication
MAX_AHEAD = 1_000  # ms
PAGE_SIZE, PAGE_SIZE_MOST = 100, 200
FEE = Decimal("0.0025")  # of what was executed
READ_SIZE = 64 * 1024
OVERSIZE = 4 * 2**20  # bytes
REQUEST_WITHIN = 10.0  # s

REST = protocol.DIALECTS["openapi"]
REFUSALS = {
    RestFault.ERROR_400: Refusal(400, 40000, "Bad request"),
    RestFault.ERROR_401: REST.bad_signature,
    RestFault.ERROR_403: Refusal(403, 40300, "Forbidden"),
    RestFault.ERROR_404: REST.not_found,
    RestFault.ERROR_429: Refusal(429, 42900, "Too many requests"),
    RestFault.ERROR_500: REST.internal,
    RestFault.ERROR_503: Refusal(503, 50300, "Service unavailable"),
}
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>"


@attrs.define(eq=False)
class RestRecord:
    """One request to the REST side. Times are seconds of trio's clock, ``as_of`` Unix ms of the venue's."""

    number: int
    """Counts the requests of this sandbox from 0."""
    connection: int
    """Counts its REST connections from 0."""
    received_at: float
    method: str
    target: str
    """Path and query, as they came."""
    as_of: int
    """The moment that the answer describes, earlier than now if the replica lags."""
    status: int | None = None
    """Of the answer; None if there was none."""
    order: Order | None = None
    """The order that was returned, as it was returned."""
    fault: RestFault | None = None


class RestLog:
    """The requests to the REST side; the newest ones if there is a limit.

    Attributes:
        requests: the records, oldest first.
        received: how many requests there were.
        accepted: how many connections there were.
    """

    def __init__(self, limit: int | None) -> None:
        self.requests: deque[RestRecord] = deque(maxlen=limit)
        self.received = 0
        self.accepted = 0


class RestSide:
    """Answers lookups; ``rng`` draws lags and faults.

    Attributes:
        faults: chances of misbehaviour; may be set at any time.
        lag: seconds by which answers are behind the book: fixed, or (least, most) drawn for each; may be set.
    """

    def __init__(
        self,
        exchange: Exchange,
        rng: random.Random,
        *,
        faults: RestFaults,
        lag: float | tuple[float, float],
        log_limit: int | None = None,
    ) -> None:
        self.faults = faults
        self.lag = lag
        self.log: RestLog = RestLog(log_limit)
        self.planned: deque[RestFault | None] = deque()
        self._exchange = exchange
        self._token = exchange.credentials.api_token.encode()
        self._secret = exchange.credentials.api_secret.encode()
        self._rng = rng

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends; always closes the stream."""
        number = self.log.accepted
        self.log.accepted += 1
        http = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(stream, http, number):
                http.start_next_cycle()
        except (*Gone, h11.ProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: trio.abc.Stream, http: h11.Connection, connection: int) -> bool:
        """Answer one request; return True if another may follow."""
        request = await self._next_event(stream, http)
        if not isinstance(request, h11.Request):
            return False
        with trio.move_on_after(REQUEST_WITHIN):
            body = b""
            while not isinstance(event := await self._next_event(stream, http), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return False
                body += bytes(event.data)
        headers = {bytes(name).lower(): bytes(value) for name, value in request.headers}
        record = RestRecord(
            number=self.log.received,
            connection=connection,
            received_at=trio.current_time(),
            method=request.method.decode("ascii"),
            target=request.target.decode("latin-1"),
            as_of=self._exchange.now() - round(1000 * _drawn(self.lag, self._rng)),
        )
        self.log.received += 1
        self.log.requests.append(record)
        status, text = self._answer(record, headers, body)
        fault = record.fault = self._fault()
        record.status = status
        if fault is None:
            await stream.send_all(self._response(http, status, text.encode()))
            return http.our_state is h11.DONE and http.their_state is h11.DONE
        return await self._misbehave(stream, http, status, text, record)

    async def _next_event(self, stream: trio.abc.Stream, http: h11.Connection) -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(READ_SIZE)))
        return event

    # What the answer is

    def _answer(self, record: RestRecord, headers: dict[bytes, bytes], body: bytes) -> tuple[int, str]:
        path, _, query = record.target.partition("?")
        base = next((base for base in BASES if path.startswith(f"{base}/")), None)
        if base is None or record.method != "GET":
            return _refuse(REST.not_found)
        refusal = self._exchange.limits.refusal(record.received_at)
        if refusal is not None:
            return _refuse(refusal)
        parts = path[len(base) :].split("/")[1:]
        if parts == ["public", "server-time"]:
            return 200, _data(f'{{"timestamp":{self._exchange.now()}}}')
        refusal = self._unauthorized(record, path, headers, body)
        if refusal is not None:
            return _refuse(refusal)
        book = self._exchange.book
        try:
            match parts:
                case ["orders", "open"]:
                    return 200, _data(self._open_orders(record.as_of, query))
                case ["orders", "by-external-id", key] if key:
                    order = book.as_of(record.as_of, external_id=unquote(key))
                case ["orders", key] if key:
                    order = book.as_of(record.as_of, unquote(key))
                case _:
                    return _refuse(REST.not_found)
        except NoSuchOrder:
            return _refuse(REST.not_found)
        record.order = order
        return 200, _data(render(order, book))

    def _unauthorized(self, record: RestRecord, path: str, headers: dict[bytes, bytes], body: bytes) -> Refusal | None:
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            return REST.bad_token
        stamp, tolerance = headers.get(b"timestamp", b""), headers.get(b"timestamp-tolerance", b"%d" % TOLERANCE)
        if not stamp.isdigit() or not tolerance.isdigit():
            return REST.bad_timestamp
        if not -MAX_AHEAD <= self._exchange.now() - int(stamp) <= min(int(tolerance), TOLERANCE_MOST):
            return REST.bad_timestamp
        message = stamp + record.method.encode() + path.encode("latin-1") + body
        expected = base64.b64encode(hmac.new(self._secret, message, hashlib.sha256).digest())
        return None if hmac.compare_digest(headers.get(b"signature", b""), expected) else REST.bad_signature

    def _open_orders(self, as_of: int, query: str) -> str:
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        found = [
            order
            for order in self._exchange.book.open_as_of(as_of)
            if asked.get("pair", order.pair) == order.pair and asked.get("side", order.side) == order.side
        ]
        size = min(PAGE_SIZE_MOST, max(1, _whole(asked.get("page_size"), PAGE_SIZE)))
        page = max(1, _whole(asked.get("current_page"), 1))
        shown = ",".join(render(order, self._exchange.book) for order in found[(page - 1) * size : page * size])
        pages = max(1, math.ceil(len(found) / size))
        return (
            f'{{"orders":[{shown}],"pagination":{{"current_page":{page},"registers_count":{len(found)}'
            f',"total_pages":{pages},"page_size":{size}}}}}'
        )

    # How it is sent

    def _fault(self) -> RestFault | None:
        if self.planned:
            return self.planned.popleft()
        return draw(self.faults.chances.items(), self._rng) if self.faults.chances else None

    def _response(
        self, http: h11.Connection, status: int, body: bytes, kind: str = "application/json", **more: str
    ) -> bytes:
        headers = [
            ("Date", formatdate(self._exchange.now() / 1000, usegmt=True)),
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        reason = HTTPStatus(status).phrase.encode()
        pieces = [
            http.send(h11.Response(status_code=status, reason=reason, headers=headers)),
            http.send(h11.Data(data=body)),
            http.send(h11.EndOfMessage()),
        ]
        return b"".join(piece or b"" for piece in pieces)

    async def _misbehave(
        self, stream: trio.abc.Stream, http: h11.Connection, status: int, text: str, record: RestRecord
    ) -> bool:
        """Answer as the fault says; return True if another request may follow."""
        fault = record.fault
        assert fault is not None
        more: dict[str, str] = {}
        kind = "application/json"
        body = text.encode()
        if (refusal := REFUSALS.get(fault)) is not None:
            status, text = _refuse(refusal)
            body = text.encode()
            if fault is RestFault.ERROR_429 and self.faults.retry_after is not None:
                more["Retry_After"] = str(math.ceil(self.faults.retry_after))
        match fault:
            case RestFault.HTML_502 | RestFault.HTML_200:
                status, body, kind = 502 if fault is RestFault.HTML_502 else 200, HTML, "text/html"
            case RestFault.STALLED:
                record.status = None
                await trio.sleep(self.faults.hold)
                return False
            case RestFault.DROPPED | RestFault.GARBAGE:
                record.status = None
                if fault is RestFault.GARBAGE:
                    await stream.send_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                return False
            case RestFault.MALFORMED_JSON:
                body = self._rng.choice((body[:-1], body[: len(body) // 2], b"", b"ok", body + b"}"))
            case RestFault.WRONG_SCHEMA:
                body = self._rng.choice(
                    (b"[]", b"7", b"null", b'{"data":[]}', b'{"data":{"id":7,"status":"canceled"}}')
                )
            case RestFault.NO_DATA:
                body = b'{"data":null,"error_code":null,"message":null}'
            case RestFault.OTHER_ORDER:
                if record.order is not None:
                    other = attrs.evolve(
                        record.order, id=f"OTHER-{self._rng.getrandbits(64):016X}", external_id="another"
                    )
                    body = _data(render(other, self._exchange.book)).encode()
            case RestFault.OTHER_STATUS:
                if record.order is not None:
                    whole = f'"status":"{record.order.status}"'
                    body = text.replace(whole, '"status":"under_review"').encode()
            case RestFault.OVERSIZE:
                body = b'{"data":"%s"}' % (b"x" * OVERSIZE)
            case _:
                pass
        record.status = status
        data = self._response(http, status, body, kind, **more)
        if fault is RestFault.CUT:
            await stream.send_all(data[: len(data) - max(1, self._rng.randrange(1, len(body)))])
            return False
        if fault is RestFault.SLOW:
            head = len(data) - len(body)
            await stream.send_all(data[:head])
            for index in range(head, len(data)):
                await trio.sleep(self.faults.trickle)
                await stream.send_all(data[index : index + 1])
        else:
            await stream.send_all(data)
        return http.our_state is h11.DONE and http.their_state is h11.DONE


def render(order: Order, book: Book) -> str:
    """Return an order as the REST side writes it."""
    number, quote = protocol.number, protocol.quote
    executions = ",".join(
        f'{{"amount":{number(one.amount)},"price":{number(one.price)}'
        f',"fee":{number(EXACT.multiply(one.amount, FEE))},"fee_currency":{quote(order.pair.partition("_")[0])}'
        f',"create_date":"{protocol.date(one.date)[:-1]}"'  # without a zone, as the venue writes them here
        f',"total_value":{number(EXACT.multiply(one.amount, one.price))}}}'
        for one in book.executions(order)
    )
    fee = number(EXACT.multiply(order.executed_amount, FEE))
    return f'{protocol.render_order(order, full=True)[:-1]},"fee":{fee},"transactions":[{executions}]}}'


def _data(data: str) -> str:
    return f'{{"data":{data},"error_code":null,"message":null}}'


def _refuse(refusal: Refusal) -> tuple[int, str]:
    message = protocol.quote(refusal.message)
    return refusal.status, f'{{"error_code":{refusal.error_code},"message":{message},"data":null}}'


def _drawn(span: float | tuple[float, float], rng: random.Random) -> float:
    return rng.uniform(*span) if isinstance(span, tuple) else span


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else otherwise
