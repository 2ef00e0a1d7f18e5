"""How an answer is sent, correctly or not: the steps that a connection takes for each fault.

The bytes are made here by hand, because no WebSocket library would let us send what a fault sends.
"""

from __future__ import annotations

import random
import struct
from enum import Enum
from itertools import pairwise

import attrs

from trio_cancel.sandbox import _protocol as protocol
from trio_cancel.sandbox._book import BookStatus, Order
from trio_cancel.sandbox._exchange import VenueAnswer
from trio_cancel.sandbox._faults import CustomReply, Fault, Faults

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SERVICE_RESTART = 1012
OVERSIZE = 2 * 2**20  # bytes


class End(Enum):
    """What happens to the connection after a step."""

    STAY = "stay"
    DROP = "drop"  # dropped at once
    FINISH = "finish"  # end of stream, once everything is written
    CLOSE = "close"  # a Close was sent: wait for the client's


class Mood(Enum):
    """How a connection treats what it receives."""

    FAIR = "fair"
    STALLED = "stalled"  # reads, does nothing
    APPLYING = "applying"  # reads and applies, answers nothing
    DEAF = "deaf"  # given up: later messages are only counted
    NOT_READING = "not reading"


@attrs.frozen
class Step:
    """Bytes to write, when, how, and what follows.

    Args:
        data: whole frames, or what a fault makes of them.
        payload: what the log records as a reply; None if it is not one.
        after: seconds to wait first; other steps overtake it.
        slowly: seconds between two bytes, 0 for all at once.
        end: what happens to the connection.
        mood: how the connection treats what it receives from now on, None for no change.
    """

    data: bytes = b""
    payload: str | bytes | None = None
    after: float = 0.0
    slowly: float = 0.0
    end: End = End.STAY
    mood: Mood | None = None


def frame(opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a server's frame (RFC 6455, 5.2): unmasked, its length in the shortest form."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 2**16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a Close frame; 1005 means no code."""
    return frame(CLOSE, b"" if code == 1005 else struct.pack("!H", code) + reason.encode()[:123])


def say(text: str) -> Step:
    """Return the step that sends an answer in one frame."""
    return Step(frame(TEXT, text.encode()), text)


def deliver(answer: VenueAnswer, faults: Faults, rng: random.Random) -> tuple[Step, ...]:
    """Return the steps for an answer: one honest frame, or what the fault makes of it."""
    fault, text = answer.fault, answer.text
    if isinstance(fault, CustomReply):
        payload = fault.payload
        return (say(payload) if isinstance(payload, str) else Step(frame(BINARY, payload), payload),)
    match fault:
        case None:
            return (say(text),)
        case Fault.DROP_BEFORE | Fault.DROP_AFTER:
            return (Step(end=End.DROP, mood=Mood.DEAF),)
        case Fault.CLOSE_BEFORE | Fault.CLOSE_AFTER:
            return (Step(close_frame(SERVICE_RESTART, "service restart"), end=End.CLOSE, mood=Mood.DEAF),)
        case Fault.SILENT_BEFORE | Fault.SILENT_AFTER | Fault.ACTS_LATE:
            return ()
        case Fault.STALL_BEFORE:
            return (Step(mood=Mood.STALLED),)
        case Fault.STALL_AFTER:
            return (Step(mood=Mood.APPLYING),)
        case Fault.STOP_READING:
            return (Step(mood=Mood.NOT_READING),)
        case Fault.DELAYED | Fault.LATE:
            span = faults.delay if fault is Fault.DELAYED else faults.late
            return (attrs.evolve(say(text), after=rng.uniform(*span)),)
        case Fault.DUPLICATED:
            return (say(text), say(text))
        case Fault.CONTRADICTED:
            return (say(text), say(protocol.render_refusal(answer.request_id, protocol.NOT_FOUND)))
        case Fault.FRAGMENTED:
            return (Step(_fragments(text, rng), text),)
        case Fault.TRICKLED:
            return (attrs.evolve(say(text), slowly=faults.trickle),)
        case Fault.STRAY_BEFORE_REPLY:
            return (say(_with_other_id(answer, rng)), say(text))
        case Fault.BINARY:
            return (Step(frame(BINARY, text.encode()), text.encode()),)
        case Fault.OVERSIZE:
            return (Step(frame(TEXT, b'"%s"' % (b"x" * OVERSIZE)), b"oversize"),)
        case Fault.BAD_UTF8:
            return (Step(frame(TEXT, text.encode() + b"\xff\xfe"), b"bad utf-8"),)
        case Fault.RESERVED_BIT:
            return (Step(frame(TEXT, text.encode(), reserved=rng.choice((1, 2, 4))), b"reserved bit"),)
        case Fault.BAD_CLOSE:
            return (Step(frame(CLOSE, struct.pack("!H", rng.choice((0, 999, 1005, 1006, 5000)))), b"bad close"),)
        case Fault.CUT:
            whole = frame(TEXT, text.encode())
            return (Step(whole[: rng.randrange(1, len(whole))], b"cut", end=End.FINISH, mood=Mood.DEAF),)
        case _:
            return (say(_wrong_text(answer, fault, rng)),)


def _wrong_text(answer: VenueAnswer, fault: Fault, rng: random.Random) -> str:
    """Return the text that replaces the answer if the frame is right and the text is not, otherwise the answer."""
    request_id = protocol.quote(answer.request_id) if answer.request_id is not None else "null"
    error = '"error":{"error_code":40408,"message":"Cannot cancel an already canceled or fully executed order."}'
    match fault:
        case Fault.UNKNOWN_ID:
            return _with_other_id(answer, rng)
        case Fault.NULL_ID:
            return protocol.render_refusal(None, protocol.INTERNAL)
        case Fault.MALFORMED_JSON:
            text = answer.text
            return rng.choice(
                (text[:-1], text[: len(text) // 2], text + "}", text.replace('"status"', "NaN", 1), "", "ok")
            )
        case Fault.WRONG_SCHEMA:
            return rng.choice(
                (
                    f'{{"id":{request_id}}}',
                    f'{{"id":{request_id},"status":"200","result":{{}}}}',
                    f'{{"id":{request_id},"status":200,"result":[]}}',
                    f'{{"id":{request_id},"status":200,"result":{{"id":7,"status":"canceled"}}}}',
                    f'{{"id":{request_id},"status":400.5,"result":null,"error":"no"}}',
                    f'{{"id":{request_id},"status":400,"result":{{"id":7}}}}',
                    f'{{"id":{request_id},"status":null,"result":null,"error":null}}',
                    f'{{"id":[{request_id}],"status":200,"result":null}}',
                    f"[{request_id}]",
                    "7",
                )
            )
        case Fault.OK_WITH_ERROR:
            return f"{answer.text[:-1]},{error}}}"
        case Fault.OK_WITHOUT_RESULT:
            rest = rng.choice(("", ',"result":null'))
            return f'{{"id":{request_id},"status":200{rest}}}'
        case Fault.SPARSE_RESULT | Fault.ODD_RESULT:
            assert answer.order is not None
            return protocol.render_result(answer.request_id, _unusual(answer.order, fault, rng))
        case Fault.OTHER_ORDER | Fault.OTHER_STATUS:
            assert answer.order is not None
            other = (
                attrs.evolve(answer.order, id=f"OTHER-{rng.getrandbits(64):016X}", external_id=None)
                if fault is Fault.OTHER_ORDER
                else attrs.evolve(answer.order, status=BookStatus.OPEN)
            )
            return protocol.render_result(answer.request_id, protocol.render_order(other))
        case _:
            return answer.text


def _unusual(order: Order, fault: Fault, rng: random.Random) -> str:
    """Return a result that is true and still sufficient, in a form that no document shows."""
    external = "null" if order.external_id is None else protocol.quote(order.external_id)
    if fault is Fault.SPARSE_RESULT:
        return f'{{"id":{protocol.quote(order.id)},"external_id":{external},"status":"canceled"}}'
    status = rng.choice(("Canceled", "CANCELED", "cancelled", "CANCELLED"))
    date = rng.choice((protocol.date(order.update_date)[:-1], "yesterday", ""))
    return (
        f'{{"id":{protocol.quote(order.id.swapcase())},"external_id":{external},"status":"{status}"'
        f',"executed_amount":"{protocol.number(order.executed_amount)}","remaining_amount":"NaN","total_value":true'
        f',"requested_amount":{protocol.number(order.requested_amount)},"requested_value":null'
        f',"create_date":"{protocol.date(order.create_date)}","update_date":"{date}","pair":7,"price":{{}}}}'
    )


def _with_other_id(answer: VenueAnswer, rng: random.Random) -> str:
    other = f"unknown-{rng.getrandbits(64):016x}"
    if answer.order is not None:
        return protocol.render_result(other, protocol.render_order(answer.order))
    return protocol.render_refusal(other, protocol.INTERNAL)


def _fragments(text: str, rng: random.Random) -> bytes:
    payload = text.encode()
    cuts = [0, *sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randint(1, 4))), len(payload)]
    frames = []
    for index, (start, stop) in enumerate(pairwise(cuts)):
        frames.append(frame(TEXT if index == 0 else CONTINUATION, payload[start:stop], fin=index == len(cuts) - 2))
        if index < len(cuts) - 2:
            frames.append(frame(PING, b"between"))
    return b"".join(frames)
