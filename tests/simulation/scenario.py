"""What happens in one run, drawn from its seed (values only)."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Literal

import attrs

from trio_cancel.sandbox import Fault, Faults, Point

from .stream import NetFault, Road

REQUEST_FAULTS = tuple(fault for fault in Fault if fault.point is Point.REQUEST)
UPGRADE_FAULTS = tuple(fault for fault in Fault if fault.point is Point.UPGRADE)
CLOSE_FAULTS = tuple(fault for fault in Fault if fault.point is Point.CLOSE)
NO_FAULTS = Faults()
DIAL_FAULTS = tuple(fault for fault in NetFault if fault.at_dial and not fault.odd)
WIRE_FAULTS = tuple(fault for fault in NetFault if not fault.at_dial and not fault.odd)
ODD_FAULTS = tuple(fault for fault in NetFault if fault.odd)


class OrderState(StrEnum):
    """How an order stands when the run begins."""

    OPEN = "open"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELED = "canceled"
    LATE = "late"  # its creation takes effect later
    MISSING = "missing"


@attrs.frozen
class OrderPlan:
    """One order."""

    id: str
    external_id: str | None = None
    state: OrderState = OrderState.OPEN
    delay: float = 0.0


class Kind(StrEnum):
    """What a caller does."""

    CANCEL = "cancel"
    TRY = "try_cancel"
    BATCH = "batch"
    MANY = "cancel_many"
    STREAM = "stream"


@attrs.frozen
class Op:
    """What one caller does.

    Args:
        kind: which of the library's doors.
        orders: indices of the orders, and whether by external id.
        start: seconds after the connection is open.
        deadline: seconds until its scope is cancelled; None for never.
        step: its scope is cancelled before that task step (of any task) after its start; None for never.
        leave_after: a stream's block is left after so many outcomes.
        pause: seconds that a stream's consumer takes for each outcome.
        trickle: seconds between two items of a stream's input; None for a plain list.
        twice: orders may stand in it more than once; at most one batch of a scenario has that.
    """

    kind: Kind
    orders: tuple[tuple[int, bool], ...]
    start: float = 0.0
    deadline: float | None = None
    step: int | None = None
    leave_after: int | None = None
    pause: float = 0.0
    trickle: float | None = None
    twice: bool = False


@attrs.frozen
class Fill:
    """An execution on the venue's side: all that remains, or a part."""

    at: float
    order: int
    whole: bool


@attrs.frozen
class Reuse:
    """An external id that names a new order from then on; the old one is closed first if it is not."""

    at: float
    order: int


@attrs.frozen
class LookupPlan:
    """What looks orders up.

    Args:
        rest: the shipped client of the venue's REST side, else a callable of the user's.
        lag: seconds by which an answer is behind the book: fixed, or (least, most) drawn for each.
        chance: that a lookup fails, hangs or is answered with rubbish.
        closed_too: orders that are closed are looked up, too.
        limits: a failure may be a 429.
    """

    rest: bool
    lag: float | tuple[float, float]
    chance: float
    closed_too: bool
    limits: bool


class ExitKind(StrEnum):
    """How the session's block ends."""

    DONE = "done"  # after every caller has returned, and a rest
    LEFT = "left"  # while they wait
    RAISED = "raised"  # the body raises while they wait
    CANCELLED = "cancelled"  # a scope around the session is cancelled


@attrs.frozen
class Exit:
    """When and how.

    Args:
        kind: how.
        at: seconds from the beginning of the run.
        step: in place of that, task steps from there.
        rest: seconds that the block goes on after every caller has returned.
        closing_step: the scope around the session is cancelled so many task steps after the block's end.
    """

    kind: ExitKind = ExitKind.DONE
    at: float = 0.0
    step: int | None = None
    rest: float = 0.0
    closing_step: int | None = None


@attrs.frozen
class Scenario:
    """One run."""

    seed: int
    orders: tuple[OrderPlan, ...]
    ops: tuple[Op, ...]
    fills: tuple[Fill, ...] = ()
    reuses: tuple[Reuse, ...] = ()
    end: Exit = Exit()
    # The client
    connect_timeout: float = 10.0
    reply_timeout: float = 12.0
    give_up_after: float = 30.0
    retry: bool = True
    pacer: tuple[float, int] | None = None
    clock_offset: float | None = 0.0
    """None stands for "auto"."""
    # The venue
    rate: float | None = None
    burst: float | None = None
    daily_limit: int | None = None
    delay: float | tuple[float, float] = 0.0
    skew: int = 0
    idle_timeout: float | None = 60.0
    ping_interval: float | None = 30.0
    full_results: bool = False
    dialect: Literal["page", "openapi"] = "page"
    faults: Faults = NO_FAULTS
    scripted: tuple[tuple[int, Fault], ...] = ()
    """Order and fault: hits its first request."""
    upgrades: tuple[Fault | None, ...] = ()
    crossed: float = 0.0
    """Chance that a reply is replaced by one to a request of an earlier connection: a lie that only its connection
    gives away."""
    silent: tuple[float, float] | None = None
    """From when until when nothing is answered, though connections are taken, read and ponged."""
    flapping: tuple[float, float] | None = None
    """From when until when each connection is upgraded and closed at once."""
    # The network
    roads: tuple[Road, ...] = ()
    # The user
    lookup: LookupPlan | None = None
    observer_raises: float = 0.0
    """Chance that a call of the observer raises."""
    handler_raises: float = 0.0
    """Chance that a log handler does."""


def draw(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    return _with_user(_with_silence(_draw(seed), seed), seed)


def _with_user(scenario: Scenario, seed: int) -> Scenario:
    """Add what a user's own code does: lookups, odd dials and streams, observers and log handlers that raise."""
    rng = random.Random(f"user {seed}")  # of its own, so that the rest of a seed is what it was
    lookup = None
    if rng.random() < 0.5:
        lookup = LookupPlan(
            rest=rng.random() < 0.4,
            lag=rng.choice((0.0, 0.0, 2.0, 20.0, (0.0, 30.0))),
            chance=rng.choice((0.0, 0.2, 0.7)),
            closed_too=rng.random() < 0.3,
            limits=rng.random() < 0.2,
        )
        if rng.random() < 0.2:
            scenario = _with_old_name(scenario, rng)
    chances = (0.0, 0.0, 0.0, 0.0, 0.1, 1.0)
    roads = scenario.roads
    if rng.random() < 0.3:
        odd = Road(
            fault=(fault := rng.choice(ODD_FAULTS)),
            upward=fault is NetFault.ODD_SEND,
            at_byte=rng.randrange(300) if rng.random() < 0.1 else rng.randrange(200, 1_200),
            direct=False,
        )
        if fault.at_dial and rng.random() < 0.9:  # it is not the first, so there must be another
            first = roads[0]
            if first.fault is None or first.fault.at_dial:
                loses = rng.choice((NetFault.RESET_LOST, NetFault.RESET_KEPT))
                first = attrs.evolve(first, fault=loses, at_byte=rng.randrange(300, 900))
            roads = (first, odd, *roads[1:])
        else:
            roads = (odd, *roads)
    return attrs.evolve(
        scenario, lookup=lookup, observer_raises=rng.choice(chances), handler_raises=rng.choice(chances), roads=roads
    )


def _with_old_name(scenario: Scenario, rng: random.Random) -> Scenario:
    """Add an order whose external id names a new one soon, which is canceled by it, and whose reply may be lost."""
    at, place = round(rng.choice((0.001, rng.uniform(0, 3))), 3), len(scenario.orders)
    old = OrderPlan("OLD", "again", rng.choice((OrderState.FILLED, OrderState.CANCELED)))
    lost = rng.choice((None, Fault.SILENT_BEFORE, Fault.ERROR_500_BEFORE, Fault.ACTS_LATE))
    kind = rng.choice((Kind.TRY, Kind.MANY, Kind.STREAM))
    return attrs.evolve(
        scenario,
        orders=(*scenario.orders, old),
        reuses=(*scenario.reuses, Reuse(at, place)),
        ops=(*scenario.ops, Op(kind, ((place, True),), start=round(at + rng.uniform(0.01, 1), 3))),
        scripted=scenario.scripted if lost is None else (*scenario.scripted, (place, lost)),
    )


def _with_silence(scenario: Scenario, seed: int) -> Scenario:
    rng = random.Random(f"silence {seed}")  # of its own, so that the rest of a seed is what it was
    mark = rng.random()
    if mark >= 0.08:
        return scenario
    begin = rng.choice((0.0, round(rng.uniform(0, 1), 3), round(rng.uniform(0, 8), 3)))
    span = (begin, begin + rng.choice((400.0, round(rng.uniform(1, 40), 3))))
    orders = tuple(OrderPlan(f"MANY-{index}", f"many-{index}") for index in range(rng.choice((10, 60, 300))))
    kind = rng.choice((Kind.MANY, Kind.STREAM, Kind.BATCH))
    first = len(scenario.orders)
    many = Op(kind, tuple((first + index, rng.random() < 0.3) for index in range(len(orders))), start=begin)
    return attrs.evolve(
        scenario,
        orders=scenario.orders + orders,
        ops=(*scenario.ops, many),
        silent=span if mark < 0.04 else None,
        flapping=span if mark >= 0.04 else None,
        roads=tuple(attrs.evolve(road, capacity=65_536, most=1 << 30) for road in scenario.roads),
    )


def _draw(seed: int) -> Scenario:
    rng = random.Random(f"scenario {seed}")
    orders = _orders(rng)
    quiet = rng.random() < 0.1
    request_faults: dict[Fault, float] = {} if quiet else _request_faults(rng)
    upgrades = () if quiet else _upgrades(rng)
    roads = _roads(rng, quiet=quiet, losing=bool(upgrades))
    named = [index for index, order in enumerate(orders) if order.external_id is not None]
    again = random.Random(f"reuse {seed}")  # of its own, so that it changes nothing else
    if Fault.OVERSIZE in request_faults:  # 2 MiB in small pieces would take seconds
        roads = tuple(attrs.evolve(road, capacity=65_536, most=1 << 30) for road in roads)
    limited = rng.random() < 0.12
    rate = rng.choice((2.0, 10.0, 50.0)) if limited else None
    skewed = not quiet and rng.random() < 0.2
    crossed = not quiet and rng.random() < 0.1
    if crossed:  # there must be requests of an earlier connection that nobody answered
        request_faults = {Fault.DROP_BEFORE: 0.3, Fault.SILENT_BEFORE: 0.1}
    close = {rng.choice(CLOSE_FAULTS): 0.7} if not quiet and rng.random() < 0.25 else {}
    reply_timeout = rng.choice((12.0, 12.0, 6.0, 2.0))
    return Scenario(
        seed,
        orders,
        _ops(rng, orders),
        fills=tuple(
            Fill(round(rng.uniform(0, 4), 3), rng.randrange(len(orders)), rng.random() < 0.5)
            for _ in range(rng.choice((0, 0, 1, 3)))
        ),
        reuses=tuple(
            Reuse(round(again.choice((0.001, again.uniform(0, 0.5), again.uniform(0, 6))), 3), again.choice(named))
            for _ in range(again.choice((0, 0, 0, 1, 2)) if named else 0)
        ),
        end=_exit(rng),
        connect_timeout=rng.choice((10.0, 10.0, 3.0)),
        reply_timeout=reply_timeout,
        give_up_after=rng.choice((30.0, 30.0, 15.0, 5.0)),
        retry=rng.random() < 0.8,
        pacer=(rng.choice((1.0, 5.0, 20.0)), rng.choice((1, 5))) if rng.random() < 0.12 else None,
        clock_offset=rng.choice((0.0, 0.0, None, 0.5)) if skewed else 0.0,
        rate=rate,
        burst=rng.choice((1.0, 10.0)) if limited else None,
        daily_limit=rng.randrange(1, 10) if rng.random() < 0.03 else None,
        delay=rng.choice((0.0, 0.0, 0.0, 0.05, (0.0, 0.2), (0.001, 3.0))),
        skew=rng.choice((300, -300, 1500, -3000, 7000, -7000, 60_000)) if skewed else 0,
        idle_timeout=rng.choice((60.0, 60.0, 20.0)),
        ping_interval=rng.choice((30.0, 5.0, None)),
        full_results=rng.random() < 0.3,
        dialect=random.Random(f"dialect {seed}").choice(("page", "openapi")),
        faults=Faults(
            {**request_faults, **close},
            late=(reply_timeout * 0.9, reply_timeout * 3),
            hold=rng.choice((5.0, 120.0)),
            trickle=rng.choice((0.002, 0.02)),
            retry_after=rng.choice((1.0, 7.0, None)),
        ),
        upgrades=upgrades,
        crossed=0.5 if crossed else 0.0,
        roads=roads,
    )


def _orders(rng: random.Random) -> tuple[OrderPlan, ...]:
    states = [OrderState.OPEN] * 8 + [OrderState.PARTIAL] * 2 + list(OrderState)
    count = rng.choice((1, 2, 3, 5, 8, 12, 30))
    return tuple(
        OrderPlan(
            f"ORDER-{index}",
            f"mine-{index}" if rng.random() < 0.5 else None,
            state := rng.choice(states),
            round(rng.uniform(0.01, 3), 3) if state is OrderState.LATE else 0.0,
        )
        for index in range(count)
    )


def _request_faults(rng: random.Random) -> dict[Fault, float]:
    if rng.random() < 0.2:
        return {}
    # Those that can hit only an order that is still open would be rare.
    pool = [fault for fault in REQUEST_FAULTS for _ in range(4 if fault.needs_result else 1)]
    chosen = list(dict.fromkeys(rng.sample(pool, rng.choice((1, 1, 2, 4, 8)))))
    share = rng.choice((0.1, 0.3, 0.6, 0.95)) / len(chosen)
    return dict.fromkeys(chosen, share)


def _upgrades(rng: random.Random) -> tuple[Fault | None, ...]:
    if rng.random() < 0.7:
        return ()
    faults: list[Fault | None] = [rng.choice(UPGRADE_FAULTS) for _ in range(rng.choice((1, 1, 2, 4)))]
    return tuple(faults) if rng.random() < 0.15 else (None, *faults)


def _roads(rng: random.Random, *, quiet: bool, losing: bool) -> tuple[Road, ...]:
    roads = []
    for index in range(rng.choice((1, 2, 3))):
        road = Road(
            capacity=rng.choice((65_536, 65_536, 8_192, 1_000)),
            latency=rng.choice((0.0, 0.0, 0.001, 0.05, 0.4)),
            most=rng.choice((1 << 30, 1 << 30, 1_000, 100)),
            direct=rng.random() < 0.6,
        )
        fault: NetFault | None = None
        if not quiet:
            if losing and index == 0:
                fault = rng.choice((NetFault.RESET_LOST, NetFault.RESET_KEPT, NetFault.CUT))
            elif rng.random() < 0.4:
                fault = rng.choice((*WIRE_FAULTS, NetFault.STALL))
            elif rng.random() < (0.3 if index else 0.05):
                fault = rng.choice(DIAL_FAULTS)
        if fault is not None:
            most = rng.choice((1_000, 3_000, 12_000))
            road = attrs.evolve(
                road,
                fault=fault,
                upward=fault is not NetFault.CUT and rng.random() < 0.5,
                # The heads of an upgrade are some 200 bytes: the first connection should mostly come to be.
                at_byte=rng.randrange(300) if rng.random() < (0.2 if index else 0.05) else rng.randrange(300, most),
                seconds=round(rng.choice((rng.uniform(0, 2), rng.uniform(5, 12), rng.uniform(8, 40))), 3),
            )
        if fault is NetFault.STALL and rng.random() < 0.7:  # long enough, and narrow enough, to stall a write
            at_byte, seconds = rng.randrange(160, 1_200), round(rng.uniform(6, 20), 3)
            road = attrs.evolve(road, capacity=1_000, upward=True, at_byte=at_byte, seconds=seconds)
        roads.append(road)
    return tuple(roads)


def _ops(rng: random.Random, orders: tuple[OrderPlan, ...]) -> tuple[Op, ...]:
    ops: list[Op] = []
    spread = rng.choice((0.0, 0.5, 5.0, 20.0))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        kind = rng.choice(list(Kind))
        single = kind in (Kind.CANCEL, Kind.TRY)
        count = 1 if single else rng.randrange(len(orders) + 1) if rng.random() < 0.3 else len(orders)
        twice = kind is Kind.STREAM or (not single and not any(op.twice for op in ops))
        twice = twice and rng.random() < 0.2
        picked = rng.choices(range(len(orders)), k=count) if twice else rng.sample(range(len(orders)), count)
        ends = rng.random()
        ops.append(
            Op(
                kind,
                tuple((index, orders[index].external_id is not None and rng.random() < 0.6) for index in picked),
                start=round(rng.uniform(0, spread), 3),
                deadline=rng.choice((0.0, round(rng.uniform(0, 0.1), 4), round(rng.uniform(0, 3), 3), 10.0, 33.0))
                if ends < 0.25
                else None,
                step=rng.randrange(400) if 0.25 <= ends < 0.4 else None,
                leave_after=rng.randrange(count + 1) if kind is Kind.STREAM and rng.random() < 0.3 else None,
                pause=rng.choice((0.0, 0.0, 0.01, 1.0)) if kind is Kind.STREAM else 0.0,
                trickle=rng.choice((None, 0.0, 0.05, 1.0)) if kind is Kind.STREAM else None,
                twice=twice and kind is not Kind.STREAM,
            )
        )
    return tuple(ops)


def _exit(rng: random.Random) -> Exit:
    mark = rng.random()
    if mark < 0.65:
        return Exit(rest=rng.choice((0.0, 1.0, 70.0)))
    kind = rng.choice((ExitKind.LEFT, ExitKind.RAISED, ExitKind.CANCELLED))
    at = rng.choice((0.0, round(rng.uniform(0, 1), 4), round(rng.uniform(0, 8), 3), round(rng.uniform(0, 40), 2)))
    step = rng.randrange(300) if kind is ExitKind.CANCELLED and rng.random() < 0.5 else None
    return Exit(kind, at, step)
