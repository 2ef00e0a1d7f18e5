"""The commands, and what they share: logs, ``--debug``, and errors as one line and a status.

The commands are named by their import path, so that each is loaded only when it is run or help is asked for.
"""

from __future__ import annotations

import difflib
import errno
import importlib.metadata
import io
import os
import re
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import App, CoercionError, CycloptsError, Group, Parameter, UnusedCliTokensError
from cyclopts.exceptions import MissingArgumentError, UnknownCommandError, UnknownOptionError

from trio_cancel._cli._env_file import kept_environment
from trio_cancel._cli._failure import CommandError, UsageError, clean, is_dumb, lone, say, short, why_of, write_stderr
from trio_cancel._cli._help import COMMON, MANUALS, OWN, PROGRAM
from trio_cancel._cli._log import Level, logged
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._values.errors import TradingError

if TYPE_CHECKING:
    from rich.console import Console

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EAGAIN, errno.EBADF}
TOKENS_SHOWN = 3
USER = re.compile(r"(?<=:)//[^/?#]*@")
"""A user and a password in a url; these are not shown."""


def version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("trio-cancel")
    except importlib.metadata.PackageNotFoundError:
        raise CommandError(
            "The version is unknown: the package's metadata (its dist-info folder) is missing; install it with pip."
        ) from None


def _console() -> Console | None:
    """Return the console for help; None means cyclopts' own, which is loaded only when there is help to print."""
    if not is_dumb():
        return None
    from trio_cancel._cli._screen import console_on

    return console_on()


class Call:
    """One call of the command line: its app, and the status and settings that come out of it."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.status: int = Status.OK
        self.debug = False
        self.command = next((word for word in arguments if word in MANUALS), "")  # errors name its help
        self.app = App(
            name="trio-cancel",
            help=PROGRAM.text,
            help_epilogue=PROGRAM.epilogue(),
            help_format="plaintext",
            usage=f"Usage: trio-cancel {PROGRAM.usage}",
            version=version,
            version_flags=("--version", "-V"),
            default_parameter=Parameter(show_default=_shown_default, negative=""),
            backend="trio",
            console=_console(),
            result_action="return_value",
            exit_on_error=False,
            print_error=False,
            suppress_keyboard_interrupt=False,
        )
        for name, manual in MANUALS.items():
            self.app.command(
                f"trio_cancel._cli._{name}:{name}" if name != "completion" else self._complete,
                name=name,
                help=manual.text,
                help_epilogue=manual.epilogue(),
                usage=f"Usage: trio-cancel {name} {manual.usage}",
                group_parameters=Group(OWN, sort_key=1),
            )
        self.app.meta.suppress_keyboard_interrupt = False  # an interrupt has its own status here, too
        self.app.meta.group_parameters = COMMON
        self.app.meta.default(self._launch)

    async def _launch(
        self,
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        verbose: Annotated[
            bool,
            Parameter(
                name=("--verbose", "-v"),
                group=COMMON,
                negative="",
                help="Log what happens; the same as --log-level info.",
            ),
        ] = False,
        log_level: Annotated[
            Level | None, Parameter(group=COMMON, metavar="LEVEL", help="Log to stderr at this level and above.")
        ] = None,
        debug: Annotated[bool, Parameter(group=COMMON, negative="", help="Show the traceback of an error.")] = False,
    ) -> int:
        self.debug = debug
        level = log_level or ("info" if verbose else None)
        if level is None:
            return int(await self.app.run_async(tokens) or 0)
        with logged(level):
            return int(await self.app.run_async(tokens) or 0)

    def _complete(
        self, shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL", help="The shell.")], /
    ) -> int:
        write_stdout(self.app.meta.generate_completion(shell=shell))
        return Status.OK

    def _say_usage(self, text: str) -> None:
        say(f"{text} See trio-cancel {self.command + ' ' if self.command else ''}--help.")

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Turn whatever is raised in the block into one line and ``status``; cancellation passes through."""
        try:
            with kept_environment():
                yield
        except ImportError as error:
            # The module may belong to an extra: errors about that must work without it. cyclopts wraps what is lazy.
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise error.__cause__ from None
            raise
        except (Exception, KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        cause = lone(error)
        if isinstance(cause, SystemExit) and isinstance(cause.__context__, BrokenPipeError):
            cause = cause.__context__  # rich makes this of a reader that has stopped reading
        if not isinstance(cause, Exception | KeyboardInterrupt):
            raise error
        if self.debug:
            write_stderr("".join(traceback.format_exception(error)))
        if isinstance(cause, KeyboardInterrupt):
            self.status = Status.INTERRUPTED
            say("interrupted")
        elif isinstance(cause, CommandError):
            self.status = cause.status
            if isinstance(cause, UsageError):
                self._say_usage(str(cause))
            else:
                say(str(cause))
        elif isinstance(cause, CycloptsError):
            self.status = Status.USAGE
            self._say_usage(_usage_text(cause))
        elif isinstance(cause, TradingError):
            self.status = Status.USAGE
            say(str(cause))
        elif isinstance(cause, BrokenPipeError):
            _forget(sys.stdout)  # its reader has stopped reading: the command has done its work
        elif isinstance(cause, OSError) and cause.filename is None and cause.errno in _OF_WRITING:
            # About stdout: commands name every other file themselves, and stderr never raises.
            self.status = Status.LEFT
            _flush(sys.stdout)
            _say_full(cause)
        else:
            self.status = Status.UNKNOWN
            say(f"internal error: {type(cause).__name__}: {cause}. --debug shows where.")


def _usage_text(error: CycloptsError) -> str:
    """Return what is wrong with the arguments, as a sentence, in our own words where cyclopts' are too technical."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        tokens = [f'"{short(clean(USER.sub("//", token)), 60)}"' for token in error.unused_tokens]
        more = f" and {len(tokens) - TOKENS_SHOWN} more" if len(tokens) > TOKENS_SHOWN else ""
        return f"Unexpected argument{'s' * (len(tokens) > 1)}: {', '.join(tokens[:TOKENS_SHOWN])}{more}."
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        return f"{name} needs a value." if name.startswith("-") else f"{name} is missing."
    if isinstance(error, CoercionError) and error.token is not None and error.token.keyword is not None:
        kinds: dict[object, str] = {float: "a number", int: "a whole number", bool: "no value"}
        kinds[int | None] = "a whole number"
        wanted = kinds.get(error.target_type)
        if wanted is not None:
            return f'{error.token.keyword} takes {wanted}, not "{short(clean(error.token.value), 60)}".'
    text = short(clean(str(error)), 500)
    if isinstance(error, UnknownCommandError):
        return text.partition(" Available commands:")[0]  # a list that ends in "..."; the help has all of it
    if isinstance(error, UnknownOptionError):
        unknown, asks, meant = text.partition(" Did you mean --")
        return text if not asks or _is_like(error, meant.rstrip("?")) else unknown
    return text


def _is_like(error: UnknownOptionError, option: str) -> bool:
    """Return True if this option may have been meant; cyclopts also counts the dashes, which all options share."""
    word = (error.token.keyword or error.token.value).lstrip("-").partition("=")[0]
    return bool(difflib.get_close_matches(word, [option]))


def _shown_default(default: object) -> str | None:
    """Return a default as the help shows it: None if there is nothing to show."""
    return None if default is False or default in ((), None, "") else f"{default}"


def _as_help(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with ``help COMMAND`` written out as ``COMMAND --help``."""
    words = list(arguments)
    if words[:1] != ["help"]:
        return words
    return [*words[1:], "--help"] if not words[1:] or words[1] in MANUALS else words[1:]


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status. It never raises because of what the command does."""
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="backslashreplace")  # an order's name must not be an error on an old terminal
    call = Call(arguments)
    with call.guarded():
        call.status = call.app.meta(_as_help(arguments)) or 0
    why = _flush(sys.stdout)
    if why is not None and not isinstance(why, BrokenPipeError):  # otherwise its reader has stopped reading
        call.status = call.status or Status.LEFT
        _say_full(why)
    _flush(sys.stderr)  # if it is closed or full, that does not change the status
    return int(call.status)


async def run_async(arguments: Sequence[str]) -> int:
    """Do the same as :func:`run` from within a trio program: for tests."""
    call = Call(arguments)
    with call.guarded():
        call.status = await call.app.meta.run_async(_as_help(arguments)) or 0
    return int(call.status)


def _say_full(why: Exception) -> None:
    say(f"stdout cannot be written ({why_of(why)})")


def _flush(file: TextIO | None) -> Exception | None:
    """Write what Python has buffered for a file. If that fails, drop it and return why."""
    if file is None or file.closed:
        return None
    try:
        file.flush()
    except (OSError, ValueError) as error:
        _forget(file)
        return error
    return None


def _forget(file: TextIO) -> None:
    """Point a file to nowhere. Otherwise Python would try again at exit, and exit with its own status."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())
