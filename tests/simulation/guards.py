"""What happens in a run with guards and journals in a database, drawn from its seed (values only)."""

from __future__ import annotations

import random
from enum import StrEnum

import attrs

HEALED = 25.0
"""Seconds after which every fault is over."""
END = 75.0
"""Seconds after which is looked at what has become of it all, unless it has come to rest before."""


EDGES = 4
"""Ways to be stopped just when it matters: each in a tenth of the seeds, most of them without other faults."""


class Then(StrEnum):
    """What a bot does with an order."""

    KEEP = "keep"
    CANCEL = "cancel"
    DISCARD = "discard"


@attrs.frozen
class Trade:
    """One order of a bot.

    Args:
        at: seconds after its session has begun.
        by_id: it is placed, and then held by the venue's id.
        stopped: seconds for which the process is stopped between holding and placing it.
        dies: and the process is killed then, its create on the way.
        travel: seconds that the create is on its way.
        placed: the scope is told the venue's id.
        life: seconds until ``then``.
        name: the external id; a successor uses the same.
    """

    at: float
    by_id: bool
    stopped: float
    dies: bool
    travel: float
    placed: bool
    life: float
    then: Then
    name: str


@attrs.frozen
class Sleep:
    """A bot is stopped when one of its commits is through at the server: before it hears of it, or just after.

    Args:
        after: seconds after the bot's begin from which on that is so.
        seconds: for which it is stopped.
        away: seconds for which it has no way to the database then; 0 if it has.
        stands: seconds for which the server's process stands still in the first commit after that; if there are
            any, the bot has heard of the one before.
    """

    after: float
    seconds: float
    away: float = 0.0
    stands: float = 0.0


@attrs.frozen
class BotPlan:
    """A bot.

    Args:
        journal: its name.
        lease: seconds.
        begin: when it begins.
        death: when it is killed; None if it is not.
        stops: when it is stopped, and for how long.
        successor: when another process opens the same journal; None if none does.
        trades: its orders; a successor has them again.
        second: the journal that the successor opens is another one of the same account.
        sleep: it is stopped with an answer on the way; None if it is not.
    """

    journal: str
    lease: float
    begin: float
    death: float | None
    stops: tuple[tuple[float, float], ...]
    successor: float | None
    trades: tuple[Trade, ...]
    second: bool
    sleep: Sleep | None = None


@attrs.frozen
class GuardPlan:
    """A guard; one that is killed begins again."""

    begin: float
    death: float | None
    stops: tuple[tuple[float, float], ...]


@attrs.frozen
class Failover:
    """The end of the first server.

    Args:
        at: when.
        promoted: seconds until the second one takes its place.
        split: the first one lives on, and whoever is connected to it does not notice.
        back: when the first one is there again; None if it is not.
    """

    at: float
    promoted: float
    split: bool
    back: float | None


@attrs.frozen
class GuardScenario:
    """One run.

    Args:
        replicates: ``"sync"``, ``"async"`` or None for one server.
        restarts: when the first server is down, and for how long.
        cuts: whose way to which server ("": both) is a black hole, from when to when.
        lonely: when the two servers do not see each other.
        lies: when somebody ends the waits for the second server.
        hidden: the chance that an answer of the database is lost.
        slow: the chance that it takes up to two seconds.
        latency: seconds to the venue, one way.
        rates: of the clocks.
    """

    seed: int
    bots: tuple[BotPlan, ...]
    guards: tuple[GuardPlan, ...]
    replicates: str | None
    travel: float
    restarts: tuple[tuple[float, float], ...]
    cuts: tuple[tuple[str, str, float, float], ...]
    lonely: tuple[tuple[float, float], ...]
    lies: tuple[tuple[float, float], ...]
    failover: Failover | None
    hidden: float
    slow: float
    latency: float
    rates: tuple[float, ...]

    @property
    def calm_from(self) -> float:
        """When the last of what is planned has happened."""
        last = [0.0, *(end for _, end in (*self.restarts, *self.lonely, *self.lies)), *(cut[3] for cut in self.cuts)]
        if self.failover is not None:
            last += [self.failover.at + self.failover.promoted, self.failover.back or 0.0]
            last += [HEALED] if self.failover.split else []
        for bot in self.bots:
            last += [bot.begin + at + seconds for at, seconds in bot.stops]
            last += [bot.begin + trade.at + trade.stopped + trade.life for trade in bot.trades]
            if bot.sleep is not None:
                last.append(bot.begin + bot.sleep.after + bot.lease + bot.sleep.seconds + bot.sleep.away)
            last += [bot.begin + (bot.death or 0.0), bot.begin + (bot.successor or 0.0) + 6.0]
        for guard in self.guards:
            last += [guard.begin + at + seconds for at, seconds in guard.stops]
            last += [guard.begin + (guard.death or 0.0) + 2.0]
        return max(last)


def draw_guards(seed: int) -> GuardScenario:
    """Return the scenario of a seed."""
    rng = random.Random(f"guards {seed}")
    replicates = rng.choice((None, "sync", "sync", "sync", "async"))
    edges = random.Random(f"edge {seed}")
    edge = edges.randrange(10)
    quiet = rng.random() < 0.15
    quiet = quiet or (edge < EDGES and edges.random() < 0.6)
    bots = [_bot(rng, "mm-1", dies=rng.random() < 0.6)]
    bots.append(attrs.evolve(_bot(rng, "mm-2", dies=False), stops=(), successor=None))
    guards = [_guard(rng, first=number == 0) for number in range(rng.choice((1, 1, 2, 3)))]
    failover = None
    if replicates is not None and not quiet and rng.random() < 0.35:
        at = rng.uniform(2, 12)
        split = replicates == "sync" and rng.random() < 0.6
        failover = Failover(
            _r(at),
            _r(rng.uniform(0.2, 6)),
            split,
            _r(at + rng.uniform(7, 15)) if rng.random() < 0.5 else None,
        )
    bots[0] = _at_the_edge(edges, edge, bots[0])
    return GuardScenario(
        seed,
        tuple(bots),
        tuple(guards),
        replicates,
        travel=rng.choice((0.0002, 0.002, 0.005)),
        restarts=_spans(rng, rng.choice((1, 1, 2)), 8.0)
        if not quiet and failover is None and rng.random() < 0.35
        else (),
        cuts=tuple(
            (rng.choice(("mm-1", "guard-0", "guard-1")), "", *span)
            for span in (_spans(rng, rng.choice((1, 2)), 12.0) if not quiet and rng.random() < 0.4 else ())
        ),
        lonely=_spans(rng, 1, 6.0) if replicates == "sync" and not quiet and rng.random() < 0.25 else (),
        lies=((failover.at, _r(failover.at + failover.promoted + rng.uniform(0, 8))),)
        if failover is not None and replicates == "sync" and rng.random() < 0.4
        else _spans(rng, 1, 8.0)
        if replicates == "sync" and not quiet and rng.random() < 0.3
        else (),
        failover=failover,
        hidden=0.0 if quiet else rng.choice((0.0, 0.0, 0.01, 0.1)),
        slow=0.2 if edge == 3 else 0.0 if quiet else rng.choice((0.0, 0.0, 0.02, 0.2)),
        latency=rng.choice((0.001, 0.02, 0.2)),
        rates=tuple(rng.choice((1.0, 1.0, 0.995, 1.005)) for _ in range(12)),
    )


def _r(value: float) -> float:
    return round(value, 4)


def _spans(rng: random.Random, count: int, most: float) -> tuple[tuple[float, float], ...]:
    spans = []
    for _ in range(count):
        begin = rng.uniform(0.5, 14)
        lasts = rng.choice((rng.uniform(0, 1), rng.uniform(0, most), rng.uniform(2, most)))
        spans.append((_r(begin), _r(min(HEALED, begin + lasts))))
    return tuple(spans)


def _bot(rng: random.Random, journal: str, *, dies: bool) -> BotPlan:
    stops: tuple[tuple[float, float], ...] = ()
    lease = rng.choice((3.0, 3.0, 3.0, 1.0, 6.0))
    if rng.random() < 0.35:
        # Also as long as a lease, so that it goes on while it is taken over.
        lasts = rng.choice((rng.uniform(0, 4), rng.uniform(3, 14), lease + rng.uniform(-lease / 3, 0.5)))
        stops = ((_r(rng.uniform(1, 8)), _r(lasts)),)
    death = _r(rng.choice((rng.uniform(0.5, 4), rng.uniform(1, 10)))) if dies else None
    successor = _r(rng.uniform(3, 20)) if rng.random() < 0.5 else None
    if rng.random() < 0.1:  # it is stopped for so long that its successor has placed its orders again when it goes on
        at = rng.uniform(2, 7)
        death, stops = None, ((_r(at), _r(lease + rng.uniform(6, 12))),)
        successor = _r(at + lease + rng.uniform(0.5, 3))
    return BotPlan(
        journal,
        lease,
        begin=_r(rng.uniform(0, 0.5)),
        death=death,
        stops=stops,
        successor=successor,
        trades=tuple(_trade(rng, f"{journal}-{number}") for number in range(rng.choice((1, 2, 3, 5)))),
        second=rng.random() < 0.4,
    )


def _at_the_edge(rng: random.Random, edge: int, bot: BotPlan) -> BotPlan:
    """Return a bot that in some seeds is stopped just when it matters."""
    match edge:
        case 0:  # between holding and placing, until it is taken over; it dies as soon as it has placed
            stopped = _r(bot.lease + rng.uniform(1, 4))
            first = attrs.evolve(
                bot.trades[0], at=_r(rng.uniform(0, 1)), by_id=False, stopped=stopped, dies=True, then=Then.KEEP
            )
            return attrs.evolve(bot, trades=(first, *bot.trades[1:]), stops=(), death=None, successor=None)
        case 1:  # it holds an order while it is still sure, and is taken over while that is committed
            after, seconds = rng.uniform(0, 2), bot.lease * rng.uniform(0.8, 0.89)
            first = attrs.evolve(
                bot.trades[0], at=_r(after + bot.lease * 0.65), by_id=False, stopped=0.0, then=Then.KEEP
            )
            sleep = Sleep(_r(after), _r(seconds), stands=_r(bot.lease - seconds + rng.uniform(0.15, 0.6)))
            return attrs.evolve(bot, sleep=sleep, trades=(first,), stops=(), death=None, successor=None)
        case 2:  # it hears late of a beat, and of no other
            sleep = Sleep(_r(rng.uniform(0, 3)), _r(bot.lease * rng.uniform(0.3, 0.95)), _r(bot.lease + 2.0))
            return attrs.evolve(bot, sleep=sleep, stops=(), death=None)
        case 3:  # its next beat comes just when it is taken over
            sleep = Sleep(_r(rng.uniform(0, 3)), _r(bot.lease + rng.uniform(0, 0.4)))
            return attrs.evolve(bot, sleep=sleep, stops=(), death=None)
    return bot


def _trade(rng: random.Random, name: str) -> Trade:
    return Trade(
        at=_r(rng.choice((rng.uniform(0, 1), rng.uniform(0, 6)))),
        by_id=rng.random() < 0.2,
        stopped=_r(rng.uniform(0.5, 12)) if rng.random() < 0.12 else 0.0,
        dies=rng.random() < 0.5,
        travel=_r(rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 2)))),
        placed=rng.random() < 0.6,
        life=_r(rng.uniform(0, 5)),
        then=rng.choice((Then.KEEP, Then.KEEP, Then.KEEP, Then.CANCEL, Then.DISCARD)),
        name=name,
    )


def _guard(rng: random.Random, *, first: bool) -> GuardPlan:
    stops: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.3:
        stops = ((_r(rng.uniform(1, 15)), _r(rng.uniform(0, 8))),)
    death = _r(rng.uniform(3, 18)) if rng.random() < 0.25 else None
    return GuardPlan(0.0 if first else _r(rng.uniform(0, 5)), death, stops)
