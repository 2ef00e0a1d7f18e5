"""The commands, and what they have in common: ``--debug``, and errors as one line and a status.

The commands are named by their import path, so that each is loaded when it is run or when help is asked for.
"""

from __future__ import annotations

import errno
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, TextIO

from cyclopts import App, CycloptsError, Group, Parameter

from trio_cancel._cli._failure import CommandError, lone, say, write_stderr
from trio_cancel._cli._stdout import why_of
from trio_cancel._cli._tally import Status
from trio_cancel._values.errors import TradingError

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EAGAIN, errno.EBADF}

COMMANDS = {
    "demo": "Cancel a thousand orders at an exchange of its own, and show how that went.",
    "cancel": "Cancel orders and tell what became of each.",
    "show": "Tell what the venue says of orders now.",
    "resume": "Cancel what a dead process left held or unsettled in its journal.",
    "journal": "Tell what happened to each order in a journal.",
    "sandbox": "Serve an exchange to try things on, on the loopback interface.",
    "fault": "Have a running sandbox misbehave, from another process.",
    "doctor": "Check the way to the venue, the clock and the credentials.",
}


def version() -> str:
    """Return the version of the package that is installed."""
    try:
        return importlib.metadata.version("trio-cancel")
    except importlib.metadata.PackageNotFoundError:
        raise CommandError(
            "The version is unknown: the package's metadata (its dist-info folder) is missing; install it with pip."
        ) from None


class Call:
    """One call of the command line: its app, and the status and settings that come out of it."""

    def __init__(self) -> None:
        self.status: int = Status.OK
        self.debug = False
        self.app = App(
            name="trio-cancel",
            help="Cancel orders at Ripio Trade, and know what became of every one.",
            version=version,
            backend="trio",
            result_action="return_value",
            exit_on_error=False,
            print_error=False,
            suppress_keyboard_interrupt=False,
        )
        for name, text in COMMANDS.items():
            self.app.command(f"trio_cancel._cli._{name}:{name}", name=name, help=text)
        self.app.meta.suppress_keyboard_interrupt = False  # it has a status of its own here, too
        self.app.meta.group_parameters = Group("For every command", sort_key=9)
        self.app.meta.default(self._launch)

    async def _launch(
        self,
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        debug: Annotated[bool, Parameter(negative="", help="Show the traceback of an error.")] = False,
    ) -> int:
        self.debug = debug
        return int(await self.app.run_async(tokens) or 0)

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Turn whatever comes out of the block into one line and ``status``; cancellation passes."""
        try:
            yield
        except ImportError as error:
            # Perhaps of the extra: that is explained where the extra need not be there. cyclopts wraps what is lazy.
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise error.__cause__ from None
            raise
        except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        cause = lone(error)
        if not isinstance(cause, Exception | KeyboardInterrupt):
            raise error
        if self.debug:
            write_stderr("".join(traceback.format_exception(error)))
        if isinstance(cause, KeyboardInterrupt):
            self.status = Status.INTERRUPTED
            say("interrupted")
        elif isinstance(cause, CommandError):
            self.status = cause.status
            say(str(cause))
        elif isinstance(cause, CycloptsError):
            self.status = Status.USAGE
            say(f"{cause} See trio-cancel --help.")
        elif isinstance(cause, TradingError):
            self.status = Status.USAGE
            say(str(cause))
        elif isinstance(cause, BrokenPipeError):
            self.status = Status.LEFT
            _forget(sys.stdout)
        elif isinstance(cause, OSError) and cause.filename is None and cause.errno in _OF_WRITING:
            # Of stdout: whatever else a command writes to, it names itself, and stderr never raises.
            self.status = Status.LEFT
            _flush(sys.stdout)
            _say_full(cause)
        else:
            self.status = Status.UNKNOWN
            say(f"it failed in a way that it should not: {type(cause).__name__}: {cause}. --debug shows where.")


def run(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit status. It never raises for what the command does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an old terminal must not make an order's name an error
    call = Call()
    with call.guarded():
        call.status = call.app.meta(list(arguments)) or 0
    why = _flush(sys.stdout)
    if why is not None:
        call.status = call.status or Status.LEFT
        _say_full(why)
    _flush(sys.stderr)  # one that is closed or full changes no status
    return int(call.status)


async def run_async(arguments: Sequence[str]) -> int:
    """The same as :func:`run`, from within a trio program: for tests."""
    call = Call()
    with call.guarded():
        call.status = await call.app.meta.run_async(list(arguments)) or 0
    return int(call.status)


def _say_full(why: Exception) -> None:
    if not isinstance(why, BrokenPipeError):  # its reader wanted no more
        say(f"stdout takes no more ({why_of(why)})")


def _flush(stream: TextIO | None) -> Exception | None:
    """Write what Python has kept for a stream; if that fails return why, and drop it."""
    if stream is None or stream.closed:
        return None
    try:
        stream.flush()
    except (OSError, ValueError) as error:
        _forget(stream)
        return error
    return None


def _forget(stream: TextIO) -> None:
    """Point a stream to nowhere: Python would try again at exit, and exit with a status of its own."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
