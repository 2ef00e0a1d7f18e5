"""``python -m tests.soak --minutes 30 --seed 1``: run, print the table, fail if anything is wrong."""

from __future__ import annotations

import argparse
import logging
import random
import sys

import trio

from .ledger import Ledger
from .meter import HEAD, Process, Sample, growth, left_over, our_objects, row
from .venue import Venue, open_venue
from .work import OPERATIONS, Place, desk, visits

DESKS = 6
CALLERS = 2
"""Long sessions, and tasks in each that cancel single orders."""
WARM_UP = 5.0
"""Minutes until memory is expected to be steady."""
AFTER = 60
"""Seconds at the end in which the venue's process may let go of what it holds."""


class Alarm(logging.Handler):
    """Takes what the library logs: errors are counted, a traceback is a violation."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.ERROR)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        self._ledger.counts[f"logged {record.msg!r}"] += 1
        if record.exc_info:
            self._ledger.wrong(self.format(record))


async def sample(began: float, venue: Venue, ledger: Ledger) -> Sample:
    """Look at everything."""
    figures = await venue.figures()
    return Sample(
        minute=(trio.current_time() - began) / 60,
        client=Process.now(),
        venue=Process(**figures["process"]),
        sessions=len(ledger.sessions),
        pending=ledger.pending(),
        objects=our_objects(),
        outcomes=ledger.outcomes.total(),
        connections=ledger.counts["connections"],
        faults=sum(figures["faults"].values()),
    )


async def warm_up(venue: Venue, seed: int) -> None:
    """Do everything once, so that what is loaded and cached once is there."""
    ledger = Ledger(venue)
    place = Place(venue, ledger, random.Random(seed), trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.check)
        async with place.open() as ws:
            for operation in OPERATIONS:
                await operation(place, ws)
        ledger.refused_for_good()


async def measure(began: float, every: float, venue: Venue, ledger: Ledger, samples: list[Sample]) -> None:
    """Take a sample now and then, and print it."""
    for number in range(1, 100_000):
        await trio.sleep_until(began + number * every)
        samples.append(await sample(began, venue, ledger))
        print(row(samples[-1], samples[-2]), flush=True)


async def at_rest(venue: Venue) -> None:
    """Wait until the venue has let go of every connection."""
    for _ in range(AFTER):
        if not (await venue.figures())["connections"]:
            return
        await trio.sleep(1)


async def soak(minutes: float, seed: int, chance: float, every: float) -> bool:
    """Run; return True if all is well."""
    async with open_venue(seed, chance) as venue:
        await warm_up(venue, seed)
        await at_rest(venue)
        ledger = Ledger(venue)
        alarm = Alarm(ledger)
        logging.getLogger("trio_cancel").addHandler(alarm)
        place = Place(venue, ledger, random.Random(seed), trio.Event())
        began = trio.current_time()
        samples = [await sample(began, venue, ledger)]
        print(HEAD, row(samples[0], samples[0]), sep="\n", flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.check)
            nursery.start_soon(measure, began, every, venue, ledger, samples)
            async with trio.open_nursery() as working:
                working.start_soon(visits, place)
                for _ in range(DESKS):
                    working.start_soon(desk, place, CALLERS)
                await trio.sleep_until(began + 60 * minutes)
                place.over.set()
            ledger.refused_for_good()
            await at_rest(venue)
            nursery.cancel_scope.cancel()
        logging.getLogger("trio_cancel").removeHandler(alarm)
        end = await sample(began, venue, ledger)
        print(row(end, samples[-1]), flush=True)
        faults = (await venue.figures())["faults"]
    steady, flat = growth(samples, WARM_UP)
    found = left_over(samples[0], end) + ([] if flat else [f"not flat: {steady}"])
    print(f"\n{steady}")
    for name, counts in (("outcomes", ledger.outcomes), ("counts", ledger.counts), ("faults", faults)):
        print(f"{name}: " + ", ".join(f"{key} {counts[key]}" for key in sorted(counts)))
    print(f"checked: {ledger.checked} outcomes, {ledger.counts['violations']} violations")
    print(*ledger.violations, *found, sep="\n")
    print("all is well" if not found and not ledger.violations else "NOT well")
    return not found and not ledger.violations


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chance", type=float, default=0.0002, help="of each fault that can hit a request")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two samples")
    options = parser.parse_args()
    return 0 if trio.run(soak, options.minutes, options.seed, options.chance, options.every) else 1


if __name__ == "__main__":
    sys.exit(main())
