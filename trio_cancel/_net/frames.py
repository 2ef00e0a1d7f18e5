"""WebSocket bytes (RFC 6455), coded by hand where speed matters. No I/O and no clock here.

Outgoing: whole client frames. Incoming: the head of the answer to the upgrade, then frames. Small text frames are
peeled off, and everything else is passed on unchanged to a complete implementation.

A payload may contain anything, even bytes that look like frame headers. So the peeler never searches for frames: it
parses the header of every frame and therefore always knows where the next one begins. At the first header that it does
not understand, it stops peeling for good.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable

import attrs

#: Longest payload that is peeled, in bytes: the largest 16-bit length.
MAX_PEELED = 0xFFFF
#: Longest message of any kind, in bytes.
MAX_MESSAGE_SIZE = 2**20
#: Pieces (frames, or parts of a frame that arrived separately) that one message may come in.
MAX_PIECES = 2**14
#: Longest head of an answer to the upgrade, in bytes, interim heads included.
MAX_HEAD = 2**14

CLOSE, PING, PONG = 0x8, 0x9, 0xA
_CONTINUATION, _TEXT, _BINARY = 0x0, 0x1, 0x2
_FIN = 0x80


def encode_texts(payloads: Iterable[bytes], masks: bytes) -> tuple[bytes, list[int]]:
    """Return whole client frames (FIN, text, masked), one after the other.

    Args:
        payloads: the messages, UTF-8.
        masks: four unpredictable bytes for each, new for each frame (RFC 6455, section 5.3).

    Returns:
        The frames, and for each the offset of its end.
    """
    plain: list[bytes] = []
    pattern: list[bytes] = []
    ends: list[int] = []
    head = unmasked = b""
    end = at = times = 0
    last = -1
    for payload in payloads:
        mask = masks[at : at + 4]
        at += 4
        size = len(payload)
        if size != last:  # messages of the same size have the same head
            last = size
            head = _text_head(size)
            unmasked = bytes(len(head) + 4)
            times = (size + 3) >> 2
        plain += head, mask, payload
        pattern += unmasked, (mask * times)[:size]
        end += len(unmasked) + size
        ends.append(end)
    # One XOR of two big integers for all of them, instead of one for each byte; heads are XORed with zeros.
    mixed = int.from_bytes(b"".join(plain), "little") ^ int.from_bytes(b"".join(pattern), "little")
    return mixed.to_bytes(end, "little"), ends


def _text_head(size: int) -> bytes:
    if size < 126:
        return bytes((0x81, 0x80 | size))
    if size <= 0xFFFF:
        return b"\x81\xfe" + size.to_bytes(2, "big")
    return b"\x81\xff" + size.to_bytes(8, "big")


def encode_close(code: int, reason: str, mask: bytes) -> bytes:
    """Return a whole client Close frame; a reason longer than 123 bytes of UTF-8 is cut."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    payload = code.to_bytes(2, "big") + text
    body = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return bytes((_FIN | CLOSE, 0x80 | len(payload))) + mask + body


class NotHTTP(Exception):
    """The peer's answer to the upgrade is not an HTTP/1 head. The text says why."""


@attrs.define
class HeadReader:
    """Reads the head of the answer to the upgrade. Interim answers (1xx except 101) are skipped, as HTTP requires."""

    status: int = 0  # the HTTP status once :meth:`feed` has returned True
    head: bytes = b""  # as it came, with its blank line
    rest: bytes = b""  # what came right after the head
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _skipped: int = attrs.field(default=0, init=False)

    def feed(self, data: bytes) -> bool:
        """Take bytes from the peer.

        Returns:
            True when a final head is complete: ``status``, ``head`` and ``rest`` are set.

        Raises:
            NotHTTP: the bytes are not an HTTP/1 head, or it is longer than ``MAX_HEAD``.
        """
        buffer = self._buffer
        searched = max(0, len(buffer) - 2)
        buffer += data
        while True:
            if not b"HTTP/1.".startswith(bytes(buffer[:7])):
                raise NotHTTP("the answer is not HTTP")
            # The same rule for a blank line as in h11, so that both see the head end at the same byte.
            blank = _BLANK_LINE.search(buffer, searched)
            if self._skipped + (blank.end() if blank else len(buffer)) > MAX_HEAD:
                raise NotHTTP(f"the head of the answer is longer than {MAX_HEAD} bytes")
            if blank is None:
                return False
            head = bytes(buffer[: blank.end()])
            status = _STATUS_LINE.match(head)
            if status is None:
                raise NotHTTP("the status line of the answer is malformed")
            del buffer[: blank.end()]
            code = int(status[1])
            if code == 101 or code >= 200:
                self.status, self.head, self.rest = code, head, bytes(buffer)
                return True
            self._skipped += blank.end()
            searched = 0

    def header(self, name: str) -> str | None:
        """Return the value of the first header with this name (case does not matter), or None."""
        wanted = name.lower().encode("ascii")
        for line in self.head.split(b"\n")[1:]:
            key, colon, value = line.partition(b":")
            if colon and key.lower() == wanted:
                return value.strip().decode("latin-1")
        return None


_BLANK_LINE = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")


class FramePeeler:
    """Takes whole small text frames out of a server's byte stream and passes everything else on.

    A frame is peeled if it is unmasked, unfragmented text of at most ``MAX_PEELED`` bytes of valid UTF-8, with its
    length in the shortest form, outside any fragmented message. The return values of :meth:`feed`, joined, are exactly
    the stream without the peeled frames. A small text frame is held back until it is whole; anything else passes as it
    comes. At the first irregular byte, and after a Close frame, everything passes unchanged, for good.

    It also protects the memory of whoever gets the rest: see ``too_big`` and ``backlog``.
    """

    def __init__(self, on_texts: Callable[[list[bytes]], object]) -> None:
        self._on_texts = on_texts
        self._held = bytearray()  # the beginning of a frame (small text, or any header) that is not yet whole
        self._need = 0  # size that _held must reach before it is worth looking again
        self._left = 0  # payload bytes of the current frame that have not passed yet
        self._open = False  # inside a fragmented message
        self._size = 0  # bytes of the message that is passing, and the pieces it came in
        self._pieces = 0
        self.irregular = False  # peeling has stopped for good
        self.close_seen = False  # the header of a Close frame has come
        # A message is longer than MAX_MESSAGE_SIZE or in more than MAX_PIECES pieces; it and all after it is dropped.
        self.too_big = False
        self.passed: deque[int] = deque()  # sizes of the messages that were passed on; whoever takes one pops its size
        self.backlog = 0  # the sum of `passed`

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; deliver the text frames in them, in order and in one call.

        Args:
            data: any piece of the stream; the cost is linear in the stream, however it is cut.

        Returns:
            The bytes that are not for us, perhaps none.
        """
        if self.too_big:
            return b""
        if self.irregular:
            return data
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return b""
            data = bytes(held)
            held.clear()
        elif self._left:
            return self._feed_payload(data)
        return self._feed_frames(data, 0)

    def _feed_payload(self, data: bytes) -> bytes:
        """Pass the rest of a data frame that began in an earlier piece."""
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            self.too_big = True
            return b""
        cut = min(self._left, len(data))
        self._left -= cut
        return data if cut == len(data) else data[:cut] + self._feed_frames(data, cut)

    def _feed_frames(self, data: bytes, position: int) -> bytes:
        """Take frames apart, from the beginning of one at `position`."""
        end = len(data)
        texts: list[bytes] = []
        passing: list[bytes] = []
        while position < end:
            # The usual case first, without a call: a whole small text frame.
            if data[position] == 0x81 and not self._open and end - position >= 2:
                size = data[position + 1]
                start = position + 2
                if size == 126 and end - position >= 4:
                    size = data[position + 2] << 8 | data[position + 3]
                    start += 2
                    shortest = size > 125
                else:
                    shortest = size < 126
                if shortest:
                    stop = start + size
                    if stop > end:
                        self._hold(data, position, stop - position)
                        break
                    payload = data[start:stop]
                    if payload.isascii() or _is_utf8(payload):
                        texts.append(payload)
                        position = stop
                        continue
                    self.irregular = True
                    passing.append(data[position:])
                    break
            stop = self._other_frame(data, position, end)
            if stop == position:  # held back, or too big
                break
            passing.append(data[position:stop])
            position = stop
        if texts:
            self._on_texts(texts)
        return b"".join(passing) if passing else b""

    def _other_frame(self, data: bytes, position: int, end: int) -> int:
        """Parse the header of a frame that is not whole small text; return where the bytes to pass now end."""
        if end - position < 2:
            return self._hold(data, position, 2)
        first, second = data[position], data[position + 1]
        opcode, fin = first & 0x0F, first & _FIN
        control = opcode >= CLOSE
        start = position + 2
        if first & 0x70 or second & 0x80 or opcode not in _KNOWN:
            return self._give_up(end)
        if control:
            if second > 125 or not fin:
                return self._give_up(end)
            if start + second > end:
                return self._hold(data, position, 2 + second)
            if opcode == CLOSE:
                self.close_seen = True
                return self._give_up(end)
            return start + second
        if self._open != (opcode == _CONTINUATION):
            return self._give_up(end)
        size = second
        if second >= 126:
            start += 2 if second == 126 else 8
            if start > end:
                return self._hold(data, position, start - position)
            size = int.from_bytes(data[position + 2 : start], "big")
            if size <= (125 if second == 126 else 0xFFFF) or size >> 63:
                return self._give_up(end)
        return self._message_part(size, bool(fin), opcode != _CONTINUATION, position, start, end)

    def _message_part(self, size: int, fin: bool, first: bool, position: int, start: int, end: int) -> int:
        """Count a data frame whose payload begins at `start`, and pass as much of it as has come."""
        self._size = size if first else self._size + size
        self._pieces = 1 if first else self._pieces + 1
        if self._size > MAX_MESSAGE_SIZE or self._pieces > MAX_PIECES:
            self.too_big = True
            return position
        self._open = not fin
        if fin:
            self.passed.append(self._size)
            self.backlog += self._size
        stop = start + size
        self._left = max(0, stop - end)
        return min(stop, end)

    def _hold(self, data: bytes, position: int, need: int) -> int:
        """Hold the beginning of a frame back until `need` bytes of it have come."""
        self._held += data[position:]
        self._need = need
        return position

    def _give_up(self, end: int) -> int:
        self.irregular = True
        return end


_KNOWN = frozenset((_CONTINUATION, _TEXT, _BINARY, CLOSE, PING, PONG))


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
