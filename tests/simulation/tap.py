"""What went over a wire, read from its bytes: requests on their way up, messages on their way down.

Written from RFC 6455 alone: it shares no code with the client's frame code nor with the sandbox's.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import attrs

from trio_cancel import CancelRequest

from .record import Stamp
from .stream import Wire

CONTROL = (8, 9, 10)
BIGGEST = 2**20


@attrs.frozen
class Sent:
    """A request frame that the client began."""

    wire: int
    request_id: str
    timestamp: int
    order: str
    by_external: bool
    offered: Stamp
    complete: Stamp

    @property
    def asked(self) -> CancelRequest:
        """Which order it named."""
        return CancelRequest(external_id=self.order) if self.by_external else CancelRequest(self.order)


@attrs.frozen
class Message:
    """A text message that the client read whole."""

    wire: int
    read: Stamp
    text: str

    def document(self) -> Any:
        """Return it as JSON, or None."""
        try:
            return json.loads(self.text, parse_float=Decimal, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


@attrs.frozen
class Frame:
    """A frame as it stands in the bytes; ``end`` is past them if it is not complete."""

    start: int
    end: int
    first: int
    payload: bytes


def frames(data: bytes, position: int) -> tuple[list[Frame], str]:
    """Return the frames from ``position`` on, the last perhaps incomplete (without payload), and what is wrong."""
    found: list[Frame] = []
    size = len(data)
    while position < size:
        if size - position < 2:
            found.append(Frame(position, size + 1, data[position], b""))
            break
        first, second = data[position], data[position + 1]
        length, header = second & 0x7F, 2
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            if size - position < 2 + extended:
                found.append(Frame(position, size + 1, first, b""))
                break
            length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
            header += extended
        masked = bool(second & 0x80)
        body = position + header + (4 if masked else 0)
        end = body + length
        if first & 0x70 or first & 0x0F not in (0, 1, 2, *CONTROL):
            return found, f"a frame that begins with {first:#x}"
        if first & 0x0F in CONTROL and (length > 125 or not first & 0x80):
            return found, "a control frame that is too long or fragmented"
        if length > BIGGEST:
            return found, "a frame that is too big"
        if end > size:
            found.append(Frame(position, end, first, b""))
            break
        payload = data[body:end]
        if masked:
            key = data[body - 4 : body]
            pad = (key * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")
        found.append(Frame(position, end, first, payload))
        position = end
    return found, ""


def _head_end(data: bytes) -> int:
    at = data.find(b"\r\n\r\n")
    return len(data) if at < 0 else at + 4


def sent_requests(wire: Wire) -> tuple[list[Sent], list[str]]:
    """Return the requests on a wire whose frames were complete, in order, and what was wrong with its bytes."""
    data = bytes(wire.up.data)
    found, wrong = frames(data, _head_end(data))
    problems = [f"wire {wire.number}: the client sent {wrong}"] if wrong else []
    requests: list[Sent] = []
    for frame in found:
        if frame.end > len(data) or frame.first != 0x81:
            continue
        try:
            document = json.loads(frame.payload)
            params = document["params"]
            by_external = "external_id" in params
            requests.append(
                Sent(
                    wire.number,
                    document["id"],
                    params["timestamp"],
                    params["external_id"] if by_external else params["id"],
                    by_external,
                    _offered(wire, frame.start),
                    _accepted(wire, frame.end),
                )
            )
        except (ValueError, KeyError, TypeError):
            problems.append(f"wire {wire.number}: the client sent a text that is no request: {frame.payload[:80]!r}")
    return requests, problems


def _offered(wire: Wire, start: int) -> Stamp:
    return next(stamp for stamp, begin, end in wire.offers if begin <= start < end)


def _accepted(wire: Wire, end: int) -> Stamp:
    return next(stamp for stamp, total in wire.accepts if total >= end)


def read_messages(wire: Wire) -> list[Message]:
    """Return the text messages that the client read whole before the venue broke the protocol, if it did."""
    data = bytes(wire.down.data[: wire.down.read])
    head = _head_end(data)
    if not data.startswith(b"HTTP/1.1 101") or head == len(data):
        return []
    found, _ = frames(data, head)
    messages: list[Message] = []
    parts: list[bytes] | None = None
    for frame in found:
        if frame.end > len(data):
            break
        opcode = frame.first & 0x0F
        if opcode in CONTROL:
            if opcode == 8:
                break
            continue
        if (opcode == 0) != (parts is not None) or opcode == 2:
            if opcode == 2 and parts is None and frame.first & 0x80:
                continue
            break
        parts = [*(parts or ()), frame.payload]
        if not frame.first & 0x80:
            continue
        try:
            text = b"".join(parts).decode()
        except UnicodeDecodeError:
            break
        parts = None
        read = next(stamp for stamp, total in wire.reads if total >= frame.end)
        messages.append(Message(wire.number, read, text))
    return messages
