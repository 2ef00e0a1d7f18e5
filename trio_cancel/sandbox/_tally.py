"""Finds where a client's frames begin and end, to see how much of one was missing when the stream ended."""

from __future__ import annotations


class FrameTally:
    """Follows the frames of a byte stream by their headers (RFC 6455, 5.2); a client's frame is masked."""

    def __init__(self) -> None:
        self.complete = 0
        """Frames that arrived completely."""
        self._header = bytearray()
        self._wanted = 2
        self._payload = 0  # bytes of payload still to come; 0 while a header is read
        self._seen = 0

    @property
    def pending(self) -> int:
        """Bytes that have arrived of an incomplete frame."""
        return self._seen

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, in pieces of any size."""
        position, size = 0, len(data)
        while position < size:
            if self._payload:
                taken = min(self._payload, size - position)
                position += taken
                self._seen += taken
                self._payload -= taken
            else:
                taken = min(self._wanted - len(self._header), size - position)
                self._header += data[position : position + taken]
                position += taken
                self._seen += taken
                if len(self._header) < self._wanted:
                    return
                if not self._header_read():
                    continue
            if not self._payload:
                self.complete += 1
                self._header.clear()
                self._wanted = 2
                self._seen = 0

    def _header_read(self) -> bool:
        header = self._header
        short = header[1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        self._wanted = 2 + extended + (4 if header[1] & 0x80 else 0)
        if len(header) < self._wanted:
            return False
        self._payload = int.from_bytes(header[2 : 2 + extended], "big") if extended else short
        return True
