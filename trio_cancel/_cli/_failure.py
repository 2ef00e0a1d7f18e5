"""What a person sees when something is wrong: one clear line on stderr, which may be closed, full or not read."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from contextlib import suppress
from typing import TextIO

STDERR_PATIENCE = 0.5
"""Seconds that the reader of stderr may keep us waiting in total."""
PIECE = getattr(select, "PIPE_BUF", 512)
"""Bytes that a ready pipe takes without blocking."""


class CommandError(Exception):
    """The command cannot go on. The text is one sentence: what is wrong and what helps.

    Everything that reads what a user gave may raise it, or one of the library's own errors, which do the same. The
    docstrings of the command line do not repeat that.
    """

    def __init__(self, text: str, *, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


class UsageError(CommandError):
    """The command was called in a way that makes no sense; its handler adds where to find help."""


# The library's advice names its keywords; here is what somebody at a shell does instead.
_SHELL_WORDS = {
    "(proxy=)": "(--proxy)",
    "check proxy=": "check --proxy",
    "in proxy=": "in --proxy",
    ", or pass ssl_context=": ", or name its authority with --ca-file",
    ", or pass allow_insecure=True": "",
    ", or pass credentials=Credentials(token, secret)": ", or give --env-file FILE",
    "; pass credentials=Credentials(...) instead": "; set RIPIO_API_TOKEN and RIPIO_API_SECRET instead",
    ', or pass clock_offset="auto"': "",
    " with token_field or TRIO_CANCEL_TOKEN_FIELD": " with TRIO_CANCEL_TOKEN_FIELD",
}


def is_dumb() -> bool:
    """Return True if the terminal can neither move its cursor nor be asked what it can."""
    return os.environ.get("TERM", "").lower() in {"dumb", "unknown"}


def shell_words(text: str) -> str:
    """Return the text of a library error with advice that fits the command line."""
    for words, instead in _SHELL_WORDS.items():
        text = text.replace(words, instead)
    return text


def clean(text: str) -> str:
    """Return text from outside (ids, the venue's words) as one line that cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character in "\t\r\n" else ascii(character)[1:-1]
        for character in text
    )


def short(text: str, most: int) -> str:
    """Return ``text`` in at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as ``1 order`` or ``2 orders``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def why_of(error: Exception) -> str:
    """Return what the system says about an error."""
    return getattr(error, "strerror", None) or str(error)


def say(text: str) -> None:
    """Write one line to stderr, if stderr can be written to."""
    write_stderr(f"trio-cancel: {clean(shell_words(text))}\n")


def write_stderr(text: str) -> None:
    """Write to stderr, if it can be written to: nothing depends on it, and nothing waits for it."""
    if sys.stderr is not None:
        _write_to(sys.stderr, text)


def _write_to(file: TextIO, text: str) -> None:
    if file.closed:
        return
    with suppress(OSError, ValueError):  # it is full, or its reader has gone
        descriptor = descriptor_of(file)
        if descriptor is None or not hasattr(select, "poll"):
            file.write(text)
            file.flush()
        else:
            # Bypass Python's buffer: data left in it would make Python exit with its own status.
            _patience.write(descriptor, encoded(file, text))


def is_terminal(file: TextIO | None) -> bool:
    """Return True if the file is a terminal."""
    return file is not None and not file.closed and file.isatty()


def stderr_is_ready() -> bool:
    """Return True if a write to stderr would not have to wait."""
    try:
        descriptor = None if sys.stderr is None else descriptor_of(sys.stderr)
        return descriptor is None or not hasattr(select, "poll") or bool(output_poll(descriptor).poll(0))
    except (OSError, ValueError):  # it is closed, and takes nothing at once
        return True


def output_poll(descriptor: int) -> select.poll:
    """Return a poll that waits until a descriptor accepts output."""
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    return ready


class StderrFile(io.TextIOBase):
    """Stderr as a file that never holds the program up: a stopped or frozen terminal loses what it is sent."""

    def __init__(self) -> None:
        assert sys.stderr is not None
        self._file = sys.stderr  # kept, because rich replaces sys.stderr with its own, which writes to this one

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base has an attribute
        return getattr(self._file, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        _write_to(self._file, text)
        return len(text)

    def isatty(self) -> bool:
        return True  # it is made for terminals only


def descriptor_of(file: TextIO) -> int | None:
    """Return the descriptor of an open file; None if there is none."""
    try:
        return file.fileno()
    except (io.UnsupportedOperation, AttributeError):  # replaced by something in memory
        return None


def encoded(file: TextIO | None, text: str) -> bytes:
    """Return text in the encoding of a file; characters that the encoding lacks are shown by their number."""
    return text.encode(getattr(file, "encoding", None) or "utf-8", "backslashreplace")


class _Patience:
    """Waits for the reader of stderr, in total no longer than ``STDERR_PATIENCE``."""

    def __init__(self) -> None:
        self._left = STDERR_PATIENCE

    def write(self, descriptor: int, data: bytes) -> None:
        """Write; drop what is not accepted within the patience that is left."""
        ready = output_poll(descriptor)
        view = memoryview(data)
        while view:
            began = time.monotonic()
            if not ready.poll(self._left * 1000):
                self._left = 0.0
                return
            self._left = max(0.0, self._left - (time.monotonic() - began))
            try:
                view = view[os.write(descriptor, view[:PIECE]) :]
            except BlockingIOError:  # another writer was faster; the next poll waits
                self._left = max(0.0, self._left - 0.01)
                if not self._left:
                    return


_patience = _Patience()


def lone(error: BaseException) -> BaseException:
    """Return what is wrong, without the groups around it: an interrupt if there is one, otherwise the first error."""
    while isinstance(error, BaseExceptionGroup):
        interrupts = [inner for inner in map(lone, error.exceptions) if isinstance(inner, KeyboardInterrupt)]
        error = interrupts[0] if interrupts else error.exceptions[0]
    return error
