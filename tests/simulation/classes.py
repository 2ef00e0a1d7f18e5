"""The classes of faults that both simulations know, and how often each happened; what nobody knows in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import attrs

from .stream import NetFault

CLASSES: dict[str, tuple[str, ...]] = {
    "flapping venue": ("venue_flapping",),
    "silent venue": ("venue_silent",),
    "external id used again, and swept": ("reused_id_with_sweep",),
    "dial that raises": (NetFault.ODD_RAISES,),
    "dial that returns no stream": (NetFault.ODD_RETURNS,),
    "dial that returns a closed stream": (NetFault.ODD_CLOSED,),
    "Retry-After out of range": (NetFault.ODD_RETRY,),
    "stream whose send_all raises": (NetFault.ODD_SEND,),
    "stream whose receive_some raises": (NetFault.ODD_RECEIVE,),
    "observer that raises": ("observer_raised",),
    "log handler that raises": ("handler_raised",),
    "lookup that lags by more than 15 s": ("lookup_lags_long",),
    "lookup that fails": ("lookup_fails", "lookup_raises"),
    "lookup that hangs": ("lookup_hangs",),
    "lookup that finds nothing": ("lookup_finds_nothing",),
    "lookup that says pending": ("lookup_says_pending_creation",),
}
DONT_KNOW = ("unknown", "not_found")


@attrs.define
class Tally:
    """Counts classes of faults, and outcomes in the seeds that have a lookup."""

    seeds: Counter[str] = attrs.field(factory=Counter)
    times: Counter[str] = attrs.field(factory=Counter)
    looked_up: int = 0
    outcomes: Counter[str] = attrs.field(factory=Counter)

    def add(self, faults: Counter[str], outcomes: Counter[str], *, looks: bool) -> None:
        """Count one seed; ``looks`` says whether its scenario has a lookup (also if it runs without)."""
        for name, parts in CLASSES.items():
            times = sum(faults[part] for part in parts)
            self.times[name] += times
            self.seeds[name] += times > 0
        if looks:
            self.looked_up += 1
            self.outcomes += outcomes

    def lines(self, *, without: bool) -> Iterator[str]:
        """Yield it as Markdown."""
        yield from ("", "| class of faults | in seeds | times |", "|---|---:|---:|")
        yield from (f"| {name} | {self.seeds[name]} | {self.times[name]} |" for name in CLASSES)
        unknown, total = sum(self.outcomes[kind] for kind in DONT_KNOW), self.outcomes.total()
        share = f"{100 * unknown / (total or 1):.2f} %"
        how = "without their lookups" if without else "with lookups"
        yield from ("", f"In {self.looked_up} seeds {how} {unknown} of {total} outcomes are a don't know: {share}.")
