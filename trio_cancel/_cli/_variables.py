"""The environment variables that lead a program to a sandbox, and the files that they are written to.

A file is written whole (it is renamed into its place once it is complete), readable by its owner only, once the sandbox
listens. So whoever waits for the file can start when it is there. It goes with the sandbox. One that an earlier sandbox
left behind, for it was killed, is removed before the new one listens. Any other file is refused: it is not ours.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trio_cancel._cli._failure import CommandError, UsageError
from trio_cancel._cli._lookups import REST_VARIABLE
from trio_cancel._cli._options import CA_VARIABLE
from trio_cancel._cli._stdout import why_of
from trio_cancel._client import URL_VARIABLE
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_FIELD_VARIABLE, TOKEN_VARIABLE
from trio_cancel.sandbox import Sandbox

IDS_VARIABLE = "SANDBOX_ORDER_IDS"
"""The first ids on its book, with commas between them. It also tells which files are ours."""
IDS_MOST = 100
AUTHORITY_VARIABLE = "SSL_CERT_FILE"
"""What OpenSSL, and so every Python program that does not choose for itself, takes its authorities from."""
_WRITTEN = {
    *(URL_VARIABLE, REST_VARIABLE, TOKEN_VARIABLE, SECRET_VARIABLE, TOKEN_FIELD_VARIABLE),
    *(IDS_VARIABLE, AUTHORITY_VARIABLE),
}
OTHERS = (f"{TOKEN_VARIABLE}_FILE", f"{SECRET_VARIABLE}_FILE", CA_VARIABLE)
"""Variables of the person's own account that must not reach a program which is to use the sandbox."""


def variables(venue: Sandbox, ids: Sequence[str], token_field: str, ca_file: Path | None) -> dict[str, str]:
    """Return what a program needs in its environment to use the sandbox.

    Args:
        venue: the sandbox, which listens.
        ids: the orders on its book.
        token_field: the name under which requests must carry the token.
        ca_file: the file with its authority's certificate; None without TLS.
    """
    found = {
        URL_VARIABLE: venue.url,
        REST_VARIABLE: venue.rest_url,
        TOKEN_VARIABLE: venue.credentials.api_token,
        SECRET_VARIABLE: venue.credentials.api_secret,
        TOKEN_FIELD_VARIABLE: token_field,
        IDS_VARIABLE: ",".join(ids[:IDS_MOST]),
    }
    return found if ca_file is None else {**found, AUTHORITY_VARIABLE: str(ca_file)}


def as_lines(values: Mapping[str, str]) -> str:
    """Return variables as lines for a shell, systemd or Docker."""
    return "".join(f"{name}={shlex.quote(value) if value else ''}\n" for name, value in values.items())


def as_json(values: Mapping[str, str]) -> str:
    """Return variables as a JSON object."""
    return json.dumps(values, indent=2) + "\n"


def check_files(named: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the files that options name; remove those that a killed sandbox has left.

    Raises:
        CommandError: one cannot be written there, or is not ours.
    """
    found: dict[str, Path] = {}
    for option, name in named.items():
        if name is None:
            continue
        if not name:
            raise UsageError(f"{option} needs the name of a file.")
        path = Path(os.path.realpath(name))
        if path in found.values():
            raise UsageError(f"{option} needs a file of its own: {name} is named twice.")
        try:
            kind = path.stat().st_mode
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise CommandError(f"{option} {name} cannot be written: there is no folder {path.parent}.") from None
        except OSError as error:
            raise CommandError(f"{option} {name} cannot be written: {why_of(error)}.") from error
        else:
            if not stat.S_ISREG(kind) or not _is_ours(path):
                raise CommandError(
                    f"{option} {name} is there already, and trio-cancel sandbox has not written it: name another file."
                )
            with _told(option, path):
                path.unlink(missing_ok=True)
        found[option] = path
    return found


@contextmanager
def written(option: str, path: Path, text: str) -> Generator[None]:
    """Write a file at once and whole; remove it after the block, unless it has become another's.

    Raises:
        CommandError: it cannot be written.
    """
    with _told(option, path):
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its owner's alone
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                made = os.fstat(descriptor)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    try:
        yield
    finally:
        with suppress(OSError, UnicodeDecodeError):
            if os.path.samestat(path.stat(), made) and path.read_text(encoding="utf-8") == text:
                path.unlink()


@contextmanager
def _told(option: str, path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"{option} {path} cannot be written: {why_of(error)}.") from error


def _is_ours(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    try:
        names = set(json.loads(text))
    except (ValueError, TypeError):
        names = {line.partition("=")[0] for line in text.splitlines()}
    # With anything else in it, somebody has made it a file of their own.
    return IDS_VARIABLE in names and names <= _WRITTEN
