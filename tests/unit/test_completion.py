"""What completion offers on public objects: documented members, and nothing that is ours alone."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from enum import Enum

import attrs
import pytest
from trio.testing import MockClock

from tests.tools.venues import open_venue
from trio_cancel import Observer, Pacer

FACES = ("trio_cancel", "trio_cancel.types", "trio_cancel.journal", "trio_cancel.lookup", "trio_cancel.sandbox")


def shown(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def classes() -> list[type]:
    found = []
    for face in FACES:
        module = importlib.import_module(face)
        for name in getattr(module, "__all__", None) or sorted(shown(module)):
            thing = getattr(module, name)
            if isinstance(thing, type):
                found.append(thing)
    return found


def named_in_docstrings(cls: type) -> set[str]:
    """The attributes and arguments that the docstrings of a class and of its bases list."""
    text = "\n".join(base.__doc__ or "" for base in cls.__mro__)
    return set(re.findall(r"^\s+(\w+): ", text, re.MULTILINE)) | set(re.findall(r"``(\w+)``", text))


def undocumented(cls: type, names: set[str]) -> Iterator[str]:
    """What completion shows, and neither its own docstring nor that of its class describes.

    The fields of a value are what it is there for: its class describes those that do not speak for themselves.
    """
    fields = (
        {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set(getattr(cls, "__struct_fields__", ()))
    )
    foreign: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("trio_cancel"):
            foreign |= shown(base)
    named = named_in_docstrings(cls)
    for name in sorted(names - foreign - fields):
        member = inspect.getattr_static(cls, name, None)
        own = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
        if not (own and inspect.getdoc(getattr(cls, name))) and name not in named:
            yield name


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_class_shows_what_is_documented(cls: type) -> None:
    if not issubclass(cls, Enum):  # whose members are its words
        assert not list(undocumented(cls, shown(cls)))


BEHIND: dict[str, set[str]] = {
    "TradingWS": {
        "batch", "cancel", "cancel_many", "cancel_open", "clock", "dismiss", "failure", "guarded", "journal_failed",
        "lease", "left_behind", "look_up", "open_cancel_stream", "open_order_scope", "ping", "resume", "state",
        "statistics", "try_cancel",
    },
    "OrderScope": {"add", "cancel_all", "discard", "held", "keep", "placed", "report"},
    "CancelStream": {"invalid", "unsettled"},
    "Batch": {"check", "report", "run"},
    "Pacer": {"burst", "rate", "shared"},
    "Observer": {
        "connection_failed", "connection_lost", "connection_opened", "guard_blind", "guard_looked", "guard_took_over",
        "paced", "request_answered", "request_queued", "request_written", "settled_late",
    },
}  # fmt: skip
"""What the objects with much behind them show."""


async def test_an_object_shows_what_is_documented(autojump_clock: MockClock) -> None:
    seen = set()

    def check(thing: object) -> None:
        name = type(thing).__name__
        seen.add(name)
        if name in BEHIND:
            assert shown(thing) == BEHIND[name]
        else:
            assert not list(undocumented(type(thing), shown(thing))), name

    async with open_venue() as venue, venue.open() as ws:
        check(ws)
        check(venue.sandbox)
        check(venue.book)
        check(venue.log)
        check(ws.statistics())
        for thing in (Pacer(1), Observer()):
            check(thing)
        async with ws.open_order_scope() as orders:
            check(orders)
        ids = venue.orders(3)
        async with ws.open_cancel_stream([ids[0]]) as stream:
            check(stream)
            outcome = await anext(stream)
        check(outcome)
        check(outcome.attempts[0])
        check(outcome.request)
        check(await ws.cancel(ids[1]))
        async with ws.batch([ids[2], "never seen"]) as batch:
            check(batch)
            for other in [outcome async for outcome in batch]:
                check(other)
        check(batch.report())
        check(next(iter(venue.log)))
    assert seen >= {
        *BEHIND,
        "Sandbox",
        "Statistics",
        "Canceled",
        "NotFound",
        "CancelReport",
        "Attempt",
        "CanceledOrder",
    }
