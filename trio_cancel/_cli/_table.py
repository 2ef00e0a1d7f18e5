"""Tables as spreadsheets and databases write them: which column names an order, and which rows do.

A quoted field may span several lines. If the input cannot be split into whole rows with certainty (a quotation mark is
not closed, text follows a closing one), reading stops: what follows may be the inside of a field, and an order that is
only mentioned there must not be canceled.
"""

from __future__ import annotations

import re

import attrs

from trio_cancel._cli._failure import CommandError, clean, counted, short
from trio_cancel._cli._lines import LINE_MOST, Line, Lines

SEPARATORS = ",;\t|"
IDS = frozenset({"id", "orderid"})
"""Names of a column with the venue's ids, in lower case and without blanks, underscores and hyphens."""
EXTERNAL_IDS = frozenset(
    {"externalid", "externalorderid", "clientorderid", "origclientorderid", "clientoid", "clordid", "origclordid"}
)
"""Names of a column with external ids, written in the same way."""
MISSING = frozenset(
    {"", "null", r"\n", "nan", "none", "na", "n/a", "#n/a", "nil", "<na>", "<null>", "(null)", "[null]"}
)
"""Texts that stand for a missing value in a column of ids, in lower case."""

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?$', re.IGNORECASE)
_SCIENTIFIC = re.compile(r"[+-]?\d+([.,]\d+)?[eE]\+\d+$")
_EXCEL_TEXT = re.compile(r'="([^"]*)"$')
_NAMES_SHOWN = 8
NOT_CLOSED = "a quotation mark is opened and not closed"


class Unreadable(Exception):
    """From here on the input cannot be split into rows; the text says why, as a clause."""


class BadLine(Exception):
    """A line, or a row of a table, names no order; the text says why, as a clause."""


def shown(text: str) -> str:
    """Return text of the input in the form that messages show."""
    return f'"{short(clean(text), 60)}"'


def plain_name(name: str) -> str:
    """Return a column's name in the form of those in ``IDS`` and ``EXTERNAL_IDS``."""
    return re.sub(r"[\s_-]", "", name.strip("\ufeff \t\"'")).lower()


def is_known_name(text: str) -> bool:
    """Return True if a text is the name of a column that names orders."""
    return plain_name(text) in IDS or plain_name(text) in EXTERNAL_IDS


def separator_line(text: str) -> str | None:
    """Return the separator that a spreadsheet's first line (``sep=;``) names, None if it is another line."""
    found = _SEPARATOR_LINE.match(text.strip(" "))
    return found[1] if found else None


class RowReader:
    """One row, line by line: the cells that are complete, and the one that is open."""

    def __init__(self, separator: str) -> None:
        self.cells: list[str] = []
        self._separator = separator
        blanks = "".join(blank for blank in " \t\xa0" if blank != separator)
        self._opening = re.compile(rf'[{blanks}]*"')
        self._blanks = re.compile(rf"[{blanks}]*")
        self._open: list[str] | None = None
        self._size = 0

    def take(self, text: str) -> bool:
        """Take the next line of the row; return True if the row is complete."""
        at = 0
        self._size += len(text) + 1
        if self._open is not None:
            self._open.append("\n")
            if self._size > LINE_MOST:
                raise Unreadable(NOT_CLOSED)
            at = self._close(text, 0)
        while at >= 0:
            opening = self._opening.match(text, at)
            if opening is not None:
                self._open = []
                at = self._close(text, opening.end())
                continue
            end = text.find(self._separator, at)
            cell = text[at:] if end < 0 else text[at:end]
            if cell.count('"') % 2:
                raise Unreadable("there is a quotation mark inside a field that is not quoted")
            self.cells.append(cell)
            at = end + 1 if end >= 0 else -1
        return self._open is None

    def _close(self, text: str, at: int) -> int:
        """Continue reading the open field; return where the next one begins, or -1 if the line ends before."""
        assert self._open is not None
        begin = at
        while True:
            quote = text.find('"', at)
            if quote < 0:
                self._open.append(text[begin:])
                return -1
            if quote > 0 and text[quote - 1] == "\\":
                raise Unreadable("there is a backslash before a quotation mark, which can be read in two ways")
            if text[quote + 1 : quote + 2] != '"':
                break
            at = quote + 2
        self._open.append(text[begin:quote])
        self.cells.append("".join(self._open).replace('""', '"'))
        self._open = None
        blanks = self._blanks.match(text, quote + 1)
        assert blanks is not None
        end = blanks.end()
        if end == len(text):
            return -1
        if text[end] != self._separator:
            raise Unreadable("text follows a closing quotation mark")
        return end + 1


def read_row(first: Line, lines: Lines, separator: str) -> list[str]:
    """Read the row that begins with ``first``; return its cells."""
    if first.cut:
        if first.quoted:
            raise Unreadable(f"{first.flaw}, and where its quoted fields end is not known")
        raise BadLine(str(first.flaw))
    flaw = first.flaw
    if first.quoted:
        row, line = RowReader(separator), first
        while not row.take(line.text):
            following = next(lines, None)
            if following is None or following.cut:
                raise Unreadable(NOT_CLOSED)
            line = following
            flaw = flaw or line.flaw
        cells = row.cells
    else:
        cells = first.text.split(separator)
    if flaw is not None:
        raise BadLine(flaw)
    return cells


@attrs.frozen
class Header:
    """The columns of a table.

    Attributes:
        separator: the character between two cells.
        names: of the columns, as :func:`plain_name` writes them.
        id, external_id: the columns with these ids, if there are any.
    """

    separator: str
    names: list[str]
    id: int | None
    external_id: int | None

    def is_repeated(self, cells: list[str]) -> bool:
        """Return True if a row is this header again."""
        return len(cells) == len(self.names) and [plain_name(cell) for cell in cells] == self.names

    def is_another(self, cells: list[str]) -> bool:
        """Return True if a row is the header of another table."""
        if self.id is not None and self.id < len(cells) and is_known_name(cells[self.id]):
            return True
        names = [plain_name(cell) for cell in cells]
        return any(map(is_known_name, cells)) and sorted(names) == sorted(self.names)

    def cells_of(self, cells: list[str]) -> tuple[str | None, str | None]:
        """Return a row's cells with the venue's id and with the external id; None if there is no such column."""
        if len(cells) != len(self.names):
            raise BadLine(f"it has {counted(len(cells), 'column')}, the header has {len(self.names)}")
        return (
            None if self.id is None else cells[self.id],
            None if self.external_id is None else cells[self.external_id],
        )

    @property
    def missing(self) -> str:
        """What a row without an order lacks."""
        return " and no ".join(name for name in ("id", "external_id") if getattr(self, name) is not None)


def read_header(number: int, cells: list[str], separator: str, *, literal: bool) -> Header | None:
    """Return a header if the row at line ``number`` names a column of ids; ``literal`` takes no other name for it."""
    names = [plain_name(cell) for cell in cells]
    found: list[int | None] = []
    for label, known in (("id", IDS), ("external_id", EXTERNAL_IDS)):
        if literal:
            columns = [index for index, cell in enumerate(cells) if cell.strip().lower() == label]
        else:
            columns = [index for index, name in enumerate(names) if name in known]
        if len(columns) > 1:
            first, second = (cells[column].strip() for column in columns[:2])
            if plain_name(first) == plain_name(second):
                raise CommandError(f"Line {number}: the header names {clean(first)} twice; name each column once.")
            raise CommandError(
                f"Line {number}: the header names both {clean(first)} and {clean(second)}, and either may be the "
                f"{label} of the orders; leave one of these columns out."
            )
        found.append(columns[0] if columns else None)
    if found == [None, None]:
        return None
    return Header(separator, names, *found)


def refuse_header(number: int, cells: list[str]) -> CommandError:
    """Return the error for a table whose first row names no column of ids."""
    names = ", ".join(shown(cell.strip()) for cell in cells[:_NAMES_SHOWN])
    more = f" and {len(cells) - _NAMES_SHOWN} more" if len(cells) > _NAMES_SHOWN else ""
    return CommandError(
        f"Line {number} is the first of a table and names no column id or external_id (it has {names}{more}); "
        "start with a header that does, or give one order id per line."
    )


def id_of(cell: str) -> str | None:
    """Return the id in a cell of a column of ids, None for a missing value."""
    text = cell.strip()
    excel = _EXCEL_TEXT.match(text)
    if excel is not None:
        text = excel[1].strip()
    elif text.startswith("'") and "'" not in text[1:]:
        text = text[1:].strip()  # as a spreadsheet marks text
    if text.lower() in MISSING:
        return None
    if _SCIENTIFIC.match(text):
        raise BadLine(
            f"{shown(text)} is a number in scientific notation: a spreadsheet made it from an id and lost digits; "
            "export the column as text"
        )
    return text


def lines_of(first: int, last: int) -> str:
    """Return the name of a range of lines."""
    return f"lines {first} to {last}" if last > first else f"line {first}"
