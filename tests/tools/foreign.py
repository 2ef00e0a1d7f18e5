"""A venue that is not ours: Python `websockets` over TLS in threads of its own, which checks every signature itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from trio_cancel import Credentials

CREDENTIALS = Credentials("a-token", "clé-ключ")
CA = trustme.CA()
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CA.issue_cert("localhost", "127.0.0.1").configure_cert(SERVER_CONTEXT)
CLIENT_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CA.configure_trust(CLIENT_CONTEXT)

Answer = Callable[[dict[str, Any]], "str | bytes | list[str | bytes] | None"]
"""Given the request, what is sent back: a text, bytes as a binary message, several, or nothing."""


def error(request: dict[str, Any], status: int, code: int, message: str) -> str:
    problem = {"error_code": code, "message": message}
    return json.dumps({"id": request["id"], "status": status, "result": None, "error": problem})


def done(request: dict[str, Any], order_id: str, external_id: str | None, **changes: Any) -> str:
    order = {
        "id": order_id,
        "create_date": "2024-03-27T13:27:19.853Z",
        "update_date": "2024-03-27T13:30:45.123Z",
        "executed_amount": 0,
        "remaining_amount": 0.001,
        "remaining_value": 100,
        "requested_amount": 0.001,
        "requested_value": 100,
        "total_value": 100,
        "status": "canceled",
        "type": "limit",
        "price": 100000,
        "pair": "BTC_BRL",
        "external_id": external_id,
    }
    return json.dumps({"id": request["id"], "status": 200, "result": order | changes})


class ForeignVenue:
    """Its book, its log, and what it says where it does not say the truth.

    Attributes:
        open: the orders on the book: venue's id and external id, which may be None.
        canceled: the venue's ids that were taken off, in order.
        requests: what was received, decoded, in order.
        connections: how many were accepted.
        answers: what is said instead, by id or external id.
        delay: seconds before each answer.
        stop: ends the venue; waits for its connections.
    """

    def __init__(self) -> None:
        self.open: dict[str, str | None] = {}
        self.canceled: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self.answers: dict[str, Answer] = {}
        self.delay = 0.0
        self.port = 0
        self.stop: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}"

    def orders(self, count: int) -> list[str]:
        """Place orders; return their ids."""
        ids = [f"order-{len(self.open) + number}" for number in range(count)]
        self.open |= dict.fromkeys(ids)
        return ids

    def serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        with suppress(ConnectionClosed):
            for text in connection:
                assert isinstance(text, str)
                answer = self.answer(text)
                if self.delay:
                    time.sleep(self.delay)  # in a thread of the server, which plays the venue's slowness
                for part in answer if isinstance(answer, list) else [answer]:
                    if part is not None:
                        connection.send(part)

    def answer(self, text: str) -> str | bytes | list[str | bytes] | None:
        request = json.loads(text)
        with self._lock:
            self.requests.append(request)
            params = request["params"]
            business = {key: value for key, value in params.items() if key in ("id", "external_id")}
            honest = self._judge(request, params, business, text)
        special = self.answers.get(next(iter(business.values()), ""))
        return honest if special is None else special(request)

    def _judge(self, request: dict[str, Any], params: dict[str, Any], business: dict[str, Any], text: str) -> str:
        # The signed text is cut out of what was received, not written anew.
        received = "{" + text[text.index('"signature":"' + params["signature"] + '",') :].partition(",")[2][:-1]
        message = f"{params['timestamp']}{received}".encode()
        mac = hmac.new(CREDENTIALS.api_secret.encode(), message, hashlib.sha256)
        if (
            params["signature"] != base64.b64encode(mac.digest()).decode()
            or params["api_token"] != CREDENTIALS.api_token
            or abs(time.time() * 1000 - params["timestamp"]) > 5000
            or request["method"] != "order.cancel"
            or len(business) != 1
            or json.loads(received) != business
        ):
            return error(request, 400, 40011, "Invalid signature.")
        ((name, key),) = business.items()
        found = key if name == "id" else next((i for i, external in self.open.items() if external == key), None)
        if found in self.canceled:
            return error(request, 400, 40408, "Cannot cancel an already canceled or fully executed order.")
        if found is None or found not in self.open:
            return error(request, 404, 40401, "Order not found.")
        self.canceled.append(found)
        return done(request, found, self.open[found])


@contextmanager
def open_foreign_venue(**options: Any) -> Iterator[ForeignVenue]:
    """Run a venue in threads of its own; ``options`` are those of `websockets.sync.server.serve`."""
    venue = ForeignVenue()
    quiet = logging.getLogger("tests.foreign")
    quiet.setLevel(logging.CRITICAL)
    server: Server = serve(venue.serve, "127.0.0.1", 0, ssl=SERVER_CONTEXT, logger=quiet, close_timeout=1, **options)
    venue.port = server.socket.getsockname()[1]
    thread = threading.Thread(target=server.serve_forever)

    def stop() -> None:
        server.shutdown()
        thread.join()

    venue.stop = stop
    thread.start()
    try:
        yield venue
    finally:
        stop()
