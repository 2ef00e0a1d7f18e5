"""Just enough of RFC 6455 for the measurements that use no WebSocket library."""

from __future__ import annotations


def masked_frame(payload: bytes, mask: bytes) -> bytes:
    """A client's text frame, masked with four random bytes; payloads up to 65 535 bytes."""
    length = len(payload)
    head = bytes((0x81, 0x80 | length)) if length < 126 else bytes((0x81, 0xFE)) + length.to_bytes(2, "big")
    keys = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ keys).to_bytes(length, "big")


def frame_length(data: bytes | bytearray) -> int:
    """The whole length of the server's frame that `data` begins with (an unmasked one up to 65 535 bytes)."""
    length = data[1] & 0x7F
    return 2 + length if length < 126 else 4 + int.from_bytes(data[2:4], "big")
