"""The report of many outcomes, records of input items that named no order, and the exceptions that carry a report."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from trio_cancel._values.errors import InvalidRequest, JournalError, TradingError
from trio_cancel._values.kept import Outcomes, counts_of, is_final, left_of, outcomes_of, partly_filled_of
from trio_cancel._values.outcomes import Canceled, NotSurelyThisOrder, Outcome, Unknown
from trio_cancel._values.pickling import Anything, identity


@attrs.frozen
class InvalidItem:
    """An item of a bulk cancel's input that names no order, recorded because of ``invalid="report"``.

    Attributes:
        index: its place in the input, from 0.
        item: the item itself.
        error: why it names no order.
    """

    index: int
    item: object
    error: InvalidRequest = attrs.field(eq=identity)

    def __str__(self) -> str:
        return str(self.error)

    def __reduce__(self) -> tuple[Any, ...]:
        item = self.item if isinstance(self.item, str) else Anything(self.item)
        return InvalidItem, (self.index, item, self.error)

    def __copy__(self) -> InvalidItem:
        return self


@attrs.frozen
class CancelReport:
    """One outcome for every order of a bulk cancel, and a record for every item that named none.

    Attributes:
        outcomes: in the order of the input; an order that appeared twice has an equal outcome in both places. It can be
            used as a tuple; any iterable of outcomes that is passed here becomes such a sequence.
        invalid: the items that name no order, in the order of the input; empty unless ``invalid="report"`` was passed.
            ``len(outcomes) + len(invalid)`` is the length of the input.
        journal_failed: True if there is a journal and it could not record everything.
    """

    outcomes: Outcomes = attrs.field(converter=outcomes_of)
    journal_failed: bool = attrs.field(default=False, kw_only=True)
    invalid: tuple[InvalidItem, ...] = attrs.field(default=(), kw_only=True)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many outcomes of each kind there are: ``{"canceled": 998, …}``, all six kinds, zeros included."""
        return MappingProxyType(counts_of(self.outcomes))

    @property
    def left(self) -> tuple[Outcome, ...]:
        """The outcomes whose orders may still be on the book."""
        return left_of(self.outcomes)

    @property
    def partly_filled(self) -> tuple[Canceled, ...]:
        """The canceled orders that were partly executed before, as far as the venue says so."""
        return partly_filled_of(self.outcomes)

    @property
    def final(self) -> bool:
        """True if no outcome can change any more."""
        return is_final(self.outcomes)

    def raise_for_left(self) -> None:
        """Raise :class:`OrdersLeft` if an order may still be on the book, or an item of the input named none."""
        left = self.left
        if left or self.invalid:
            parts = [describe_left(left)] if left else []
            parts += [describe_invalid(self.invalid)] if self.invalid else []
            raise OrdersLeft(" ".join(parts), report=self)

    def __len__(self) -> int:
        return len(self.outcomes)


def describe_invalid(invalid: tuple[InvalidItem, ...], most: int = 3) -> str:
    """Return one sentence about the items in ``invalid`` (naming at most ``most`` of them)."""
    many = len(invalid) != 1
    first = "; ".join(str(item).rstrip(".") for item in invalid[:most])
    more = f"; and {len(invalid) - most} more" if len(invalid) > most else ""
    return f"{len(invalid)} item{'s' if many else ''} of the input name{'' if many else 's'} no order: {first}{more}."


def describe_left(left: tuple[Outcome, ...], most: int = 10) -> str:
    """Return one sentence that names the orders in ``left`` (at most ``most`` of them)."""
    names = ", ".join(f"{outcome.request.key} ({_state(outcome)})" for outcome in left[:most])
    more = f" and {len(left) - most} more" if len(left) > most else ""
    return f"{len(left)} order{'s' if len(left) > 1 else ''} may still be on the book: {names}{more}."


def _state(outcome: Outcome) -> str:
    if isinstance(outcome, Unknown) and isinstance(outcome.cause, NotSurelyThisOrder):
        return f"{outcome.kind}: closed, but not surely this order"
    return outcome.kind


class OrdersLeft(TradingError):
    """Some orders may still be on the book.

    Attributes:
        report: every outcome; ``report.left`` are those that may still be on the book.
    """

    def __init__(self, text: str, *, report: CancelReport) -> None:
        super().__init__(text)
        self.report = report


class TakenOver(JournalError):
    """Another session, or a guard, has taken over this session's journal, for good.

    This session's lease had run out: its machine or its database could not be reached, or its process was stopped. What
    it held is now for the other one to cancel, which may have happened already. Open a new session.

    Attributes:
        report: what happened to the orders of the scope that raised it; None if no scope raised it.
    """

    def __init__(self, text: str, *, report: CancelReport | None = None) -> None:
        super().__init__(text)
        self.report = report
