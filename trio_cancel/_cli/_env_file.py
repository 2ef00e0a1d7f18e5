r"""``--env-file``: environment variables from a file, in the format of ``.env`` files and ``docker --env-file``.

One ``NAME=VALUE`` per line, perhaps after ``export``. Blank lines and lines that begin with ``#`` are comments, and so
is what follows `` #`` after a value. A value in single quotes is taken literally. In double quotes ``\n``, ``\t``,
``\r`` and a backslash before a backslash, ``"``, ``$`` or a backquote stand for one character. ``$NAME`` is not
replaced. The file takes precedence over the environment, because it was named explicitly. No message shows what a line
says, because it may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trio_cancel._cli._failure import CommandError, UsageError, clean, why_of
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_VARIABLE

SIZE_MOST = 1 << 20
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "$": "$", "`": "`"}


def use_env_file(name: str | None) -> None:
    """Put the file's variables into the environment of this process; do nothing for None."""
    if name is None:
        return
    found = parse_env(_read(name), name)
    for credential in (TOKEN_VARIABLE, SECRET_VARIABLE):
        # A credential in the file replaces the shell's, whichever way each of them gives it.
        forms = {credential, f"{credential}_FILE"}
        if forms & found.keys():
            for form in forms:
                os.environ.pop(form, None)
    os.environ.update(found)


@contextmanager
def kept_environment() -> Generator[None]:
    """Undo at the end of the block what ``use_env_file`` did in it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def parse_env(text: str, name: str) -> dict[str, str]:
    """Return the variables of a file's text."""
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, whole in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        line = whole.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad(name, number, "is not NAME=VALUE")
        variable, rest = match[1], match[2]
        if variable in lines:
            raise _bad(name, number, f"gives {variable} again, which line {lines[variable]} gave; keep one of them")
        found[variable], lines[variable] = _value(rest, name, number), number
    return found


def _value(rest: str, name: str, number: int) -> str:
    if "\0" in rest:
        raise _bad(name, number, "holds a null character")
    if rest[:1] not in ("'", '"'):
        return _COMMENT.sub("", rest, count=1).strip()
    match = (_SINGLE if rest[0] == "'" else _DOUBLE).fullmatch(rest)
    if match is None:
        closed = rest.find(rest[0], 1) > 0
        raise _bad(
            name,
            number,
            "has text after a closing quotation mark" if closed else "opens a quotation mark and does not close it",
        )
    if rest[0] == "'":
        return match[1]
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), match[1])


def _bad(name: str, number: int, what: str) -> CommandError:
    return CommandError(f"Line {number} of the --env-file {clean(name)} {what}.")


def _read(name: str) -> str:
    if not name:
        raise UsageError("--env-file needs the name of a file.")
    try:
        with Path(name).open("rb") as file:
            data = file.read(SIZE_MOST + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise CommandError(f"The --env-file {clean(name)} cannot be read: {why_of(error)}.") from None
    if len(data) > SIZE_MOST:
        raise CommandError(f"The --env-file {clean(name)} is too long: more than {SIZE_MOST} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError(f"The --env-file {clean(name)} is not UTF-8; save it as UTF-8.") from None
