"""What a journal's address means, and that nothing secret in it is ever shown."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from trio_cancel import ConfigurationError, JournalError, open_trading_ws
from trio_cancel._journal.address import NAME_MOST, check_address, server_of, shown, title_of
from trio_cancel._journal.database import reason
from trio_cancel._values.models import Credentials
from trio_cancel.journal import read_journal

FULL = "postgresql://bot:pass%2Fword@db1,db2:5433/trading?sslmode=require&journal=mm-1&password=other-secret"


def test_a_path_is_a_path() -> None:
    for path in ("bot.journal", Path("a") / "b", "postgresql:/one/slash", "./postgresql:", "sqlite://x"):
        assert server_of(path) is None
        assert shown(path) == str(path)
    assert title_of("/var/lib/bot.journal") == "bot.journal"


def test_a_database_is_named_by_its_url() -> None:
    server = server_of(FULL)
    assert server is not None
    assert server.name == "mm-1"
    assert server.shown == "postgresql://db1,db2:5433/trading?journal=mm-1"
    given = conninfo_to_dict(server.conninfo)
    assert given == {
        "host": "db1,db2",
        "port": ",5433",
        "dbname": "trading",
        "user": "bot",
        "password": "other-secret",
        "sslmode": "require",
    }
    assert title_of(FULL) == "mm-1"
    assert shown(FULL) == server.shown


@pytest.mark.parametrize(
    ("address", "conninfo", "words"),
    [
        ("postgres://h/d?journal=j", "postgresql://h/d", "postgresql://h/d?journal=j"),
        ("postgresql:///d?host=/run/pg&journal=j", "postgresql:///d?host=%2Frun%2Fpg", "postgresql:///run/pg/d?journal=j"),
        ("postgresql://h?dbname=d&journal=j", "postgresql://h?dbname=d", "postgresql://h/d?journal=j"),
        ("postgresql://[::1]:5/d?journal=a%20b", "postgresql://[::1]:5/d", "postgresql://[::1]:5/d?journal=a b"),
        (
            "postgresql://h/d?options=-c%20x%3D1%2B1&journal=j",
            "postgresql://h/d?options=-c%20x%3D1%2B1",
            "postgresql://h/d?journal=j",
        ),
        ("postgresql://h/d", "postgresql://h/d", "postgresql://h/d"),
        ("postgresql:///d?hostaddr=1.2.3.4", "postgresql:///d?hostaddr=1.2.3.4", "postgresql://1.2.3.4/d"),
        ("postgresql:///d?host=a&host=b", "postgresql:///d?host=a&host=b", "postgresql://a,b/d"),
        ("postgresql://?host=h&user=u", "postgresql://?host=h&user=u", "postgresql://h/"),
        ("postgresql://h/d?application_name=", "postgresql://h/d?application_name=", "postgresql://h/d"),
    ],
)  # fmt: skip
def test_every_form_of_a_url(address: str, conninfo: str, words: str) -> None:
    server = server_of(address)
    assert server is not None
    assert (server.conninfo, server.shown) == (conninfo, words)
    conninfo_to_dict(server.conninfo)


NOT_READ = "The journal's address is not a url that can be read; write postgresql://host/database?journal=NAME"
AS_CODES = "%23 for #, %2F for /, %3A for :, %3F for ? and %40 for @"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://h/d?journal", f"{NOT_READ}."),
        *(
            (
                address,
                f"{NOT_READ}, and in a user's name or password {AS_CODES}.",
            )
            for address in (
                "postgresql://h/d?journal=j#x",
                "postgresql://u:a/b@h/d?journal=j",
                "postgresql://h/d?a-b=c&journal=j",
                "postgresql://h/d?\u00e9=c&journal=j",
            )
        ),
        (
            "postgresql://h/d?journal=a&journal=b",
            "The journal's address names two journals; write postgresql://host/database?journal=NAME.",
        ),
        (
            f"postgresql://h/d?journal={'x' * (NAME_MOST + 1)}",
            "The name of a journal in a database is at most 200 printable characters; choose a shorter one.",
        ),
        (
            "postgresql://u:p@h/d?journal=",
            "The address postgresql://h/d names no journal; write postgresql://host/database?journal=NAME.",
        ),
        ("", "journal must be the path of a file, not ''."),
        ("a\0b", "journal must be the path of a file, not 'a\\x00b'."),
        (b"bytes", "journal must be the path of a file or the url of a database, not bytes."),
        (7, "journal must be the path of a file or the url of a database, not int."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_address_is_said_in_full(address: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_address(address)
    assert str(caught.value) == said


def test_a_path_in_bytes_is_refused() -> None:
    class Bytes(os.PathLike[bytes]):
        def __fspath__(self) -> bytes:
            return b"x"

    with pytest.raises(ConfigurationError, match=r"^journal must be the path of a file as text, not bytes\.$"):
        check_address(Bytes())


def test_the_longest_name_is_taken() -> None:
    check_address(f"postgresql://h/d?journal={'x' * NAME_MOST}")


SECRET = "s3cret"


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://bot:{SECRET}#x@h/d?journal=j",
        f"postgresql://bot:{SECRET}/x@h/d?journal=j",
        f"postgresql://bot:{SECRET}?x@h/d?journal=j",
        f"postgresql://bot:x?{SECRET}@h/d?journal=j",
        f"postgresql://bot:x@{SECRET}[h/d?journal=j",
        f"postgresql://bot:{SECRET}@h/d?journal",
        f"postgresql://bot:{SECRET}@h/d?journal=a&journal=b",
        f"postgresql://bot:{SECRET}@h/d?journal={'x' * (NAME_MOST + 1)}",
        f"postgresql://bot:{SECRET}@h/d?journal=a%0Ab",
    ],
)
def test_what_cannot_be_read_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_address(address)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_database_without_a_journals_name_is_no_address_of_a_journal() -> None:
    with pytest.raises(ConfigurationError, match=r"The address postgresql://h/d names no journal; write postgresql://"):
        check_address(f"postgresql://bot:{SECRET}@h/d")


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.text("abc-1 é?&=/%", max_size=20))
def test_what_is_shown_has_no_user_and_no_password(password: str, name: str) -> None:
    secret, named = quote(f"<{password}>", safe=""), quote(name, safe="")
    server = server_of(f"postgresql://user-of-it:{secret}@host/database?journal={named}")
    assert server is not None
    assert server.shown == f"postgresql://host/database{f'?journal={name}' if name else ''}"
    assert "<" not in repr(server)


def test_what_the_driver_says_has_no_password_in_it() -> None:
    server = server_of(FULL)
    assert server is not None
    for secret in ("pass/word", "pass%2Fword", "other-secret"):
        said = reason(Exception(f"wrong {secret}\n  and again {secret}"), server)
        assert said == "wrong …; and again …"


async def test_the_session_takes_no_address_that_names_no_journal() -> None:
    with pytest.raises(ConfigurationError, match="names no journal"):
        open_trading_ws("ws://localhost", credentials=Credentials("t", "s"), journal="postgresql://h/d")


def test_without_the_driver_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "psycopg":
            raise ImportError("no module named psycopg")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        JournalError,
        match=r"^A journal in PostgreSQL needs psycopg, which is not installed: pip install 'trio-cancel\[postgres\]'",
    ):
        read_journal("postgresql://h/d?journal=j")
