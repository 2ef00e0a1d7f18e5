"""The values of the contract: what may be built, what is refused, and what is never shown."""

from __future__ import annotations

import copy
import enum
import logging
import os
import pickle
import traceback
from pathlib import Path

import attrs
import pytest

from trio_cancel import CancelRequest, ConfigurationError, Credentials, InvalidRequest
from trio_cancel._values.models import _flaw_of_credential, _is_blank, _shown, canonical_id
from trio_cancel._venue.codec import Signer
from trio_cancel.types import CanceledOrder

SECRET = "s3cr3t-that-nobody-sees"


@pytest.mark.parametrize(
    "text", ["x", "7155ED34-9EC4-4733-8B32-1E4319CB662F", "ordem-ç-€-🚀", "a b", "a\u2028b", "\x00", "a" * 10_000]
)
def test_a_request_takes_any_text(text: str) -> None:
    assert CancelRequest(text).id == CancelRequest(text).key == text
    assert CancelRequest(external_id=text).external_id == CancelRequest(external_id=text).key == text
    assert CancelRequest(text) != CancelRequest(external_id=text)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({}, "both are missing"),
        ({"id": None, "external_id": None}, "both are missing"),
        ({"id": "a", "external_id": "b"}, "not both"),
        ({"id": "a", "external_id": ""}, "not both"),
        ({"id": ""}, "id must not be empty"),
        ({"external_id": ""}, "external_id must not be empty"),
        ({"id": 7}, "id must be a string, not int"),
        ({"id": b"a"}, "id must be a string, not bytes"),
        ({"external_id": ["a"]}, "external_id must be a string, not list"),
        ({"id": True}, "id must be a string, not bool"),
        ({"id": "\ud800"}, "UTF-8"),
        ({"external_id": "a\udfffb"}, "UTF-8"),
        ({"id": "7155ED34\n"}, r"id '7155ED34\\n' ends with a line feed \(newline\); give it without"),
        ({"id": "a\r\n"}, "ends with a line feed"),
        ({"id": "a\r"}, "ends with a carriage return"),
        ({"id": " a"}, "begins with a blank"),
        ({"id": "a\t"}, "ends with a tab"),
        ({"id": "a\xa0"}, r"ends with U\+00A0 \(NO-BREAK SPACE\)"),
        ({"id": "\ufeffa"}, r"begins with U\+FEFF"),
        ({"id": "a\u200b"}, r"ends with U\+200B \(ZERO WIDTH SPACE\)"),
        ({"id": "\u2060a"}, r"begins with U\+2060 \(WORD JOINER\)"),
        ({"id": "a\u2028"}, r"ends with U\+2028"),
        ({"id": " "}, "ends with a blank"),
        ({"id": "a" * 500 + " "}, "a…' ends with a blank"),
    ],
)
def test_anything_else_says_which_rule_it_broke(arguments: dict[str, str], rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule) as caught:
        CancelRequest(**arguments)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(InvalidRequest):
        attrs.evolve(CancelRequest("fine"), **({"id": None} | arguments))


@pytest.mark.parametrize("text", [" ", "x\n", "\tx", "x\xa0"])
def test_white_space_around_an_external_id_is_logged_and_kept(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert CancelRequest(external_id=text).external_id == text
    [record] = caplog.records
    assert record.name == "trio_cancel"
    assert record.levelname == "WARNING"
    assert repr(text) in record.message
    caplog.clear()
    CancelRequest(external_id="no white space around it")
    assert not caplog.records


def test_a_handler_that_raises_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the log is full")

    monkeypatch.setattr(logging.getLogger("trio_cancel"), "handle", fail)
    assert CancelRequest(external_id=" x").external_id == " x"


def test_a_request_or_its_id_is_taken_and_not_mixed() -> None:
    request = CancelRequest(external_id="x")
    assert CancelRequest.of(request, None) is request
    assert CancelRequest.of("a", None) == CancelRequest("a")
    assert CancelRequest.of(None, "b") == CancelRequest(external_id="b")
    with pytest.raises(InvalidRequest, match="already names its order"):
        CancelRequest.of(request, "y")
    with pytest.raises(InvalidRequest, match="missing"):
        CancelRequest.of(None, None)


def test_a_request_is_a_frozen_value() -> None:
    request = CancelRequest("a")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.id = "b"  # type: ignore[misc]  # that is what is tested
    assert hash(request) == hash(CancelRequest("a"))
    assert copy.copy(request) == pickle.loads(pickle.dumps(request)) == request
    assert not hasattr(request, "__dict__")
    assert str(request) == "order a"
    assert str(CancelRequest(external_id="b")) == "order with external id b"


@pytest.mark.parametrize(
    ("token", "secret", "message"),
    [
        ("", SECRET, "a api_token that is not empty|an api_token that is not empty|api_token"),
        ("t", "", "api_secret"),
        (7, SECRET, "string as api_token, not int"),
        ("t", None, "string as api_secret, not NoneType"),
        ("t", SECRET.encode(), "string as api_secret, not bytes"),
        ("t", SECRET + "\ud800", "api_secret contains a character that UTF-8 cannot encode"),
    ],
)
def test_unusable_credentials_are_refused_without_being_shown(token: str, secret: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Credentials(token, secret)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown.replace(repr(SECRET), "")
    assert SECRET not in str(caught.value)


def test_credentials_show_nothing() -> None:
    credentials = Credentials("token-nobody-sees", SECRET)
    for shown in (repr(credentials), str(credentials), f"{credentials}", repr([credentials])):
        assert SECRET not in shown
        assert "token-nobody-sees" not in shown
    assert (credentials.api_token, credentials.api_secret) == ("token-nobody-sees", SECRET)
    assert credentials == Credentials("token-nobody-sees", SECRET)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        credentials.api_secret = "other"  # type: ignore[misc]  # that is what is tested


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "t")
    monkeypatch.setenv("RIPIO_API_SECRET", SECRET)
    assert Credentials.from_env() == Credentials("t", SECRET)


@pytest.mark.parametrize(
    ("present", "named", "other"),
    [
        ({"RIPIO_API_SECRET": SECRET}, "variable RIPIO_API_TOKEN,", "RIPIO_API_SECRET"),
        ({"RIPIO_API_TOKEN": "t", "RIPIO_API_SECRET": ""}, "variable RIPIO_API_SECRET,", "RIPIO_API_TOKEN"),
        ({}, "variables RIPIO_API_TOKEN and RIPIO_API_SECRET,", None),
    ],
)
def test_missing_credentials_are_named(
    monkeypatch: pytest.MonkeyPatch, present: dict[str, str], named: str, other: str | None
) -> None:
    for name in ("RIPIO_API_TOKEN", "RIPIO_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in present.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=named) as caught:
        Credentials.from_env()
    assert other is None or other not in str(caught.value)
    assert SECRET not in str(caught.value)


class Text(str):
    """A string of a class of its own, as other libraries have them."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Name(str, enum.Enum):  # noqa: UP042 - just this kind is what is tested
    """A string that is an enum's member."""

    ORDER = "order-1"


@pytest.mark.parametrize("id", [Text("order-1"), Name.ORDER])
def test_an_id_is_kept_as_a_plain_string(id: str) -> None:
    for request in (CancelRequest(id), CancelRequest.of(id), CancelRequest(external_id=id)):
        assert type(request.key) is str
        assert request.key == "order-1"
        (text,) = Signer(Credentials("token", "secret")).encode([("r-1", request)], 1)
        assert text.endswith(b',"%b":"order-1"}}' % (b"external_id" if request.id is None else b"id"))


def test_credentials_are_kept_as_plain_strings() -> None:
    credentials = Credentials(Text("token"), Text("secret"))
    assert (type(credentials.api_token), type(credentials.api_secret)) == (str, str)
    assert (credentials.api_token, credentials.api_secret) == ("token", "secret")


FLAWS = [
    ("{}\n", "ends with a line feed (newline)"),
    ("{}\r\n", "ends with a carriage return and a line feed"),
    ("{}\r", "ends with a carriage return"),
    ("{} ", "ends with a blank"),
    (" {}\t", "begins with a blank and ends with a tab"),
    ("{}\xa0", "ends with U+00A0 (NO-BREAK SPACE)"),
    ("\ufeff{}", "begins with U+FEFF (ZERO WIDTH NO-BREAK SPACE)"),
    ('"{}"', "is enclosed in quotation marks"),
    ("'{}'", "is enclosed in quotation marks"),
    ("`{}`", "is enclosed in quotation marks"),
    ("“{}”", "is enclosed in quotation marks"),
    ("'{}'\n", "ends with a line feed (newline) and is enclosed in quotation marks"),
    (" \r\n", "contains only white space"),
]


@pytest.mark.parametrize("name", ["api_token", "api_secret"])
@pytest.mark.parametrize(("shape", "flaw"), FLAWS)
def test_what_was_pasted_along_with_a_credential_is_named_and_the_credential_is_not(
    shape: str, flaw: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = shape.format(SECRET)
    with pytest.raises(ConfigurationError) as caught:
        Credentials(**({"api_token": "t", "api_secret": "s"} | {name: value}))
    assert str(caught.value) == f"The {name} {flaw}, so the venue would refuse every cancel; give it without that."
    variable = {"api_token": "RIPIO_API_TOKEN", "api_secret": "RIPIO_API_SECRET"}[name]
    monkeypatch.setenv("RIPIO_API_TOKEN", "t")
    monkeypatch.setenv("RIPIO_API_SECRET", "s")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_env()
    assert str(caught.value).startswith(f"The environment variable {variable} {flaw}, ")
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert SECRET[:4] not in str(caught.value)


@pytest.mark.parametrize("value", ['"', "''x", 'x"', "a b", "a'b'c", "=", "a\nb"])
def test_other_credentials_are_taken_as_they_are(value: str) -> None:
    assert Credentials(value, value).api_token == value


# A credential in a file


def said(monkeypatch: pytest.MonkeyPatch, path: str, *, value: str = "") -> str:
    monkeypatch.setenv("RIPIO_API_TOKEN", value)
    monkeypatch.setenv("RIPIO_API_TOKEN_FILE", path)
    monkeypatch.setenv("RIPIO_API_SECRET", "secret")
    monkeypatch.delenv("RIPIO_API_SECRET_FILE", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_env()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_a_file_of_no_use_is_named_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    called = f"The file {str(path)!r} that RIPIO_API_TOKEN_FILE names"
    assert said(monkeypatch, str(path)) == f"{called} cannot be read: No such file or directory."
    for data, why in (
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (b"x" * 65_537, "is too long for a credential"),
        (b"x" * 70_000, "is too long for a credential"),
        (b"\xff", "is not UTF-8"),
    ):
        path.write_bytes(data)
        assert said(monkeypatch, str(path)) == f"{called} {why}."
    assert said(monkeypatch, str(path), value="t") == (
        "Both RIPIO_API_TOKEN and RIPIO_API_TOKEN_FILE are set, and only one of them can be meant. Unset one."
    )
    assert said(monkeypatch, "") == (
        "The environment variable RIPIO_API_TOKEN_FILE is empty: name a file in it, or unset it."
    )


def test_a_name_that_can_be_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RIPIO_API_TOKEN_FILE": "a\0b"}
    monkeypatch.setattr(os, "environ", variables)
    with pytest.raises(ConfigurationError, match=r"names cannot be read: that cannot be a name\.$"):
        Credentials.from_env()


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
@pytest.mark.parametrize("length", [1, 65_000])
def test_one_line_end_of_a_file_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, length: int
) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * length + end.encode())
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    monkeypatch.setenv("RIPIO_API_TOKEN_FILE", str(path))
    monkeypatch.setenv("RIPIO_API_SECRET", "secret")
    assert Credentials.from_env().api_token == "x" * length


def test_a_file_of_the_greatest_length_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * 65_536)
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    monkeypatch.setenv("RIPIO_API_TOKEN_FILE", str(path))
    monkeypatch.setenv("RIPIO_API_SECRET", "secret")
    assert len(Credentials.from_env().api_token) == 65_536


def test_what_nobody_sees_is_blank() -> None:
    assert all(map(_is_blank, (" ", "\x00", "\u200b", "\ue000")))
    assert not any(map(_is_blank, ("x", "\ud800", "\udfff")))  # half a pair is told as what UTF-8 cannot encode


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (' "x"', "begins with a blank and is enclosed in quotation marks"),
        ('  "x" ', "begins with a blank and ends with a blank and is enclosed in quotation marks"),
        ('""', "is enclosed in quotation marks"),
        ('"', None),
        ("x\x00", "ends with U+0000 (a control character)"),
    ],
)
def test_what_is_wrong_with_a_credential(value: str, flaw: str | None) -> None:
    assert _flaw_of_credential(value) == flaw


# In these words


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "A cancel needs an order: give id or external_id; both are missing."),
        ({"id": "a", "external_id": "b"}, "A cancel names one order in one way: give id or external_id, not both."),
    ],
)
def test_an_order_is_named_in_one_way(arguments: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CancelRequest(**arguments)
    assert str(caught.value) == text


def test_an_odd_external_id_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    CancelRequest(external_id=" a")
    CancelRequest(external_id="b" * 37)
    CancelRequest(external_id="b" * 36)
    assert [record.getMessage() for record in caplog.records] == [
        "the external id ' a' has white space at its ends; it is sent as it is",
        f"the external id '{'b' * 37}' has 37 characters, and the venue documents at most 36; it is sent as it is",
    ]


def test_ids_are_compared_in_small_letters() -> None:
    assert canonical_id("7155ED34-Ä") == "7155ed34-Ä"
    assert canonical_id("7155ED34") == "7155ed34"


def test_what_a_message_shows_of_a_long_id() -> None:
    assert _shown("x" * 60) == repr("x" * 60)
    assert _shown("x" * 61) == repr("x" * 60 + "…")


def test_a_request_names_its_order_already() -> None:
    with pytest.raises(InvalidRequest) as caught:
        CancelRequest.of(CancelRequest("a"), "b")
    assert str(caught.value) == "A CancelRequest already names its order; do not give external_id as well."


def test_a_canceled_order_has_the_names_that_the_venue_gives_it() -> None:
    by_id, by_name = CancelRequest("a"), CancelRequest(external_id="b")
    assert CanceledOrder("a", external_id="b").names() == [by_id, by_name]
    assert CanceledOrder("a").names() == [by_id]
    assert CanceledOrder(None, external_id="b").names() == [by_name]
    assert CanceledOrder("", external_id="").names() == []
