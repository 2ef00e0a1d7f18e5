"""The library's log on stderr, for ``-v`` and ``--log-level``: one line per record, like everything else there."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from trio_cancel._cli._failure import say

Level = Literal["debug", "info", "warning", "error"]


class _StderrHandler(logging.Handler):
    """Writes each record to stderr, which may be closed, full or slow without harm."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {self.format(record)}")


def is_logging() -> bool:
    """Return True if log lines go to stderr; a progress bar between them would be in the way."""
    return any(isinstance(handler, _StderrHandler) for handler in logging.getLogger().handlers)


@contextmanager
def logged(level: Level) -> Generator[None]:
    """Log what happens in the block, from this level on."""
    root = logging.getLogger()
    library = logging.getLogger("trio_cancel")
    handler = _StderrHandler()
    before = library.level
    root.addHandler(handler)
    library.setLevel(level.upper())
    try:
        yield
    finally:
        library.setLevel(before)
        root.removeHandler(handler)
