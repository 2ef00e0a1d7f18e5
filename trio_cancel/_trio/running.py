"""Checks which event loop is running: a program started with asyncio by mistake gets one sentence that says so."""

from __future__ import annotations

import sys

import trio

from trio_cancel._values.errors import ConfigurationError


def check_trio(door: str) -> None:
    """Raise ConfigurationError unless trio runs the calling task.

    Args:
        door: what the user called, for the message.
    """
    if trio.lowlevel.in_trio_task():
        return
    where = "asyncio runs this task" if _in_asyncio() else "trio is not running here"
    raise ConfigurationError(
        f"{door} works under trio only, and {where}: start the program with trio.run(main) or, if it uses anyio, with "
        'anyio.run(main, backend="trio").'
    )


def _in_asyncio() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
