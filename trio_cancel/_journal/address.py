"""Where a journal is kept: the path of a file, or a PostgreSQL database and the journal's name in it."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import attrs

from trio_cancel._values.errors import ConfigurationError

SCHEMES = ("postgresql://", "postgres://")
NAME_MOST = 200
"""Characters in a journal's name."""
_FORM = "postgresql://host/database?journal=NAME"


@attrs.frozen
class Server:
    """A PostgreSQL database that keeps journals, and perhaps one of them."""

    conninfo: str = attrs.field(repr=False)  # the url for the database's client library; it may contain a password
    name: str  # the journal's; "" if the address names only the database
    shown: str  # the address as it may be shown and logged: without user, password and options


def server_of(address: str | os.PathLike[str]) -> Server | None:
    """Return the database that an address means; None if it is the path of a file.

    Raises:
        ConfigurationError: it is the url of a database and cannot be read. The message shows nothing of it, because it
            may contain a password.
    """
    text = os.fspath(address)
    if not text.startswith(SCHEMES):
        return None
    try:
        parts = urlsplit(text)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(f"The journal's address is not a url that can be read; write {_FORM}.") from None
    if "#" in text or "@" in parts.path or not all(_is_option(key) for key, _ in options):
        raise ConfigurationError(
            f"The journal's address is not a url that can be read; write {_FORM}, and in a user's name or password "
            "%23 for #, %2F for /, %3A for :, %3F for ? and %40 for @."
        )
    names = [value for key, value in options if key == "journal"]
    name = names[0] if names else ""
    if len(names) > 1:
        raise ConfigurationError(f"The journal's address names two journals; write {_FORM}.")
    if len(name) > NAME_MOST or not name.isprintable():
        raise ConfigurationError(
            f"The name of a journal in a database is at most {NAME_MOST} printable characters; choose a shorter one."
        )
    rest = [(key, value) for key, value in options if key != "journal"]
    query = urlencode(rest, quote_via=quote)  # a space as %20: the driver takes + for itself
    conninfo = f"postgresql://{parts.netloc}{parts.path}{'?' if query else ''}{query}"
    host = parts.netloc.rpartition("@")[2] or ",".join(value for key, value in rest if key in ("host", "hostaddr"))
    database = parts.path or "/" + "".join(value for key, value in rest if key == "dbname")
    shown = f"postgresql://{unquote(host)}{unquote(database)}"
    return Server(conninfo, name, f"{shown}?journal={name}" if name else shown)


def _is_option(key: str) -> bool:
    return key.isascii() and key.replace("_", "").isalnum()


def shown(address: str | os.PathLike[str]) -> str:
    """Return an address as it may be shown: a path as it is, a database without anything secret."""
    server = server_of(address)
    return os.fspath(address) if server is None else server.shown


def title_of(address: str | os.PathLike[str]) -> str:
    """Return a short name for a journal: its file's, or its own in its database."""
    server = server_of(address)
    return os.path.basename(os.fspath(address)) if server is None else server.name


def check_address(journal: object) -> None:
    """Raise ConfigurationError unless it is a path, or the url of a database with the name of a journal."""
    if not isinstance(journal, str | os.PathLike):
        raise ConfigurationError(
            f"journal must be the path of a file or the url of a database, not {type(journal).__name__}."
        )
    path = os.fspath(journal)
    if not isinstance(path, str):
        raise ConfigurationError(f"journal must be the path of a file as text, not {type(path).__name__}.")
    if not path or "\0" in path:
        raise ConfigurationError(f"journal must be the path of a file, not {path!r}.")
    server = server_of(path)
    if server is not None and not server.name:
        raise ConfigurationError(f"The address {server.shown} names no journal; write {_FORM}.")
