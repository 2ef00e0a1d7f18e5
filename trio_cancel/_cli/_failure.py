"""What a person is told when something is wrong: one clear line on stderr."""

from __future__ import annotations

import sys


class CommandError(Exception):
    """The command cannot go on. Its text is one sentence: what is wrong and what helps.

    Attributes:
        status: the exit status.
    """

    def __init__(self, text: str, *, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


# The library's advice names its keywords; here is what a person at a shell does instead.
_SHELL_WORDS = {
    ", or pass ssl_context=": ", or name its authority with --ca-file",
    ", or pass allow_insecure=True": "",
    ", or pass credentials=Credentials(token, secret)": "",
    "; pass credentials=Credentials(...) instead": "; set RIPIO_API_TOKEN and RIPIO_API_SECRET instead",
    ', or pass clock_offset="auto"': "",
    " with token_field or TRIO_CANCEL_TOKEN_FIELD": " with TRIO_CANCEL_TOKEN_FIELD",
}


def shell_words(text: str) -> str:
    """Return the text of one of the library's errors with advice that fits the command line."""
    for words, instead in _SHELL_WORDS.items():
        text = text.replace(words, instead)
    return text


def clean(text: str) -> str:
    """Return text from outside (ids, the venue's words) as one line that cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character in "\t\r\n" else ascii(character)[1:-1]
        for character in text
    )


def short(text: str, most: int) -> str:
    """Return ``text`` in at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def say(text: str) -> None:
    """Write one line to stderr, if there is one that can be written to."""
    write_stderr(f"trio-cancel: {clean(shell_words(text))}\n")


def write_stderr(text: str) -> None:
    """Write to stderr, if there is one that can be written to: nothing depends on it."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # closed, or its reader has gone
        pass


def lone(error: BaseException) -> BaseException:
    """Return what is wrong, without the groups around it: of several, an interrupt first, else the first."""
    while isinstance(error, BaseExceptionGroup):
        interrupts = [inner for inner in map(lone, error.exceptions) if isinstance(inner, KeyboardInterrupt)]
        error = interrupts[0] if interrupts else error.exceptions[0]
    return error
