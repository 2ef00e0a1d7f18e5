"""Which open orders to cancel when the ids are lost, and what happened to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from trio_cancel._values.errors import ConfigurationError, LookupFailed
from trio_cancel._values.kept import Outcomes
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.pickling import identity
from trio_cancel._values.report import CancelReport

SIDES = ("buy", "sell")


@attrs.frozen
class OpenFilter:
    """Which open orders are meant: those of a market, of a side, or of both; without either, all of them.

    Attributes:
        pair: those of this market; None for all markets.
        side: ``buy`` or ``sell``; None for both.
    """

    pair: str | None = None
    side: Literal["buy", "sell"] | None = None

    @staticmethod
    def of(pair: object, side: object, everything: object) -> OpenFilter:
        """Return the filter that a caller named; raise ConfigurationError if that is nothing, or contradicts itself."""
        if not isinstance(everything, bool):
            raise ConfigurationError(f"everything must be True or False, not {everything!r}.")
        if pair is not None and (not isinstance(pair, str) or not pair.strip()):
            raise ConfigurationError(f"pair must be the name of a market such as 'BTC_BRL', not {pair!r}.")
        if side is not None and side not in SIDES:
            raise ConfigurationError(f"side must be 'buy' or 'sell', not {side!r}.")
        if everything and (pair is not None or side is not None):
            raise ConfigurationError("everything=True means all markets and both sides: give it without pair and side.")
        if not everything and pair is None and side is None:
            raise ConfigurationError("Say which open orders to cancel: give pair, side or both, or everything=True.")
        return OpenFilter(pair, "buy" if side == "buy" else "sell" if side == "sell" else None)

    def matches(self, order: OrderState) -> bool | None:
        """Return whether an order is meant; None if too little is known of it.

        Markets are compared without regard to case, with ``-`` and ``/`` read as ``_``.
        """
        answers = [
            None if known is None or known == "" else _plain(known) == _plain(wanted)
            for wanted, known in ((self.pair, order.pair), (self.side, order.side))
            if wanted is not None
        ]
        return False if False in answers else None if None in answers else True

    def __str__(self) -> str:
        side = "" if self.side is None else f"{self.side} "
        return f"{side}orders {'on all markets' if self.pair is None else f'of {self.pair}'}"


def _plain(word: str) -> str:
    return word.strip().casefold().replace("-", "_").replace("/", "_")


@attrs.frozen(kw_only=True)
class OpenReport:
    """What a cancel of the open orders found and did.

    It never says that the book is empty, because nobody can know: the venue's list may lag, and an order's create may
    still be on its way. ``none_seen_since`` is as much as can be known.

    Attributes:
        orders: every order that was meant and listed, as it was first seen, in this order.
        cancels: one outcome for each of ``orders``; empty after a dry run.
        none_seen_since: Unix seconds (UTC) since which every list was complete and showed no such order that
            might still have been on the book; None if the last list showed one, or was not complete.
        failure: why the last list was not complete, or why it ended without the quiet period; None if all is well.
        outside: how many open orders the last list showed that were not meant; they were left alone.
    """

    orders: tuple[OrderState, ...]
    cancels: CancelReport
    none_seen_since: float | None = None
    failure: LookupFailed | None = attrs.field(default=None, eq=identity)
    outside: int = 0

    @property
    def outcomes(self) -> Outcomes:
        """One outcome for each of ``orders``."""
        return self.cancels.outcomes

    @property
    def counts(self) -> Mapping[str, int]:
        """How many outcomes of each kind there are, zeros included."""
        return self.cancels.counts

    @property
    def left(self) -> tuple[Outcome, ...]:
        """The outcomes whose orders may still be on the book."""
        return self.cancels.left

    def raise_for_left(self) -> None:
        """Raise :class:`OrdersLeft` if an order may still be on the book, or ``failure`` if there is one."""
        self.cancels.raise_for_left()
        if self.failure is not None:
            raise self.failure
