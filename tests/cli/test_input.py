"""What the command line takes from arguments, files and stdin, and what it names as bad."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_cancel import CancelRequest
from trio_cancel._cli import _lines
from trio_cancel._cli._failure import CommandError
from trio_cancel._cli._input import GivenOrders, read_arguments, read_file, read_lines

ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
OTHER = "51F94D7D-CF61-4E8B-9B08-42C22B6F3CD1"


def read(data: bytes | str) -> GivenOrders:
    found = GivenOrders()
    read_lines(found, io.BytesIO(data.encode() if isinstance(data, str) else data))
    return found


def by_id(*ids: str) -> list[CancelRequest]:
    return [CancelRequest(order_id) for order_id in ids]


def by_external_id(*ids: str) -> list[CancelRequest]:
    return [CancelRequest(external_id=order_id) for order_id in ids]


@pytest.mark.parametrize(
    "data",
    [
        f"{ID}\n{OTHER}\n",
        f"{ID}\r\n{OTHER}",
        f"\n  {ID}  \n\n\t\n{OTHER}\n\n",
        f"\ufeff{ID}\n{OTHER}\n",
        f"id\n{ID}\n{OTHER}\n",
        f"ID\n{ID}\n{OTHER}\n",
        f"pair,id,price\nBTC_BRL,{ID},1\nBTC_BRL,{OTHER},2\n",
        f'"pair";"id"\n"BTC;BRL";"{ID}"\n"";{OTHER}\n',
        f"id\texternal_id\n{ID}\tmine\n{OTHER}\t\n",
        f"external_id,id\nmine,{ID}\n,{OTHER}\n",
        f'\ufeff{{"id": "{ID}"}}\n{{"external_id": "mine", "id": "{OTHER}"}}\n',
        f'{{"id": "{ID}", "external_id": null, "price": 1.5}}\n\n  {{"id": "{OTHER}"}}',
    ],
)
def test_each_format_names_the_same_two_orders(data: str) -> None:
    found = read(data)
    assert not found.bad
    assert list(found.requests) == by_id(ID, OTHER)
    assert sum(found.requests.values()) == 2


@pytest.mark.parametrize(
    "data",
    [
        "external_id\nmine 1\nÁrvore/2\n",
        "id,external_id\n,mine 1\n,Árvore/2\n",
        '{"external_id": "mine 1"}\n{"id": null, "external_id": "\\u00c1rvore/2"}\n',
    ],
)
def test_external_ids_come_as_they_are(data: str) -> None:
    found = read(data)
    assert not found.bad
    assert list(found.requests) == by_external_id("mine 1", "Árvore/2")


def test_json_keeps_spaces_that_are_meant() -> None:
    assert list(read('{"external_id": " x "}\n').requests) == by_external_id(" x ")


def test_an_order_that_stands_there_twice_is_asked_for_once_and_counted_twice() -> None:
    found = read(f"{ID}\n{OTHER}\n{ID}\n")
    assert found.requests == {CancelRequest(ID): 2, CancelRequest(OTHER): 1}
    assert sum(found.requests.values()) == 3


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{ID},{OTHER}", "is not one order id"),
        (f"{ID} {OTHER}", "is not one order id"),
        (f'"{ID}"', "is not one order id"),
        (f'{{"id": "{ID}"}}', "is not one order id"),
        ("abc\x00def", "control character"),
        ("abc\x1b[31m", "is not one order id"),
        (b"\xff\xfe7", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_a_bad_plain_line_is_named_with_its_number(line: str | bytes, why: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    found = read(ID.encode() + b"\n\n" + raw + b"\n" + OTHER.encode() + b"\n")
    assert [where for where, _ in found.bad] == ["line 3"]
    assert why in found.bad[0][1]
    assert found.bad[0][1].isprintable()
    assert list(found.requests) == by_id(ID, OTHER)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x", "it has 1 column, the header has 3"),
        ("x,y,z,z", "it has 4 columns, the header has 3"),
        (",,", "no id and no external_id"),
        (" ,  ,", "no id and no external_id"),
        ("a b,,", "is not one order id"),
        (",mi\x07ne,", "control character"),
    ],
)
def test_a_bad_csv_row_is_named_and_swallows_no_other(line: str, why: str) -> None:
    found = read(f"id,external_id,note\n{ID},,\n{line}\n{OTHER},mine,\n")
    assert [where for where, _ in found.bad] == ["line 3"]
    assert why in found.bad[0][1]
    assert list(found.requests) == by_id(ID, OTHER)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is not JSON: "),
        (f'{{"id": "{ID}"}} x', "it is not JSON: Extra data"),
        (f'["{ID}"]', "not a JSON object"),
        (f'"{ID}"', "not a JSON object"),
        ("null", "not a JSON object"),
        (ID, "it is not JSON"),
        ("{}", "neither id nor external_id"),
        ('{"id": null}', "neither id nor external_id"),
        ('{"ID": "x"}', "neither id nor external_id"),
        ('{"id": 12345}', 'id is the number 12345, but ids are text: write "id": "12345"'),
        ('{"id": ["x"], "external_id": "y"}', 'id must be text in quotation marks, not ["x"]'),
        ('{"external_id": true}', "external_id must be text in quotation marks, not true"),
        ('{"id": ""}', "id must not be empty"),
        ('{"id": "\\ud800"}', "UTF-8 cannot encode"),
        ('{"id": "x", "id": "y"}', "it has id twice"),
        ('{"external_id": "x", "external_id": "x"}', "it has external_id twice"),
        ("[" * 60_000, "not JSON"),  # how deep an interpreter reads is its own affair
        ('{"a": ' + "9" * 5000 + "}", "not JSON that can be read"),
    ],
)
def test_a_bad_json_line_is_named(line: str, why: str) -> None:
    found = read(f'{{"id": "{ID}"}}\n\n{line}\n{{"id": "{OTHER}", "x": 1, "x": 2}}\n')
    assert [where for where, _ in found.bad] == ["line 3"]
    assert why in found.bad[0][1]
    assert len(found.bad[0][1]) < 200
    assert list(found.requests) == by_id(ID, OTHER)


def test_every_bad_line_is_named() -> None:
    found = read("a b\n" * 2000)
    assert [where for where, _ in found.bad] == [f"line {n}" for n in range(1, 2001)]


def test_a_first_line_that_is_no_text_does_not_hide_the_format() -> None:
    found = read(b"\xff\n" + f"id,pair\n{ID},x\n".encode())
    assert [where for where, _ in found.bad] == ["line 1"]
    assert list(found.requests) == by_id(ID)


@pytest.mark.parametrize("header", ["id,id", "external_id;x;external_id", 'ID,"id"'])
def test_a_header_with_a_column_twice_is_refused(header: str) -> None:
    with pytest.raises(CommandError, match=r"Line 2: the header names \w+ twice"):
        read(f"\n{header}\nx,y\n")


def test_a_long_line_costs_no_other() -> None:
    found = read("x" * 300_000 + f"\n{ID}\n" + "y" * 65_537)
    assert [where for where, _ in found.bad] == ["line 1", "line 3"]
    assert list(found.requests) == by_id(ID)


def test_an_input_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "LINES_MOST", 10)
    assert sum(read("x\n" * 10).requests.values()) == 10
    with pytest.raises(CommandError, match="more than 10 lines"):
        read("x\n" * 11)


def test_arguments_are_checked_like_lines() -> None:
    found = GivenOrders()
    read_arguments(found, [ID, "", "a,b", OTHER, ID], ["mine 1", "", "\ud800", "mine 1"])
    assert [where for where, _ in found.bad] == ["ID 2", "ID 3", "--external-id 2", "--external-id 3"]
    assert found.requests == {
        CancelRequest(ID): 2,
        CancelRequest(OTHER): 1,
        CancelRequest(external_id="mine 1"): 2,
    }


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(f"{ID}\n")
    found = GivenOrders()
    read_file(found, str(path))
    assert list(found.requests) == by_id(ID)


@pytest.mark.parametrize("name", ["no-such-file", ".", "nul\0byte"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="cannot be read: ") as caught:
        read_file(GivenOrders(), name)
    assert str(caught.value).isprintable()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_stdin_is_a_file_and_a_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(ID.encode())))
    found = GivenOrders()
    read_file(found, "-")
    assert list(found.requests) == by_id(ID)
    assert "Ctrl-D" in capsys.readouterr().err


def test_a_closed_stdin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CommandError, match="stdin is closed"):
        read_file(GivenOrders(), "-")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_requests_or_named_lines(data: bytes) -> None:
    try:
        found = read(data)
    except CommandError:
        return
    lines = len(data.splitlines())
    assert sum(found.requests.values()) + len(found.bad) <= max(lines, data.count(b"\n") + 1)
    for where, why in found.bad:
        assert where.startswith("line ")
        assert why


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip() == text and text.isprintable()), max_size=20))
@example(['"\\'])
def test_external_ids_survive_csv_and_json(names: list[str]) -> None:
    import csv
    import json

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["external_id", "note"])
    writer.writerows([name, "x"] for name in names)
    lines = "".join(json.dumps({"external_id": name}) + "\n" for name in names)
    for data in (table.getvalue(), lines):
        found = read(data)
        if data is not lines and '\\"' in data:  # which can be read in two ways
            assert found.bad
            continue
        assert not found.bad
        assert list(found.requests) == by_external_id(*dict.fromkeys(names))
        assert sum(found.requests.values()) == len(names)


# Fields over several lines, and what cannot be read as whole rows

THIRD = "0B6F3C2D-1E43-4B9B-8C42-22B6F3CD1A9E"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "rows",
    [
        [f'{ID},"do not touch', f"{OTHER},", 'please"', f"{THIRD},x"],
        [f'{ID},"do not touch', f"{OTHER}", "", f'{OTHER},x"', f"{THIRD},x"],
        [f'{ID}, "do not touch', f"{OTHER},", 'please" ', f"{THIRD},x"],
        [f'{ID},"say ""no""', f'{OTHER},""', '"",please"', f"{THIRD},x"],
        [f'"{ID}","a', "# no comment", f"{OTHER},id", 'id,note"', f"{THIRD},x"],
        [f'{ID},say "hi" now', f"{THIRD},x"],
    ],
)
def test_a_quoted_field_over_several_lines_is_one_field(rows: list[str], end: str) -> None:
    found = read(end.join(["id,note", *rows, ""]))
    assert not found.bad
    assert not found.skipped
    assert list(found.requests) == by_id(ID, THIRD)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([f'{OTHER},"do not touch', f"{THIRD},"], "a quotation mark is opened and not closed"),
        ([f'"{OTHER},x', f"{THIRD},"], "a quotation mark is opened and not closed"),
        ([f'{OTHER}, "do not touch', f"{THIRD},"], "a quotation mark is opened and not closed"),
        ([f'{OTHER},"do "not" touch', f'{THIRD},"'], "text follows a closing quotation mark"),
        ([f'{OTHER},"x"y', f"{THIRD},"], "text follows a closing quotation mark"),
        ([f'{OTHER},5" pipe', f"{THIRD},"], "inside a field that is not quoted"),
        ([f'{OTHER},see "this, that', f'{THIRD},"'], "inside a field that is not quoted"),
        ([f'{OTHER},"a \\"', f'{THIRD},\\"b"'], "there is a backslash before a quotation mark"),
        ([f'{OTHER},"' + "x" * 70_000, f'{THIRD},"'], "longer than"),
        ([f'{OTHER},"x', "y" * 70_000, f'",{THIRD}', THIRD], "a quotation mark is opened and not closed"),
        ([f'{OTHER},"x'] + [f'""{THIRD}'] * 3000 + ['"'], "a quotation mark is opened and not closed"),
        (["note,id", f"{OTHER},{THIRD}"], "the header of another table stands here"),
    ],
)
def test_what_cannot_be_read_as_rows_is_bad_from_there_on(rows: list[str], why: str) -> None:
    found = read("".join(f"{row}\n" for row in ["id,note", f"{ID},x", *rows, "", ""]))
    assert list(found.requests) == by_id(ID)
    [(where, said)] = found.bad
    assert where == f"lines 3 to {len(rows) + 2}"
    assert why in said
    assert said.endswith("so that nothing can be read from here on")
    assert found.bad_lines == len(rows)


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize(
    "lines",
    [
        ['o1,"see', "o2", '"', "o3"],
        ['"o1', "o2", 'o3"', "o4"],
        ['o1 "', "o2"],
        ['"' + "x" * 70_000, "o2", '"', "o3"],
    ],
)
def test_what_may_be_the_inside_of_a_field_is_no_list(lines: list[str], *, literal: bool) -> None:
    found = GivenOrders(literal)
    read_lines(found, io.BytesIO("\n".join(["o0", *lines, ""]).encode()))
    assert [request.key for request in found.requests] == ["o0"]
    ((where, why),) = found.bad
    assert (where, found.bad_lines) == (f"lines 2 to {len(lines) + 1}", len(lines))
    assert "a quotation mark is opened and not closed" in why


def test_a_long_row_without_quotes_costs_no_other() -> None:
    found = read(f"id,note\n{ID},{'x' * 70_000}\n{OTHER},x\n")
    assert [where for where, _ in found.bad] == ["line 2"]
    assert list(found.requests) == by_id(OTHER)


def test_a_header_may_go_over_lines() -> None:
    found = read(f'"Order\nID";"a;\nb"\n{ID};x\n')
    assert list(found.requests) == by_id(ID)
    with pytest.raises(CommandError, match=r"Line 1 is the first of a table and names no column id"):
        read(f'"a\nb"\n{ID}\n')
    with pytest.raises(CommandError, match="a quotation mark is opened and not closed in it"):
        read(f'"id\n{ID}\n')


# Encodings and line ends

TABLE = f"pair;Order ID;note\r\nBTC;{ID};Árvore, não\r\nETH;{OTHER};\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [TABLE, f"sep=;\n{TABLE}", f"{ID}\n{OTHER}\n"])
def test_what_spreadsheets_write_is_read(text: str, end: str, encoding: str) -> None:
    text = text.replace("\r\n", "\n").replace("\n", end)
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    found = read((mark + text).encode(encoding))
    assert not found.bad
    assert not found.skipped
    assert list(found.requests) == by_id(ID, OTHER)


class Slow(io.RawIOBase):
    """A pipe that gives a byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for byte in self._data:
            buffer[0] = byte
            return 1
        return 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_input_may_come_byte_by_byte(encoding: str) -> None:
    found = GivenOrders()
    read_lines(found, io.BufferedReader(Slow(TABLE.encode(encoding))))
    assert not found.bad
    assert list(found.requests) == by_id(ID, OTHER)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding: str) -> None:
    with pytest.raises(CommandError, match="UTF-16 without a byte order mark; save it as UTF-8"):
        read(TABLE.encode(encoding))


def test_half_a_character_at_the_end_is_named() -> None:
    found = read(f"{ID}\n{OTHER}".encode("utf-16")[:-1])
    assert found.bad == [("line 2", "it is not UTF-16")]
    assert list(found.requests) == by_id(ID)


def test_a_row_that_is_not_utf_8_costs_no_other() -> None:
    found = read(f"id,note\n{ID},ação\n{OTHER},x\n".encode("latin-1"))
    assert found.bad == [("line 2", "it is not UTF-8")]
    assert list(found.requests) == by_id(OTHER)
    with pytest.raises(CommandError, match=r"Line 1 should be a table's header, but it is not UTF-8; save the file as"):
        read(f"preço;id\n1;{ID}\n".encode("latin-1"))


# Headers


@pytest.mark.parametrize(
    "name", ["id", "ID", "order_id", "orderId", "Order ID", "ORDER-ID", '"order_id"', " Order Id "]
)
@pytest.mark.parametrize(
    "shape", ["{}\n{}\n{}\n", "note;{}\nx;{}\n;{}\n", "{}\tnote\n{}\tx\n{}\t\n", "{}|x\n{}|\n{}|y\n"]
)
def test_well_known_names_of_a_column_with_ids(name: str, shape: str) -> None:
    found = read(shape.format(name, ID, OTHER))
    assert not found.bad
    assert list(found.requests) == by_id(ID, OTHER)


@pytest.mark.parametrize(
    "name",
    [
        "external_id",
        "External ID",
        "externalId",
        "clientOrderId",
        "client_order_id",
        "clOrdID",
        "ClOrdId",
        "origClOrdID",
    ],
)
def test_well_known_names_of_a_column_with_external_ids(name: str) -> None:
    for data in (f"{name}\nmine 1\nx\n", f"pair,{name}\nBTC,mine 1\n,x\n"):
        found = read(data)
        assert not found.bad
        assert list(found.requests) == by_external_id("mine 1", "x")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_without_a_column_of_ids_names_those_that_it_has(separator: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(separator.join(["Ticket No", "pair", "x"]) + f"\n1{separator}BTC{separator}2\n")
    assert str(caught.value) == (
        'Line 1 is the first of a table and names no column id or external_id (it has "Ticket No", "pair", "x"); '
        "start with a header that does, or give one order id per line."
    )


@pytest.mark.parametrize(
    ("header", "names"),
    [("id,order_id", "id and order_id"), ("clOrdID;origClOrdID", "clOrdID and origClOrdID")],
)
def test_a_header_that_can_be_read_in_two_ways_is_refused(header: str, names: str) -> None:
    with pytest.raises(CommandError, match=f"the header names both {names}, and either may be"):
        read(f"{header}\nx,y\n")


def test_a_first_line_that_is_a_header_is_no_order() -> None:
    for name in ("identifier", "Número da ordem", "uuid"):
        found = read(f"{name}\n{ID}\n")
        [(where, why)] = found.bad
        assert where == "line 1"
        assert "looks like a header" in why
        assert list(found.requests) == by_id(ID)
    assert list(read(f"identifier\n{ID}\n").requests) == by_id(ID)
    assert list(read("first\nsecond\n").requests) == by_id("first", "second")
    assert list(read("alone\n").requests) == by_id("alone")


def test_a_header_in_a_list_is_no_order() -> None:
    found = read(f"{ID}\norder_id\n{OTHER}\n")
    assert found.bad == [("line 2", '"order_id" is the name of a column, not an order id')]
    assert list(found.requests) == by_id(ID, OTHER)


def test_a_header_alone_is_nothing() -> None:
    for data in ("id", "order_id\n", "sep=;\nid;x\n"):
        found = read(data)
        assert not found.requests
        assert not found.bad
    with pytest.raises(CommandError, match="is the first of a table"):
        read("sep=;\nx\n")


def test_a_repeated_header_is_skipped_and_told() -> None:
    found = read(f"id,note\n{ID},x\n\ufeffID,Note\n{OTHER},x\n")
    assert found.skipped == [("line 3", "the header again")]
    assert not found.bad
    assert list(found.requests) == by_id(ID, OTHER)


def test_a_json_array_is_named() -> None:
    with pytest.raises(CommandError, match="Line 1 begins a JSON array; write one JSON object per line"):
        read(f'[{{"id": "{ID}"}}]')


# Missing values, comments, what spreadsheets do to numbers


@pytest.mark.parametrize("value", ["NULL", "null", r"\N", "nan", "NaN", "None", "", " ", '""', '" "', "N/A", "(null)"])
def test_missing_ids(value: str) -> None:
    found = read(f"id,external_id\n{value},\n{value},mine\n{OTHER},x\n")
    assert found.bad == [("line 2", "it has no id and no external_id")]
    assert list(found.requests) == [*by_external_id("mine"), *by_id(OTHER)]
    if value.strip('" '):
        found = read(f"{ID}\n{value}\n{OTHER}\n")
        assert found.bad == [("line 2", f'"{value}" stands for a missing value')]
        assert list(found.requests) == by_id(ID, OTHER)


@pytest.mark.parametrize("value", ["1.70001E+12", "1,70001E+12", "1E+12", "1.7e+12", "-1.7E+09", '"1.70001E+12"'])
def test_ids_in_scientific_notation_are_refused(value: str) -> None:
    quoted = value if "," not in value else f'"{value}"'
    found = read(f"id,external_id\n{quoted},mine\n{OTHER},\n")
    [(where, why)] = found.bad
    assert where == "line 2"
    assert "scientific notation" in why
    assert list(found.requests) == by_id(OTHER)


@pytest.mark.parametrize("value", ["12E4", "1E400", "1.5", "7E2A11", "E+12"])
def test_ids_that_only_resemble_it_are_taken(value: str) -> None:
    assert list(read(f"id\n{value}\n").requests) == by_id(value)


def test_comments_are_skipped_and_told() -> None:
    for data in (
        f"# exported\n{ID}\n  # don't \"touch\n#{THIRD}\n{OTHER}\n",
        f"# exported\nid,note\n{ID},x\n# don't \"touch\n#{THIRD},x\n{OTHER},x\n",
    ):
        found = read(data)
        assert not found.bad
        assert [why for _, why in found.skipped] == ["a comment"] * 3
        assert found.skipped[0] == ("line 1", "a comment")
        assert list(found.requests) == by_id(ID, OTHER)


LEGAL = ["#42", "None", "12E4", "NULL", "nan", r"\N", "1.7E+12", "'x'", '="x"', "N/A", "# x", "sep=;"]


def test_nearly_everything_is_a_legal_external_id() -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in LEGAL]
    for data in (
        "external_id\n" + "\n".join(quoted),
        "external_id,note\n" + "\n".join(f"{name},x" for name in quoted),
        "external_id,note\n" + "\n".join(f"{name},x" for name in LEGAL if '"' not in name) + '\n"=""x""",x',
        "id,external_id\n" + "\n".join(f",{name}" for name in quoted),
    ):
        found = read(data)
        assert not found.bad
        assert not found.skipped
        assert set(found.requests) == set(by_external_id(*LEGAL))
    assert read("note,external_id\nx,\n").bad == [("line 2", "it has no external_id")]


def test_white_space_around_an_external_id_is_told_and_sent() -> None:
    found = read('external_id,note\n mine,x\n"mine ",x\n  ,x\n')
    assert list(found.requests) == by_external_id(" mine", "mine ")
    assert found.notes == [
        ("line 2", 'the external id " mine" has white space at its ends; it is sent as it is'),
        ("line 3", 'the external id "mine " has white space at its ends; it is sent as it is'),
    ]
    assert found.bad == [("line 4", "it has no external_id")]


def test_what_spreadsheets_do_to_keep_text_is_undone() -> None:
    found = read(f'id,x\n"=""{ID}""",1\n\'{OTHER},2\n\xa0{THIRD} \t,3\n')
    assert list(found.requests) == by_id(ID, OTHER, THIRD)
    assert list(read(f'="{ID}"\n\'{OTHER}\n').requests) == by_id(ID, OTHER)


def test_literal_switches_all_of_it_off() -> None:
    def literally(data: str) -> GivenOrders:
        found = GivenOrders(literal=True)
        read_lines(found, io.BytesIO(data.encode()))
        assert not found.skipped
        return found

    words = ["order_id", "#42", "NULL", "1.70001E+12", "None", r"\N", "12E4", "order_id"]
    found = literally("\n".join(words))
    assert not found.bad
    assert list(found.requests) == by_id(*dict.fromkeys(words))
    found = literally("id,external_id\n" + "".join(f"{word},\n" for word in words) + "id,external_id\n, x\n")
    assert not found.bad
    assert list(found.requests) == [*by_id(*dict.fromkeys(words), "id"), *by_external_id(" x")]
    with pytest.raises(CommandError, match="names no column id or external_id"):
        literally(f"order_id,note\n{ID},x\n")


@given(st.text("a1\n\r,;\"\\# =|\t'é", max_size=60))
def test_no_order_comes_out_of_the_inside_of_a_field(note: str) -> None:
    import csv

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerows([["id", "note"], [ID, f"{note}\n{OTHER},\n{note}"], [THIRD, ""]])
    found = read(table.getvalue())
    assert OTHER not in {request.id for request in found.requests}
    assert CancelRequest(ID) in found.requests or found.bad
    assert found.bad or list(found.requests) == by_id(ID, THIRD)
    cut = read(table.getvalue().partition(f"{THIRD}")[0].rstrip('\r\n,"'))  # its quote is never closed
    assert OTHER not in {request.id for request in cut.requests}
    assert cut.bad


def test_a_large_table_is_read_as_it_comes() -> None:
    rows = 20_000

    class Big(io.RawIOBase):
        left = rows
        header = b"id,note\n"

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data, Big.header = Big.header, b""
            if not data and Big.left:
                Big.left -= 1
                data = f'{ID},"a\nb"\n'.encode()
            buffer[: len(data)] = data
            return len(data)

    found = GivenOrders()
    read_lines(found, io.BufferedReader(Big()))
    assert found.requests == {CancelRequest(ID): rows}
