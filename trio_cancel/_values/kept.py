"""How the outcomes of a bulk cancel are kept, so that the garbage collector has almost nothing to visit.

A full collection visits every object that it tracks, and stops everything else meanwhile. So what remains of each order
is something that it does not track: the order's name (a string) and, for nearly every order, a ``msgspec.Struct`` with
``gc=False``. These are in tuples of ``CHUNK``. The collector stops tracking a tuple once it has seen that it contains
nothing tracked. The outcome itself, with its :class:`CancelRequest`, is made when it is read.

An outcome that holds an exception stays as it is: it can be part of a cycle, and each reader should get the same
exception.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeAlias, overload

import attrs
import msgspec

from trio_cancel._values.models import CanceledOrder, CancelRequest, recorded_request
from trio_cancel._values.outcomes import KINDS, Attempt, Canceled, NotSent, Outcome, Unknown

_SHIFT = 10
CHUNK: Final = 1 << _SHIFT
"""Orders whose names, or outcomes, are in one tuple."""
_WITHIN = CHUNK - 1


class ByExternalId(msgspec.Struct, frozen=True, gc=False):
    """The name of an order that is canceled by its external id."""

    external_id: str


Name: TypeAlias = str | ByExternalId | CancelRequest
"""What is kept of a request: the venue's id, the external id, or the request if it is of a user's subclass."""


def name_of(request: CancelRequest) -> Name:
    """Return what is kept of a request."""
    if request.__class__ is not CancelRequest:
        return request
    return request.id if request.id is not None else ByExternalId(request.key)


def request_of(name: Name) -> CancelRequest:
    """Return the request that ``name`` was made from, or an equal one. It has been checked before."""
    if isinstance(name, str):
        return recorded_request(name, None)
    return recorded_request(None, name.external_id) if isinstance(name, ByExternalId) else name


class _Plain(msgspec.Struct, frozen=True, gc=False):
    """What is kept of nearly every outcome: canceled by the only attempt, with nothing else to report."""

    order: CanceledOrder
    request_id: str
    written_at: float | None
    answered_at: float | None


_Kept: TypeAlias = _Plain | Outcome | None
"""What is kept of an outcome; None if there is none yet."""

_UNNAMED = recorded_request(None, "")
"""Stands for the request in what is kept of an outcome."""


def _keep(outcome: Outcome) -> _Plain | Outcome:
    attempts = outcome.attempts
    if outcome.__class__ is Canceled:
        usual = outcome.error is None and outcome.seen is None and not (outcome.after_unanswered or outcome.unrecorded)
        if usual and len(attempts) == 1 and attempts[0].status == 200:
            only = attempts[0]
            return _Plain(outcome.order, only.request_id, only.written_at, only.answered_at)
    if isinstance(outcome, NotSent | Unknown):
        return outcome
    return msgspec.structs.replace(outcome, request=_UNNAMED)


def _make(kept: _Plain | Outcome, name: Name) -> Outcome:
    if isinstance(kept, _Plain):
        attempt = Attempt(kept.request_id, kept.written_at, kept.answered_at, 200)
        return Canceled(request_of(name), (attempt,), order=kept.order)
    return msgspec.structs.replace(kept, request=request_of(name)) if kept.request is _UNNAMED else kept


@attrs.frozen(eq=False)
class _Chunk:
    """Up to ``CHUNK`` orders."""

    names: tuple[Name, ...]  # empty if `told` has whole outcomes
    told: tuple[_Kept, ...]  # empty if none of them has an outcome yet
    plain: int  # how many of those are plain
    count: int


def _chunk(names: tuple[Name, ...], told: Iterable[_Kept]) -> _Chunk:
    told = tuple(told)
    return _Chunk(names, told, list(map(type, told)).count(_Plain), len(told))


class Repeats:
    """Which items of an input name an order that an earlier item has named; nothing needs to be known of the others.

    Attributes:
        places: the places of the orders that are named again.
    """

    __slots__ = ("_items", "places")

    def __init__(self) -> None:
        self._items = array("q")
        self.places: array[int] = array("q")

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: int, place: int) -> None:
        """Note that an item, the last so far, names the order in ``place``."""
        self._items.append(item)
        self.places.append(place)

    def copy(self) -> Repeats:
        """Return what is known now."""
        twin = Repeats()
        twin._items, twin.places = self._items[:], self.places[:]
        return twin

    def place(self, item: int) -> int:
        """Return the place of the order that an item names."""
        before = bisect_left(self._items, item)
        if before < len(self._items) and self._items[before] == item:
            return self.places[before]
        return item - before

    def in_order(self, count: int) -> Iterator[int]:
        """Return the place of the order that each item names, if there are ``count`` orders."""
        place = 0
        for number, (item, repeated) in enumerate(zip(self._items, self.places, strict=True)):
            yield from range(place, item - number)
            place = item - number
            yield repeated
        yield from range(place, count)


class Outcomes(Sequence[Outcome]):
    """The outcomes of a report, in the order of the input. It can be used as a tuple, and equals a tuple of the same.

    The outcomes of a bulk cancel are made when they are read, so that they take little memory and the garbage
    collector's time does not grow with them. Reading one twice gives equal values.

    Args:
        outcomes: the outcomes that it contains.
    """

    __slots__ = ("_cause", "_chunks", "_count", "_final", "_repeats")

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        rest = iter(outcomes)
        chunks = iter(lambda: tuple(islice(rest, CHUNK)), ())
        self._set(tuple(_chunk((), told) for told in chunks), Repeats(), None, True)

    def _set(self, chunks: tuple[_Chunk, ...], repeats: Repeats, cause: BaseException | None, final: bool) -> None:
        self._chunks = chunks
        self._repeats = repeats
        self._cause = cause  # why the orders without an outcome were not sent, and whether that is final
        self._final = final
        self._count = sum(chunk.count for chunk in chunks)

    def __len__(self) -> int:
        return self._count + len(self._repeats)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Outcome, ...]: ...

    def __getitem__(self, index: int | slice) -> Outcome | tuple[Outcome, ...]:
        if isinstance(index, slice):
            return tuple(self._at(self._repeats.place(item)) for item in range(*index.indices(len(self))))
        item = operator.index(index)
        if item < 0:
            item += len(self)
        if not 0 <= item < len(self):
            raise IndexError("index out of range")
        return self._at(self._repeats.place(item))

    def __iter__(self) -> Iterator[Outcome]:
        return self._pick(lambda _: True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outcomes | tuple):
            return NotImplemented
        if self is other:
            return True
        return len(self) == len(other) and all(a is b or a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Outcomes | tuple[Any, ...]) -> tuple[Any, ...]:
        return (*self, *other) if isinstance(other, Outcomes | tuple) else NotImplemented

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*other, *self) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __copy__(self) -> Outcomes:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcomes, (tuple(self),)

    def _kept(self, place: int) -> _Kept:
        chunk = self._chunks[place >> _SHIFT]
        return chunk.told[place & _WITHIN] if chunk.told else None

    def _at(self, place: int) -> Outcome:
        names = self._chunks[place >> _SHIFT].names
        return self._made(self._kept(place), names[place & _WITHIN] if names else _UNNAMED)

    def _made(self, kept: _Kept, name: Name) -> Outcome:
        return NotSent(request_of(name), cause=self._cause, final=self._final) if kept is None else _make(kept, name)

    def _pick(self, wanted: Callable[[_Kept], object], *, plain: bool = True) -> Iterator[Outcome]:
        """Return the wanted outcomes, judged by what is kept of them; with ``plain=False`` only unusual ones."""
        if self._repeats:
            for place in self._repeats.in_order(self._count):
                if wanted(self._kept(place)):
                    yield self._at(place)
            return
        for chunk in self._chunks:
            if not plain and chunk.plain == chunk.count:
                continue
            told, names = chunk.told or (None,) * chunk.count, chunk.names or (_UNNAMED,) * chunk.count
            for kept, name in zip(told, names, strict=True):
                if wanted(kept):
                    yield self._made(kept, name)

    def _unusual(self) -> Iterator[_Kept]:
        """Return what is kept of each outcome that is not plain, leaving out orders without one."""
        told = (chunk.told for chunk in self._chunks if chunk.plain != chunk.count)
        return (kept for kept in chain.from_iterable(told) if kept.__class__ is not _Plain)


def outcomes_of(outcomes: Iterable[Outcome]) -> Outcomes:
    """Return outcomes as an :class:`Outcomes` sequence."""
    return outcomes if isinstance(outcomes, Outcomes) else Outcomes(outcomes)


def counts_of(outcomes: Outcomes) -> Mapping[str, int]:
    """Return how many outcomes of each kind there are, all six kinds, zeros included."""
    counts: dict[str, int] = dict.fromkeys(KINDS, 0)
    counts[Canceled.kind] += sum(chunk.plain for chunk in outcomes._chunks)
    counts[NotSent.kind] += sum(chunk.count for chunk in outcomes._chunks if not chunk.told)
    for kept in chain(outcomes._unusual(), map(outcomes._kept, outcomes._repeats.places)):
        counts[NotSent.kind if kept is None else Canceled.kind if isinstance(kept, _Plain) else kept.kind] += 1
    return counts


def left_of(outcomes: Outcomes) -> tuple[Outcome, ...]:
    """Return the outcomes whose orders may still be on the book."""
    return tuple(outcomes._pick(_is_left, plain=False))


def _is_left(kept: _Kept) -> bool:
    return kept is None or not (isinstance(kept, _Plain) or kept.off_book)


def partly_filled_of(outcomes: Outcomes) -> tuple[Canceled, ...]:
    """Return the canceled orders that were partly executed before."""
    picked = outcomes._pick(lambda kept: isinstance(kept, _Plain | Canceled) and (kept.order.executed_amount or 0) > 0)
    return tuple(outcome for outcome in picked if isinstance(outcome, Canceled))


def is_final(outcomes: Outcomes) -> bool:
    """Return True if no outcome can change any more."""
    if not outcomes._final and any(not chunk.told for chunk in outcomes._chunks):
        return False
    return all(
        outcomes._final if kept is None else isinstance(kept, _Plain) or kept.final for kept in outcomes._unusual()
    )


class Ledger:
    """What a bulk cancel keeps of its orders while it runs; their names come in tuples of ``CHUNK``."""

    __slots__ = ("_chunks", "_left", "_names")

    def __init__(self, names: Sequence[tuple[Name, ...]]) -> None:
        self._names = tuple(names)
        self._left = [len(some) for some in self._names]  # how many outcomes are missing
        self._chunks: list[_Chunk | list[_Kept]] = [_Chunk(some, (), 0, len(some)) for some in self._names]

    def requests(self, begin: int, most: int) -> list[CancelRequest]:
        """Return some of the requests, starting at a place."""
        found: list[CancelRequest] = []
        while len(found) < most and (at := begin >> _SHIFT) < len(self._names):
            within = begin & _WITHIN
            some = self._names[at][within : within + most - len(found)]
            if not some:
                break
            found += [recorded_request(n, None) if n.__class__ is str else request_of(n) for n in some]
            begin += len(some)
        return found

    def tell(self, place: int, outcome: Outcome) -> None:
        """Keep the outcome of the order in ``place``; each is told once."""
        at = place >> _SHIFT
        told = self._chunks[at]
        if isinstance(told, _Chunk):
            none_yet: list[_Kept] = [None] * told.count
            told = self._chunks[at] = none_yet
        told[place & _WITHIN] = _keep(outcome)
        self._left[at] -= 1
        if not self._left[at]:
            self._chunks[at] = _chunk(self._names[at], told)

    def outcome(self, place: int) -> Outcome | None:
        """Return the outcome of the order in ``place``; None if there is none yet."""
        at, within = place >> _SHIFT, place & _WITHIN
        chunk = self._chunks[at]
        told = chunk.told if isinstance(chunk, _Chunk) else chunk
        kept = told[within] if told else None
        return None if kept is None else _make(kept, self._names[at][within])

    def outcomes(
        self, now: Iterable[tuple[int, Outcome]], repeats: Repeats, cause: BaseException, final: bool
    ) -> Outcomes:
        """Return all outcomes as they are now.

        ``now`` is, by place, what is known about orders under way; ``cause`` is why the rest was not sent.
        """
        copies: dict[int, list[_Kept]] = {}
        for place, outcome in now:
            at = place >> _SHIFT
            if at not in copies:
                before = self._chunks[at]
                copies[at] = [None] * before.count if isinstance(before, _Chunk) else list(before)
            copies[at][place & _WITHIN] = _keep(outcome)
        chunks: list[_Chunk] = []
        for at, (names, told) in enumerate(zip(self._names, self._chunks, strict=True)):
            now_told = copies.get(at, told)
            chunks.append(now_told if isinstance(now_told, _Chunk) else _chunk(names, now_told))
        made = Outcomes()
        made._set(tuple(chunks), repeats.copy(), cause, final)
        return made
