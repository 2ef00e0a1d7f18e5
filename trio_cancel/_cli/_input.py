"""Turns arguments and files into requests, before anything is sent. No network here.

A file is a list of order ids, one per line; or a table whose header names ``id`` and/or ``external_id`` (separated by
comma, semicolon, tab or bar; other well-known names are accepted); or one JSON object per line with ``id`` and/or
``external_id``. The first line that is neither blank nor a comment decides. If a row has both, ``id`` wins. Blank lines
count as lines and are left out; every other line is a request, is reported as bad, or is reported as skipped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from trio_cancel._cli import _table
from trio_cancel._cli._failure import CommandError, UsageError, clean, is_terminal, say, short, why_of, write_stderr
from trio_cancel._cli._lines import Line, Lines
from trio_cancel._cli._records import Given
from trio_cancel._cli._table import BadLine, Header, Unreadable, lines_of, shown
from trio_cancel._values.errors import InvalidRequest
from trio_cancel._values.models import CancelRequest

FIELDS = ("id", "external_id")
HEADER_MOST = 100
"""Lines of a header, at most."""
# Characters that no venue's id contains, and that show that a line is in another format.
_NOT_IN_ID = frozenset("\"'`,;{}[]<>")

Parse = Callable[[str], tuple[CancelRequest, Given]]


@attrs.define(eq=False)
class GivenOrders:
    """The orders to cancel.

    Attributes:
        literal: take ids and external ids literally: no comments, missing values, or other column names.
        requests: each order with the number of times that it was requested, in the order of first mention.
        given: for orders that the input names differently from their request, what each place contains.
        bad: ("line 3", why) for each that names no order.
        bad_lines: how many lines these are.
        skipped: ("line 4", why) for each that is left out but is not bad: comments, repeated headers.
        notes: ("line 5", what) for lines that were accepted but look odd.
    """

    literal: bool = False
    requests: dict[CancelRequest, int] = attrs.field(factory=dict)
    given: dict[CancelRequest, list[Given]] = attrs.field(factory=dict)
    bad: list[tuple[str, str]] = attrs.field(factory=list)
    bad_lines: int = 0
    skipped: list[tuple[str, str]] = attrs.field(factory=list)
    notes: list[tuple[str, str]] = attrs.field(factory=list)

    def take(self, where: str, parse: Parse, text: str) -> None:
        """Take one request, or note that its place is bad."""
        try:
            self.add(where, *parse(text))
        except (BadLine, InvalidRequest) as error:
            self.refuse(where, str(error))

    def add(self, where: str, request: CancelRequest, given: Given) -> None:
        """Add one request."""
        external_id = request.external_id
        if external_id is not None and external_id != external_id.strip():
            self.notes.append(
                (where, f"the external id {shown(external_id)} has white space at its ends; it is sent as it is")
            )
        before = self.requests.get(request, 0)
        own = (request.id, request.external_id)
        if given != own or request in self.given:
            self.given.setdefault(request, [own] * before).append(given)
        self.requests[request] = before + 1

    def refuse(self, where: str, why: str, lines: int = 1) -> None:
        """Note something bad."""
        self.bad.append((where, why))
        self.bad_lines += lines

    def refuse_rest(self, first: Line, lines: Lines, why: str) -> None:
        """Note that nothing can be read from this line on; this ends the input."""
        for _ in lines:
            pass
        last = max(lines.filled, first.number)
        self.refuse(
            lines_of(first.number, last), f"{why}, so that nothing can be read from here on", last - first.number + 1
        )

    def skip(self, number: int, why: str) -> None:
        """Note a line that is left out."""
        self.skipped.append((f"line {number}", why))


def read_arguments(into: GivenOrders, ids: Iterable[str], external_ids: Iterable[str]) -> None:
    """Take requests from the command's own arguments."""
    for number, word in enumerate(ids, 1):
        into.take(f"ID {number}", _argument, word)
    for number, word in enumerate(external_ids, 1):
        into.take(f"--external-id {number}", lambda text: (CancelRequest(external_id=text), (None, text)), word)


class _Reading:
    """Shows on stderr that a long input is being read: on a terminal in one place, otherwise a line now and then."""

    def __init__(self, name: str) -> None:
        self._name = "stdin" if name == "-" else clean(name)
        self._moves = is_terminal(sys.stderr)
        self._every = 0.5 if self._moves else 10.0
        self._next = time.monotonic() + self._every
        self._shown = 0

    def __call__(self, lines: int) -> None:
        """Show how many lines were read, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        text = f"trio-cancel: reading {self._name}: {lines:,} lines"
        self._shown = len(text) if self._moves else 0
        write_stderr(f"\r{text}" if self._moves else f"{text}\n")

    def end(self) -> None:
        """Remove it."""
        if self._shown:
            write_stderr(f"\r{' ' * self._shown}\r")


def read_file(into: GivenOrders, name: str) -> None:
    """Take requests from a file, ``-`` being stdin."""
    if name == "-":
        stdin = sys.stdin
        if stdin is None or stdin.closed:
            raise CommandError("Nothing can be read: stdin is closed.")
        if stdin.isatty():
            say("reading ids from the terminal, one per line; end with Ctrl-D")
        _read(into, stdin.buffer, name)
        return
    if not name:
        raise UsageError("--from needs the name of a file, or - for stdin.")
    try:
        with Path(name).open("rb") as file:
            _read(into, file, name)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise CommandError(f"The file {clean(name)} cannot be read: {why_of(error)}.") from error


def _read(into: GivenOrders, file: BinaryIO, name: str) -> None:
    reading = _Reading(name)
    try:
        read_lines(into, file, reading)
    finally:
        reading.end()


def read_lines(into: GivenOrders, file: BinaryIO, progress: Callable[[int], None] | None = None) -> None:
    """Take requests from the lines of a file; ``progress`` is called now and then with the number of lines read."""
    lines = Lines(file, progress)
    separator: str | None = None
    for line in _filled(into, lines):
        text = line.text
        if separator is None and (named := _table.separator_line(text)) is not None:
            separator = named
        elif text.lstrip().startswith("{") and separator is None:
            for each in _filled(into, chain([line], lines), comments=False):
                _take_line(into, each, json_object)
            return
        elif text.lstrip().startswith("[") and separator is None:
            raise CommandError(
                f"Line {line.number} begins a JSON array; write one JSON object per line (jq -c '.[]' makes them)."
            )
        elif line.flaw is not None and not _is_table(text, separator):
            into.refuse(f"line {line.number}", line.flaw)
        elif (header := _header(into, line, lines, separator)) is not None:
            _read_table(into, lines, header)
            return
        else:
            _read_plain(into, line, lines)
            return


def _filled(into: GivenOrders, lines: Iterable[Line], *, comments: bool = True) -> Iterator[Line]:
    """Yield the lines that are not blank, and note those that are comments unless there can be none."""
    for line in lines:
        if line.cut or line.text.strip():
            if comments and not into.literal and line.text.lstrip().startswith("#"):
                into.skip(line.number, "a comment")
            else:
                yield line


def _is_table(text: str, separator: str | None) -> bool:
    return separator is not None or any(separator in text for separator in _table.SEPARATORS)


def _header(into: GivenOrders, first: Line, lines: Lines, separator: str | None) -> Header | None:
    """Return the header in the first line, with the lines it continues on; None if the file is a list of ids."""
    if first.flaw is not None:
        raise CommandError(f"Line {first.number} should be a table's header, but {first.flaw}; save the file as UTF-8.")
    texts, quotes = [first.text], first.text.count('"')
    while quotes % 2:  # a quoted name continues on the next line
        following = next(lines, None)
        if following is None or following.flaw is not None or len(texts) > HEADER_MOST:
            raise CommandError(f"Line {first.number} should be a table's header, but {_table.NOT_CLOSED} in it.")
        texts.append(following.text)
        quotes += following.text.count('"')
    widest: list[str] = []
    for candidate in _table.SEPARATORS if separator is None else separator:
        cells = _cells(texts, candidate)
        header = _table.read_header(first.number, cells, candidate, literal=into.literal)
        if header is not None:
            return header
        widest = max(widest, cells, key=len)
    if separator is not None or len(widest) > 1 or len(texts) > 1:
        raise _table.refuse_header(first.number, widest or texts)
    return None


def _cells(texts: list[str], separator: str) -> list[str]:
    """Return the cells of a row on these lines; none if they are not a row."""
    row = _table.RowReader(separator)
    try:
        ends = [row.take(text) for text in texts]
    except Unreadable:
        return []
    return row.cells if ends == [*[False] * (len(texts) - 1), True] else []


def _read_table(into: GivenOrders, lines: Lines, header: Header) -> None:
    for line in _filled(into, lines, comments=header.external_id != 0):  # such an id may begin with #
        where = f"line {line.number}"
        try:
            cells = _table.read_row(line, lines, header.separator)
            if not into.literal:
                if header.is_repeated(cells):
                    into.skip(line.number, "the header again")
                    continue
                if header.is_another(cells):
                    raise Unreadable("the header of another table stands here")
            into.add(where, *_request_of(header, cells, literal=into.literal))
        except (BadLine, InvalidRequest) as error:
            into.refuse(where, str(error))
        except Unreadable as error:
            into.refuse_rest(line, lines, str(error))
            return


def _request_of(header: Header, cells: list[str], *, literal: bool) -> tuple[CancelRequest, Given]:
    order_id, external_id = header.cells_of(cells)
    other = external_id if external_id and (literal or external_id.strip()) else None
    if order_id is not None:
        order_id = order_id.strip() if literal else _table.id_of(order_id)
    if order_id:
        return plain_id(order_id)[0], (order_id.strip(), other)
    if other is None:
        raise BadLine(f"it has no {header.missing}")
    if not literal and not other.strip().isprintable():
        raise BadLine(f"the external_id {shown(other)} contains a control character")
    return CancelRequest(external_id=other), (None, other)


def _read_plain(into: GivenOrders, first: Line, lines: Lines) -> None:
    """Take requests from a list of ids, one per line."""
    parse = plain_id if into.literal else _listed_id
    # A first line without a digit, above lines with digits, is a header: no order of the venue has such an id.
    held = None if into.literal or any(map(str.isdigit, first.text)) else first
    for line in _filled(into, lines if held is not None else chain([first], lines)):
        if held is not None:
            if line.flaw is None and any(map(str.isdigit, line.text)):
                into.refuse(
                    f"line {held.number}",
                    f"{shown(held.text.strip())} looks like a header, not like an order id; a header that names "
                    "a column id or external_id can be read",
                )
            else:
                _take_line(into, held, parse)
            held = None
        if line.quoted and (line.cut or line.text.count('"') % 2):
            # A field may be open here, and an order that is only mentioned in it must not be canceled.
            into.refuse_rest(line, lines, _table.NOT_CLOSED)
            return
        _take_line(into, line, parse)
    if held is not None:
        _take_line(into, held, parse)


def _take_line(into: GivenOrders, line: Line, parse: Parse) -> None:
    if line.flaw is not None:
        into.refuse(f"line {line.number}", line.flaw)
    else:
        into.take(f"line {line.number}", parse, line.text)


def _listed_id(text: str) -> tuple[CancelRequest, Given]:
    """Return the request for a line of a list of ids."""
    order_id = _table.id_of(text)
    if order_id is None:
        raise BadLine(f"{shown(text.strip())} stands for a missing value")
    if _table.is_known_name(order_id):
        raise BadLine(f"{shown(order_id)} is the name of a column, not an order id")
    return plain_id(order_id)


def _argument(text: str) -> tuple[CancelRequest, Given]:
    """Return the request for an argument of the command line."""
    if any(map(str.isspace, text)):
        raise BadLine(f"{shown(text)} contains a blank, which no order id does; give each id as a separate argument")
    return plain_id(text)


def plain_id(text: str) -> tuple[CancelRequest, Given]:
    """Return the request for an order id that stands alone."""
    text = text.strip()
    if any(character.isspace() or character in _NOT_IN_ID for character in text):
        raise BadLine(
            f"{shown(text)} is not one order id; for CSV start with a header that names id or external_id, "
            "for JSON write one object per line"
        )
    if not text.isprintable():
        raise BadLine(f"{shown(text)} contains a control character")
    return CancelRequest(text), (text, None)


def json_object(text: str) -> tuple[CancelRequest, Given]:
    """Return the request for a JSON object with ``id`` and/or ``external_id``."""
    try:
        value = json.loads(text, object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        raise BadLine(f"it is not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise BadLine("it is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise BadLine(f"it is not a JSON object but {shown(text.strip())}")
    for field in FIELDS:
        found = value.get(field)
        if found is not None:
            if isinstance(found, int | float) and not isinstance(found, bool):
                written = short(json.dumps(found), 40)
                raise BadLine(f'{field} is the number {written}, but ids are text: write "{field}": "{written}"')
            if not isinstance(found, str):
                raise BadLine(f"{field} must be text in quotation marks, not {clean(short(json.dumps(found), 60))}")
            other = value.get("external_id")
            return CancelRequest(**{field: found}), (value.get("id"), other if isinstance(other, str) else None)
    raise BadLine("it has neither id nor external_id")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for field in FIELDS:
        if names.count(field) > 1:
            raise BadLine(f"it has {field} twice")
    return dict(pairs)
