"""Arguments and files into requests, before anything is sent. No network here.

A file is one order id a line; or CSV whose header names ``id`` and/or ``external_id`` (separated by comma, semicolon
or tab); or one JSON object a line with ``id`` and/or ``external_id``. The first line that is not blank decides. Where a
row has both, ``id`` wins. Blank lines count as lines and are skipped; every other line is a request or is named as bad.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from trio_cancel._cli._failure import CommandError, clean, say, short
from trio_cancel._values.errors import InvalidRequest
from trio_cancel._values.models import CancelRequest

LINE_MOST = 65_536
"""Bytes of a line, at most: no order's name is that long."""
LINES_MOST = 1_000_000
"""Lines of an input, at most: it is held in memory, so that every bad line is known before anything is sent."""
SEPARATORS = ",;\t"
FIELDS = ("id", "external_id")
# What no venue's id holds, and what shows that a line is of another format.
_NOT_IN_ID = frozenset("\"'`,;{}[]<>")

Parse = Callable[[str], CancelRequest]


class BadLine(ValueError):
    """A line is no request; the text says why."""


@attrs.define(eq=False)
class Input:
    """What is to be canceled.

    Attributes:
        requests: each order with the number of times that it was asked for, in the order of first mention.
        bad: ("line 3", why) for each that is no request.
    """

    requests: dict[CancelRequest, int] = attrs.field(factory=dict)
    bad: list[tuple[str, str]] = attrs.field(factory=list)

    def take(self, where: str, parse: Parse, text: str) -> None:
        """Take one request in, or note where it is bad."""
        try:
            request = parse(text)
        except (BadLine, InvalidRequest) as error:
            self.bad.append((where, str(error)))
        else:
            self.requests[request] = self.requests.get(request, 0) + 1

    @property
    def total(self) -> int:
        """How many requests there are, each place counted."""
        return sum(self.requests.values())


def read_arguments(into: Input, ids: Iterable[str], external_ids: Iterable[str]) -> None:
    """Take requests from the command's own words."""
    for number, word in enumerate(ids, 1):
        into.take(f"ID {number}", plain_id, word)
    for number, word in enumerate(external_ids, 1):
        into.take(f"--external-id {number}", lambda text: CancelRequest(external_id=text), word)


def read_file(into: Input, name: str) -> None:
    """Take requests from a file, ``-`` being stdin.

    Raises:
        CommandError: it cannot be read, is too long, or its header is of no use.
    """
    if name == "-":
        stdin = sys.stdin
        if stdin is None or stdin.closed:
            raise CommandError("Nothing can be read: stdin is closed.")
        if stdin.isatty():
            say("reading ids from the terminal, one a line; end with Ctrl-D")
        read_lines(into, stdin.buffer)
        return
    try:
        with Path(name).open("rb") as file:
            read_lines(into, file)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        why = getattr(error, "strerror", None) or str(error)
        raise CommandError(f"The file {clean(name)} cannot be read: {why}.") from error


def read_lines(into: Input, file: BinaryIO) -> None:
    """Take requests from the lines of a file."""
    parse: Parse | None = None
    for number, raw in enumerate(_raw_lines(file), 1):
        if number > LINES_MOST:
            raise CommandError(f"The input has more than {LINES_MOST} lines; split it.")
        where = f"line {number}"
        if raw is None:
            into.bad.append((where, f"it is longer than {LINE_MOST} bytes"))
            continue
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError:
            into.bad.append((where, "it is not UTF-8"))
            continue
        if not text.strip():
            continue
        if parse is None:
            parse, is_header = _format_of(text, number)
            if is_header:
                continue
        into.take(where, parse, text)


def _raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines; None for one that is too long."""
    while line := file.readline(LINE_MOST + 2):
        if len(line) > LINE_MOST and not line.endswith(b"\n"):
            while (rest := file.readline(LINE_MOST)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line


def _format_of(first: str, number: int) -> tuple[Parse, bool]:
    """Return how to parse the lines, and whether the first of them is a header."""
    if first.lstrip().startswith("{"):
        return json_object, False
    for separator in SEPARATORS:
        try:
            header = [name.strip().lower() for name in _cells(first, separator)]
        except BadLine:
            continue
        if any(field in header for field in FIELDS):
            for field in FIELDS:
                if header.count(field) > 1:
                    raise CommandError(f"Line {number}: the header names {field} twice; name each column once.")
            return _CsvRow(separator, header), True
    return plain_id, False


def plain_id(text: str) -> CancelRequest:
    """Return the request for an order id that stands alone."""
    text = text.strip()
    if any(character.isspace() or character in _NOT_IN_ID for character in text):
        raise BadLine(
            f"{_shown(text)} is not one order id; for CSV begin with a header that names id or external_id, "
            "for JSON write one object a line"
        )
    if not text.isprintable():
        raise BadLine(f"{_shown(text)} holds a control character")
    return CancelRequest(text)


@attrs.frozen
class _CsvRow:
    """Parses the rows below a CSV header. Each line is a row of its own: an open quote cannot swallow the next."""

    separator: str
    header: list[str]

    def __call__(self, text: str) -> CancelRequest:
        cells = _cells(text, self.separator)
        if len(cells) != len(self.header):
            raise BadLine(f"it has {len(cells)} column{'s' * (len(cells) != 1)}, the header has {len(self.header)}")
        row = dict(zip(self.header, cells, strict=True))
        if order_id := row.get("id", "").strip():
            return plain_id(order_id)
        external_id = row.get("external_id", "")
        if not external_id.strip():
            raise BadLine(f"it has no {' and no '.join(field for field in FIELDS if field in row)}")
        if external_id != external_id.strip():
            raise BadLine(f"the external_id {_shown(external_id)} begins or ends with a space")
        if not external_id.isprintable():
            raise BadLine(f"the external_id {_shown(external_id)} holds a control character")
        return CancelRequest(external_id=external_id)


def _cells(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise BadLine(f"it is no CSV: {error}") from None


def json_object(text: str) -> CancelRequest:
    """Return the request for a JSON object with ``id`` and/or ``external_id``."""
    try:
        value = json.loads(text, object_pairs_hook=_members)
    except BadLine:
        raise
    except json.JSONDecodeError as error:
        raise BadLine(f"it is no JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise BadLine("it is no JSON that can be read") from None
    if not isinstance(value, dict):
        raise BadLine(f"it is no JSON object but {_shown(text.strip())}")
    for field in FIELDS:
        found = value.get(field)
        if found is not None:
            if not isinstance(found, str):
                raise BadLine(f"{field} must be a string, not {_shown(json.dumps(found))}")
            return CancelRequest(**{field: found})
    raise BadLine("it has neither id nor external_id")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        for field in FIELDS:
            if sum(name == field for name, _ in pairs) > 1:
                raise BadLine(f"it has {field} twice")
    return members


def _shown(text: str) -> str:
    return f'"{short(clean(text), 60)}"'
