"""What happens in a run with order scopes and a journal, drawn from its seed (values only).

Venue, network, bulk and single cancels are those of ``scenario.py``; what is new are traders that add, place and
discard orders within scopes, a disk that is slow or fails, and a process that dies.
"""

from __future__ import annotations

import random
from enum import StrEnum

import attrs

from .scenario import NO_FAULTS, Exit, ExitKind, OrderPlan, OrderState, Scenario, _ops, draw
from .stream import NetFault

FIRST_SEED = 1_000_000
"""What is added to a seed for the scenario of venue and network, so that it is not one of the other kind of run."""
TRAVEL_MOST, DELAY_MOST = 4.0, 4.0
"""Seconds: together well within the 10 s that the venue may take for a create."""


class Then(StrEnum):
    """What a trader does with an order in the end."""

    KEEP = "keep"
    CANCEL = "cancel"
    FILL = "fill"  # the venue executes it, the trader discards it
    DISCARD = "discard"  # it is to stay


@attrs.frozen
class Trade:
    """One order of a trader.

    Args:
        order: its index.
        scope: the index of the scope.
        at: seconds from the scope's beginning.
        by_id: it is held by the venue's id, which is known once it is placed; else by the external id, before.
        pause: seconds between the add and the create.
        travel: seconds that the create is on its way.
        delay: seconds that the venue then takes.
        placed: the scope is told that the venue has it.
        life: seconds until ``then``.
        then: what becomes of it.
        again: it is added a second time before it is placed.
        old: how an older order with its external id stands when the run begins; None if there is none.
        sweep: seconds after the add at which somebody cancels by its external id; None for never.
        with_id: the scope is told the venue's id with ``placed``.
    """

    order: int
    scope: int
    at: float
    by_id: bool
    pause: float
    travel: float
    delay: float
    placed: bool
    life: float
    then: Then
    again: bool
    old: OrderState | None = None
    sweep: float | None = None
    with_id: bool = False


class Leave(StrEnum):
    """How the block of a scope is left."""

    END = "end"
    RAISED = "raised"
    CANCELLED = "cancelled"


@attrs.frozen
class ScopePlan:
    """One scope.

    Args:
        parent: the scope in whose block it is opened; None for the session's.
        start: seconds from the beginning of that block.
        leave: how.
        at: seconds from its beginning until then, unless its traders are done before (``END`` waits for them).
        step: in place of that, task steps.
    """

    parent: int | None
    start: float
    grace: float
    settle: float
    leave: Leave
    at: float
    step: int | None = None


@attrs.frozen
class DiskPlan:
    """What the journal is on.

    Args:
        seconds: what a transaction takes, at least and at most.
        stalls: from when to when it hangs.
        failures: from when to when every transaction fails.
        chance: that any other one does.
    """

    seconds: tuple[float, float] = (0.0, 0.0)
    stalls: tuple[tuple[float, float], ...] = ()
    failures: tuple[tuple[float, float], ...] = ()
    chance: float = 0.0


@attrs.frozen
class ScopeScenario:
    """One run.

    Args:
        base: venue, network, callers that cancel beside the scopes, and how the session ends.
        inside: the scopes are opened in the session's block, else in tasks beside it, which may outlive it.
        death: seconds until the process dies; None if it does not, or by ``death_step``.
        death_step: in place of that, task steps.
        restart: seconds until its successor resumes.
        healed: the faults are over by then.
        death_again: seconds until that one dies, too; None if it does not.
        quiet: there are no faults but those of the disk.
    """

    base: Scenario
    scopes: tuple[ScopePlan, ...]
    trades: tuple[Trade, ...]
    disk: DiskPlan
    inside: bool
    death: float | None
    death_step: int | None
    restart: float
    healed: bool
    death_again: float | None
    quiet: bool


def draw_scopes(seed: int) -> ScopeScenario:
    """Return the scenario of a seed."""
    base, rng = draw(FIRST_SEED + seed), random.Random(f"scopes {seed}")
    standing = base.orders[: rng.choice((0, 1, 4))]
    placed = tuple(
        OrderPlan(f"PLACED-{index}", f"placed-{index}", OrderState.MISSING)
        for index in range(rng.choice((1, 2, 3, 5, 8)))
    )
    orders = standing + placed
    roads, upgrades = list(base.roads), base.upgrades
    if roads[0].fault in (NetFault.REFUSED, NetFault.HANGS, NetFault.CERTIFICATE):
        roads[0] = attrs.evolve(roads[0], fault=None)  # else nothing would happen
    if upgrades and upgrades[0] is not None and rng.random() < 0.8:
        upgrades = (None, *upgrades)
    base = attrs.evolve(
        base,
        seed=seed,
        orders=orders,
        ops=_ops(rng, orders) if rng.random() < 0.7 else (),
        fills=(),
        reuses=(),
        scripted=(),
        roads=tuple(roads),
        upgrades=upgrades,
        end=_exit(rng),
    )
    quiet = rng.random() < 0.3
    if quiet:
        base = attrs.evolve(base, faults=NO_FAULTS, roads=(), upgrades=(), crossed=0.0, daily_limit=None)
    more = random.Random(f"silence of scopes {seed}")  # of its own, so that the rest of a seed is what it was
    kind, begin, lasts = (
        more.random(),
        more.choice((0.0, more.uniform(0, 8))),
        more.choice((400.0, more.uniform(1, 40))),
    )
    span = None if quiet else (round(begin, 3), round(begin + lasts, 3))
    base = attrs.evolve(base, silent=span if kind < 0.06 else None, flapping=span if 0.06 <= kind < 0.12 else None)
    scopes = _scopes(rng)
    mark = rng.random()
    return ScopeScenario(
        base,
        scopes,
        tuple(_reused(seed, _trade(rng, index, len(scopes))) for index in range(len(standing), len(orders))),
        _disk(rng),
        inside=rng.random() < 0.6,
        death=_moment(rng) if mark < 0.4 else None,
        death_step=rng.randrange(rng.choice((150, 500))) if 0.4 <= mark < 0.6 else None,
        restart=rng.choice((0.0, 0.0, 0.5, 20.0)),
        healed=rng.random() < 0.7,
        death_again=round(rng.choice((rng.uniform(0, 0.3), rng.uniform(0, 12))), 4) if rng.random() < 0.3 else None,
        quiet=quiet,
    )


def _exit(rng: random.Random) -> Exit:
    if rng.random() < 0.7:
        return Exit()
    return Exit(rng.choice((ExitKind.LEFT, ExitKind.RAISED, ExitKind.CANCELLED)), round(rng.uniform(0, 8), 3))


def _moment(rng: random.Random) -> float:
    return round(rng.choice((rng.uniform(0, 1), rng.uniform(0, 6), rng.uniform(0, 20))), 4)


def _scopes(rng: random.Random) -> tuple[ScopePlan, ...]:
    return tuple(
        ScopePlan(
            parent=rng.randrange(index) if index and rng.random() < 0.6 else None,
            start=round(rng.choice((0.0, rng.uniform(0, 2))), 3),
            grace=rng.choice((30.0, 30.0, 10.0, 2.0)),
            settle=rng.choice((10.0, 10.0, 1.0)),
            leave=rng.choice(tuple(Leave)),
            at=_moment(rng),
            step=rng.randrange(600) if rng.random() < 0.2 else None,
        )
        for index in range(rng.choice((1, 1, 2, 3)))
    )


def _trade(rng: random.Random, order: int, scopes: int) -> Trade:
    return Trade(
        order,
        rng.randrange(scopes),
        at=round(rng.choice((0.0, rng.uniform(0, 1), rng.uniform(0, 4))), 3),
        by_id=rng.random() < 0.25,
        pause=round(rng.choice((0.0, 0.0, rng.uniform(0, 0.5))), 3),
        travel=round(rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, TRAVEL_MOST))), 3),
        delay=round(rng.choice((0.0, 0.0, rng.uniform(0.01, DELAY_MOST))), 3),
        placed=rng.random() < 0.6,
        life=round(rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0, 6))), 3),
        then=rng.choice(tuple(Then)),
        again=rng.random() < 0.15,
    )


def _reused(seed: int, trade: Trade) -> Trade:
    rng = random.Random(f"reused {seed} {trade.order}")  # of its own, so that it changes nothing else
    trade = attrs.evolve(trade, with_id=rng.random() < 0.5)
    if trade.by_id or rng.random() < 0.6:
        return trade
    return attrs.evolve(
        trade,
        at=trade.at + 0.05,  # the old order is there before
        old=rng.choice((OrderState.OPEN, OrderState.FILLED, OrderState.CANCELED)),
        sweep=round(rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 6))), 3) if rng.random() < 0.8 else None,
    )


def _disk(rng: random.Random) -> DiskPlan:
    def spans(most: float) -> tuple[tuple[float, float], ...]:
        begin = round(rng.uniform(0, 6), 3)
        return ((begin, round(begin + rng.uniform(0, most), 3)),)

    return DiskPlan(
        seconds=rng.choice(((0.0, 0.0), (0.0005, 0.01), (0.0, 0.3), (0.5, 1.5))),
        stalls=spans(rng.choice((8.0, 60.0, 60.0))) if rng.random() < 0.15 else (),
        failures=spans(5.0) if rng.random() < 0.2 else (),
        chance=rng.choice((0.05, 0.3)) if rng.random() < 0.15 else 0.0,
    )
