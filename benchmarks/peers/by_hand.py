"""What everybody writes by hand whatever the library: the signed request, and the look at the reply. Untyped."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from typing import Any

import msgspec

from benchmarks.job import API_SECRET, API_TOKEN

Reply = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode

_secret = API_SECRET.encode()
_numbers = itertools.count()


def sign(message: bytes) -> str:
    """The signature of a message: base64 of its HMAC-SHA256."""
    return base64.b64encode(hmac.new(_secret, message, hashlib.sha256).digest()).decode()


def request(order_id: str) -> tuple[str, bytes]:
    """A new request id, and the text of a signed cancel with it."""
    request_id = f"r{next(_numbers)}"
    timestamp = time.time_ns() // 1_000_000
    signature = sign(b"%d%b" % (timestamp, encode({"id": order_id})))
    params = {"api_token": API_TOKEN, "timestamp": timestamp, "signature": signature, "id": order_id}
    return request_id, encode({"id": request_id, "method": "order.cancel", "params": params})


def is_canceled(reply: Reply) -> bool:
    """Whether a decoded reply says that the order is canceled."""
    return bool(reply["status"] == 200 and reply["result"]["status"] == "canceled")
