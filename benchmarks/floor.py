"""The floor: what one cancel costs a Python client before any event loop, task, socket or bookkeeping.

Each part is done the cheapest way known, on its own, as often as the job says, and the parts are added up: signing
with prepared hash states, encoding, masking, decoding strictly into typed values, and the client's share of TLS
(requests encrypted in full records, replies decrypted record by record, as a venue sends them).
"""

from __future__ import annotations

import binascii
import datetime
import decimal
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import attrs
import msgspec
import trustme

from benchmarks.framing import masked_frame
from benchmarks.job import API_SECRET, API_TOKEN, Job
from benchmarks.venue import answer

_T = TypeVar("_T")
_R = TypeVar("_R")

_RECORD = 16384
_BLOCK = 64


@attrs.frozen
class _Order:
    id: str
    status: Literal["canceled"]
    create_date: datetime.datetime
    update_date: datetime.datetime
    executed_amount: decimal.Decimal
    remaining_amount: decimal.Decimal
    remaining_value: decimal.Decimal
    requested_amount: decimal.Decimal
    requested_value: decimal.Decimal
    total_value: decimal.Decimal
    type: str
    price: decimal.Decimal | None
    pair: str
    external_id: str | None


@attrs.frozen
class _Reply:
    id: str
    status: int
    result: _Order


def run_floor(job: Job) -> dict[str, float]:
    """Microseconds of processor time per cancel, part by part, and their sums without and with TLS."""
    orders = job.order_ids()
    messages = [b'1634567890000{"id":"%b"}' % order_id.encode() for order_id in orders]
    sign_us, signatures = _time(_signer(), messages)
    requests = [
        {
            "id": f"r{number}",
            "method": "order.cancel",
            "params": {"api_token": API_TOKEN, "timestamp": 1634567890000, "signature": signature, "id": order_id},
        }
        for number, (order_id, signature) in enumerate(zip(orders, signatures, strict=True))
    ]
    encode_us, texts = _time(msgspec.json.Encoder().encode, requests)
    mask_us, frames = _time(_masker(), texts)
    replies = [answer(text) for text in texts]
    decode_us, _ = _time(msgspec.json.Decoder(_Reply, float_hook=decimal.Decimal).decode, replies)
    tls_us = _tls(frames, replies)
    plain = sign_us + encode_us + mask_us + decode_us
    return {
        "sign_us": sign_us,
        "encode_us": encode_us,
        "mask_us": mask_us,
        "decode_us": decode_us,
        "tls_us": tls_us,
        "floor_ws_us": plain,
        "floor_wss_us": plain + tls_us,
    }


def _time(do: Callable[[_T], _R], values: list[_T]) -> tuple[float, list[_R]]:
    """Microseconds a value, and the results."""
    started = time.process_time()
    results = list(map(do, values))
    return (time.process_time() - started) / len(values) * 1e6, results


def _signer() -> Callable[[bytes], str]:
    """HMAC-SHA256 from its definition, with the hashes of the two padded keys prepared: half of `hmac`'s own cost."""
    key = API_SECRET.encode().ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def sign(message: bytes) -> str:
        first, second = inner.copy(), outer.copy()
        first.update(message)
        second.update(first.digest())
        return binascii.b2a_base64(second.digest(), newline=False).decode()

    return sign


def _masker() -> Callable[[bytes], bytes]:
    """Frames, with the random bytes for a thousand masks fetched at once."""
    masks = (block[start : start + 4] for block in iter(lambda: os.urandom(4096), b"") for start in range(0, 4096, 4))
    return lambda text: masked_frame(text, next(masks))


def _tls(frames: Iterable[bytes], replies: list[bytes]) -> float:
    """Microseconds per cancel that the client's side of TLS takes, over memory."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        _shake(side)

    plaintext = b"".join(frames)
    started = time.process_time()
    for start in range(0, len(plaintext), _RECORD):
        client.write(plaintext[start : start + _RECORD])
        to_server.read()
    used = time.process_time() - started

    for start in range(0, len(replies), 256):
        for reply in replies[start : start + 256]:
            server.write(b"\x81\x7e" + len(reply).to_bytes(2, "big") + reply)
        started = time.process_time()
        _drain(client)
        used += time.process_time() - started
    return used / len(replies) * 1e6


def _shake(side: ssl.SSLObject) -> None:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return


def _drain(side: ssl.SSLObject) -> None:
    try:
        while True:
            side.read(_RECORD)
    except ssl.SSLWantReadError:
        return
