"""The environment variables that point a program to a sandbox, and the files that they are written to.

A file appears complete (it is renamed into place), readable only by its owner, once the sandbox listens. So whoever
waits for the file can start when it appears. It is removed when the sandbox ends. A file that a killed sandbox has left
behind is removed before the new one listens. Any other file is refused, because it is not ours.
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

from trio_cancel._cli._failure import CommandError, UsageError, why_of
from trio_cancel._cli._options import CA_VARIABLE, REST_VARIABLE
from trio_cancel._client import URL_VARIABLE
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_FIELD_VARIABLE, TOKEN_VARIABLE
from trio_cancel.sandbox import Sandbox

IDS_VARIABLE = "SANDBOX_ORDER_IDS"
"""The first ids on its book, separated by commas. This variable also shows which files are ours."""
IDS_MOST = 100
AUTHORITY_VARIABLE = "SSL_CERT_FILE"
"""Where OpenSSL, and so every Python program that does not choose for itself, finds its certificate authorities."""
_WRITTEN = {
    *(URL_VARIABLE, REST_VARIABLE, TOKEN_VARIABLE, SECRET_VARIABLE, TOKEN_FIELD_VARIABLE),
    *(IDS_VARIABLE, AUTHORITY_VARIABLE),
}
OTHERS = (f"{TOKEN_VARIABLE}_FILE", f"{SECRET_VARIABLE}_FILE", CA_VARIABLE)
"""Variables of the user's own account that must not reach a program that should use the sandbox."""


def variables(venue: Sandbox, ids: Sequence[str], token_field: str, ca_file: Path | None) -> dict[str, str]:
    """Return what a program needs in its environment to use a sandbox that listens; without TLS no CA file."""
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
    """Return the files that options name; remove those that a killed sandbox has left behind."""
    found: dict[str, Path] = {}
    for option, name in named.items():
        if name is None:
            continue
        if not name:
            raise UsageError(f"{option} needs the name of a file.")
        path = Path(os.path.realpath(name))
        if path in found.values():
            raise UsageError(f"{option} needs its own file: {name} is named twice.")
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
                    f"{option} {name} exists already and was not written by trio-cancel sandbox: name another file."
                )
            with _writing(option, path):
                path.unlink(missing_ok=True)
        found[option] = path
    return found


@contextmanager
def written(option: str, path: Path, text: str) -> Generator[None]:
    """Write a file at once and complete; remove it after the block, unless it has been replaced."""
    with _writing(option, path):
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # only its owner can read it
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
def _writing(option: str, path: Path) -> Generator[None]:
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
    # If it contains anything else, somebody has made it a file of their own.
    return IDS_VARIABLE in names and names <= _WRITTEN
