"""Turns the bytes of an input into numbered lines of text, whatever its encoding and line ends.

UTF-8 is read with or without a byte order mark, UTF-16 and UTF-32 with one. A line ends with LF, CR LF or CR. Memory is
bounded by the longest line that is taken.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

import attrs

from trio_cancel._cli._failure import CommandError

LINE_MOST = 65_536
"""Characters of a line, at most: no order's name is that long."""
LINES_MOST = 1_000_000
"""Lines of an input, at most: it is kept in memory, so that every bad line is known before anything is sent."""
PROGRESS_EVERY = 10_000
"""Lines between two calls of the progress function."""
_PIECE = 65_536
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK_LONGEST = 4
_UNREADABLE = "\udcff"


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _UNREADABLE, error.end


codecs.register_error("trio_cancel.stand_in", _stand_in)


@attrs.frozen
class Line:
    """One line of the input.

    Attributes:
        number: from 1.
        text: without its line end; of a line that is too long only its beginning.
        quoted: it contains a quotation mark, perhaps in the part that was left out.
        flaw: why it cannot be used, as a clause; None if it can.
        cut: it is too long.
    """

    number: int
    text: str
    quoted: bool
    flaw: str | None = None
    cut: bool = False


class Lines:
    """The lines of a file, one after the other; an iterator.

    Attributes:
        filled: the number of the last line so far that is not blank.
    """

    def __init__(self, file: BinaryIO, progress: Callable[[int], None] | None = None) -> None:
        self._progress = progress
        # As they arrive: at a terminal, one end of file must be enough.
        self._pieces = iter(partial(getattr(file, "read1", file.read), _PIECE), b"")
        self._number = 0
        self.filled = 0
        self._encoding = "UTF-8"
        self._lines = self._read()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return next(self._lines)

    def _read(self) -> Iterator[Line]:
        rest = ""  # of a line whose end has not arrived
        dropped = quoted = False  # whether that line is too long, and whether the dropped part had a quotation mark
        for text in self._texts():
            *whole, rest_after = (rest + text).split("\n")
            for part in whole:
                yield self._line(part, dropped, quoted)
                dropped = quoted = False
            rest = rest_after
            if len(rest) > LINE_MOST:
                dropped, quoted, rest = True, quoted or '"' in rest, rest[:1]
        if rest:
            yield self._line(rest, dropped, quoted)

    def _line(self, text: str, dropped: bool, quoted: bool) -> Line:
        self._number += 1
        if self._progress is not None and not self._number % PROGRESS_EVERY:
            self._progress(self._number)
        if self._number > LINES_MOST:
            raise CommandError(f"The input has more than {LINES_MOST} lines; split it.")
        quoted = quoted or '"' in text
        if dropped or text.strip():
            self.filled = self._number
        if dropped or len(text) > LINE_MOST:
            return Line(self._number, text[:80], quoted, f"it is longer than {LINE_MOST} characters", cut=True)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return Line(self._number, text, quoted, f"it is not {self._encoding}")
        return Line(self._number, text, quoted)

    def _texts(self) -> Iterator[str]:
        """Yield the text in pieces, every line end as LF."""
        first = b""
        for piece in self._pieces:
            first += piece
            if len(first) >= _MARK_LONGEST:
                break
        encoding = "utf-8"
        for mark, name in _MARKS.items():
            if first.startswith(mark):
                first, encoding = first[len(mark) :], name
                break
        else:
            if len(first) >= _MARK_LONGEST and (first[0:3:2] == b"\0\0") != (first[1:4:2] == b"\0\0"):
                raise CommandError("The input looks like UTF-16 without a byte order mark; save it as UTF-8.")
        self._encoding = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        decoder = codecs.getincrementaldecoder(encoding)("trio_cancel.stand_in")
        lines = io.IncrementalNewlineDecoder(decoder, translate=True)
        yield lines.decode(first)
        yield from map(lines.decode, self._pieces)
        yield lines.decode(b"", final=True)
