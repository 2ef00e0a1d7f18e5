"""How exceptions get into another process and back: with their fields, their notes and their causes.

Python's own way calls the class with ``args`` again, which fails if a constructor takes keywords, and loses
``__cause__``. A foreign cause may hold a socket or a lock, or be of a class that the other process does not have; then
a :class:`ForeignCause` takes its place. Tracebacks and ``__context__`` stay behind, as with any exception.
"""

from __future__ import annotations

import pickle
from typing import Any, Self, TypeVar

_E = TypeVar("_E", bound=BaseException)


class ForeignCause(Exception):
    """Takes the place of a cause that could not be pickled, or could not be read again.

    Attributes:
        type_name: the name of its class, with its module unless that is ``builtins``.
        text: its text.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class Picklable(BaseException):
    """An exception that survives pickle and copy completely, whatever its constructor takes and whatever caused it."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "fields": self.__dict__,
            "cause": portable(self.__cause__),
            "suppress": self.__suppress_context__,
        }
        return _blank, (type(self), self.args), state

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        assert state is not None
        self.__dict__.update(state["fields"])
        # (Set by name: assignments here would declare the attributes again to a type checker.)
        object.__setattr__(self, "__cause__", state["cause"])
        object.__setattr__(self, "__suppress_context__", state["suppress"])

    def __copy__(self) -> Self:
        twin = _blank(type(self), self.args)
        twin.__dict__.update(self.__dict__)
        if (notes := getattr(self, "__notes__", None)) is not None:
            twin.__notes__ = list(notes)
        twin.__cause__, twin.__context__ = self.__cause__, self.__context__
        twin.__suppress_context__ = self.__suppress_context__
        return twin.with_traceback(self.__traceback__)


def portable(error: BaseException | None) -> object:
    """Return an object that pickle and deepcopy turn into ``error`` again, or into the closest possible."""
    return error if error is None or isinstance(error, Picklable) else _Foreign(error, ())


def identity(error: BaseException | None) -> tuple[str, str] | None:
    """Return what two causes are compared by: class and text. A stand-in equals what it stands for."""
    if error is None:
        return None
    if isinstance(error, ForeignCause):
        return error.type_name, error.text
    return _name(error), _text(error)


class Anything:
    """A wrapper around a user's value. Reading it gives the value again, or a text that shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (_dumped(self._value), _shown(self._value))


def _dumped(value: object) -> bytes | None:
    try:
        return pickle.dumps(value)
    except Exception:  # any class may refuse in its own way
        return None


def _loaded(pickled: bytes | None, otherwise: object) -> object:
    try:
        return otherwise if pickled is None else pickle.loads(pickled)  # noqa: S301 - a part of the pickle that is read
    except Exception:  # its class is missing here, or it cannot be made again
        return otherwise


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # its class cannot make a repr; its name is kept
        return object.__repr__(value)


class _Foreign:
    """A wrapper around a foreign exception. Reading it gives an exception again."""

    __slots__ = ("_above", "_error")

    def __init__(self, error: BaseException, above: tuple[BaseException, ...]) -> None:
        self._error = error
        self._above = (*above, error)  # a chain of causes may be a ring

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        notes = tuple(getattr(error, "__notes__", ()))
        parts: tuple[object, ...] = ()
        pickled: bytes | None = None
        if isinstance(error, BaseExceptionGroup):
            parts = tuple(self._next(part) for part in error.exceptions)
            text = error.message
        else:
            text, pickled = _text(error), _dumped(error)
        facts = (pickled, _name(error), text, notes, parts, self._next(error.__cause__), error.__suppress_context__)
        return _arrive, facts

    def _next(self, error: BaseException | None) -> object:
        if error is None or isinstance(error, Picklable):
            return error
        return None if any(error is one for one in self._above) else _Foreign(error, self._above)


def _blank(cls: type[_E], args: tuple[object, ...]) -> _E:
    return cls.__new__(cls, *args)  # sets args, and skips the constructor, which may want something else


def _arrive(
    pickled: bytes | None,
    type_name: str,
    text: str,
    notes: tuple[str, ...],
    parts: tuple[BaseException | None, ...],
    cause: BaseException | None,
    suppress: bool,
) -> BaseException:
    inner = [part for part in parts if part is not None]
    found = BaseExceptionGroup(text, inner) if inner else _loaded(pickled, None)
    error = found if isinstance(found, BaseException) else ForeignCause(type_name, text)
    for note in notes if not getattr(error, "__notes__", None) else ():
        error.add_note(note)
    error.__cause__ = cause
    error.__suppress_context__ = suppress
    return error


def _name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its text cannot be made; its name is kept
        return ""
