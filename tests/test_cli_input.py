"""What the command line takes from arguments, files and stdin, and what it names as bad."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel import CancelRequest
from trio_cancel._cli import _input
from trio_cancel._cli._failure import CommandError
from trio_cancel._cli._input import Input, read_arguments, read_file, read_lines

ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
OTHER = "51F94D7D-CF61-4E8B-9B08-42C22B6F3CD1"


def read(data: bytes | str) -> Input:
    found = Input()
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
    assert found.total == 2


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
    assert found.total == 3


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
        ('"x,y,z', "it is no CSV"),
        ('"x"y,,', "it is no CSV"),
        ("a b,,", "is not one order id"),
        (", mine,", "begins or ends with a space"),
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
        ("{", "it is no JSON: "),
        (f'{{"id": "{ID}"}} x', "it is no JSON: Extra data"),
        (f'["{ID}"]', "no JSON object"),
        (f'"{ID}"', "no JSON object"),
        ("null", "no JSON object"),
        (ID, "it is no JSON"),
        ("{}", "neither id nor external_id"),
        ('{"id": null}', "neither id nor external_id"),
        ('{"ID": "x"}', "neither id nor external_id"),
        ('{"id": 7}', "id must be a string, not"),
        ('{"id": ["x"], "external_id": "y"}', "id must be a string, not"),
        ('{"external_id": true}', "external_id must be a string, not"),
        ('{"id": ""}', "id must not be empty"),
        ('{"id": "\\ud800"}', "UTF-8 cannot encode"),
        ('{"id": "x", "id": "y"}', "it has id twice"),
        ('{"external_id": "x", "external_id": "x"}', "it has external_id twice"),
        ("[" * 60_000, "no JSON that can be read"),
        ('{"a": ' + "9" * 5000 + "}", "no JSON that can be read"),
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
    monkeypatch.setattr(_input, "LINES_MOST", 10)
    assert read("x\n" * 10).total == 10
    with pytest.raises(CommandError, match="more than 10 lines"):
        read("x\n" * 11)


def test_arguments_are_checked_like_lines() -> None:
    found = Input()
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
    found = Input()
    read_file(found, str(path))
    assert list(found.requests) == by_id(ID)


@pytest.mark.parametrize("name", ["no-such-file", ".", "nul\0byte", ""])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="cannot be read: ") as caught:
        read_file(Input(), name)
    assert str(caught.value).isprintable()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_stdin_is_a_file_and_a_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(ID.encode())))
    found = Input()
    read_file(found, "-")
    assert list(found.requests) == by_id(ID)
    assert "Ctrl-D" in capsys.readouterr().err


def test_a_closed_stdin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CommandError, match="stdin is closed"):
        read_file(Input(), "-")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_requests_or_named_lines(data: bytes) -> None:
    try:
        found = read(data)
    except CommandError:
        return
    lines = len(data.splitlines())
    assert found.total + len(found.bad) <= max(lines, data.count(b"\n") + 1)
    for where, why in found.bad:
        assert where.startswith("line ")
        assert why


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip() == text and text.isprintable()), max_size=20))
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
        assert not found.bad
        assert list(found.requests) == by_external_id(*dict.fromkeys(names))
        assert found.total == len(names)
