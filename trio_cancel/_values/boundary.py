"""Error boundaries, drawn around a task and not by class: whatever is raised inside one ends there.

There are two exceptions to this. A cancellation goes on to the scope that asked for it. KeyboardInterrupt and
SystemExit ask for the end of the program: the owner of the boundary passes them on (``Session.hand_on``), so that they
end the block in an orderly way, and not just the task in which they were raised.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio


def goes_on(error: BaseException) -> bool:
    """Return True for what no boundary may stop: a cancellation, or the end of a coroutine; also within a group."""
    if isinstance(error, BaseExceptionGroup):
        return any(goes_on(each) for each in error.exceptions)
    return isinstance(error, trio.Cancelled | GeneratorExit)


def goes_on_from_call(error: BaseException) -> bool:
    """Return True for what goes on although a plain call raised it: a cancellation, but no GeneratorExit."""
    if isinstance(error, BaseExceptionGroup):
        return any(goes_on_from_call(each) for each in error.exceptions)
    return isinstance(error, trio.Cancelled)


def ends_program(error: BaseException | None) -> BaseException | None:
    """Return the KeyboardInterrupt or SystemExit in ``error``, which may be a group or caused by one; or None."""
    for _ in range(8):  # causes may form a circle
        if error is None:
            break
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        if isinstance(error, BaseExceptionGroup):
            return next((found for each in error.exceptions if (found := ends_program(each)) is not None), None)
        error = error.__cause__
    return None


def describe(error: BaseException) -> str:
    """Return an exception in a few words: its text if it has any, after its class's name if the class is not ours."""
    try:
        text = str(error)
    except BaseException as broken:  # noqa: ASYNC103 - an exception of somebody else's that cannot even be printed
        if goes_on(broken) or ends_program(broken):
            raise
        text = ""
    name = type(error).__name__
    if not text:
        return name
    if isinstance(error, OSError) and text.startswith("[Errno "):
        return text.partition("] ")[2] or text
    if isinstance(error, OSError | trio.BrokenResourceError) or type(error).__module__.startswith("trio_cancel."):
        return text
    return f"{name}: {text}"


class Boundary:
    """Stops what is raised in its block and keeps it, without its group if it is alone in it.

    Attributes:
        error: what was raised, or None.
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or goes_on(error):
            return False
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        self.error = error
        return True
