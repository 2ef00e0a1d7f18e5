"""Which jobs a run consists of: how large each work is, and who takes part in it."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from benchmarks.job import Job
from benchmarks.peers import AIOHTTP, BARE_STREAM, BEFORE, BY_HAND, OURS, PEERS
from benchmarks.startup import imports
from benchmarks.venue import Addresses

WORKS = (
    *("floor", "single", "tasks", "bulk", "growth", "call", "tails"),
    *("import", "accounts", "report", "stream", "journal"),
    *("holds", "guard"),
)
"""The names that `--only` takes. `growth` is made of bulk jobs of several sizes, `guard` of four works."""
HOLDERS = ("SQLite", "PostgreSQL", "PostgreSQL, synchronous standby")
"""Where the holds of `holds` are: these stand in a competitor's place."""


@attrs.frozen
class Plan:
    """The sizes of a run.

    Attributes:
        before: A checkout of ours at another commit, which is measured beside this one; empty if there is none.
    """

    rounds: int = 5
    orders: int = 30_000
    growth: tuple[int, ...] = (1_000, 10_000, 100_000)
    accounts: int = 1_000
    report: int = 100_000
    stream: int = 1_000_000
    tails: int = 200_000
    kills: int = 20
    dead: int = 100
    beats: int = 1_000
    sharers: tuple[int, ...] = (4, 16)
    imports: int = 3
    before: str = ""

    def jobs(self, addresses: Addresses, core: int | None, only: frozenset[str]) -> Iterator[Job]:
        """One round: every job once, the competitors next to each other within each work."""
        for job in self._jobs(addresses, core, only or frozenset(WORKS)):
            yield job
            if self.before and job.peer == OURS:
                yield attrs.evolve(job, peer=BEFORE)

    def _jobs(self, addresses: Addresses, core: int | None, wanted: frozenset[str]) -> Iterator[Job]:
        if "floor" in wanted:
            yield Job("floor", "floor", self.orders, core=core)
        for work, orders in (("single", self.orders // 10), ("tasks", self.orders // 3), ("bulk", self.orders)):
            if work not in wanted:
                continue
            for url, ca in ((addresses.ws, ""), (addresses.wss, addresses.ca)):
                for name, peer in PEERS.items():
                    if work in peer.works:
                        yield Job(name, work, orders, url, ca, warm=min(1_000, orders // 2), core=core)
        if "import" in wanted:
            for name in imports():
                yield Job(name, "import", self.imports, core=core)
        yield from self._secure_jobs(addresses, core, wanted)

    def _secure_jobs(self, addresses: Addresses, core: int | None, wanted: frozenset[str]) -> Iterator[Job]:
        """The works that are measured over wss:// alone, by few competitors or by ours alone."""
        secure = Job(OURS, "", self.orders, addresses.wss, addresses.ca, warm=min(1_000, self.orders // 2), core=core)
        if "growth" in wanted:
            for orders in self.growth:
                times = max(1, self.growth[-1] // orders // 10)
                for name in (OURS, AIOHTTP, BY_HAND):
                    yield attrs.evolve(secure, peer=name, work="growth", orders=orders, times=times)
        if "call" in wanted:
            for name in (OURS, BARE_STREAM):
                yield attrs.evolve(secure, peer=name, work="call", orders=self.tails)
        if "tails" in wanted:
            tails = attrs.evolve(secure, work="tails", orders=self.tails)
            for name, peer in PEERS.items():
                if "tails" in peer.works:
                    yield attrs.evolve(tails, peer=name)
            for work in ("tails-batch", "tails-stream"):
                yield attrs.evolve(tails, work=work)
        if "accounts" in wanted:
            for name in (OURS, AIOHTTP, BY_HAND):
                yield attrs.evolve(secure, peer=name, work="accounts", orders=self.accounts, warm=0)
        if "report" in wanted:
            yield attrs.evolve(secure, work="report", orders=self.report)
        if "stream" in wanted:
            yield attrs.evolve(secure, work="stream", orders=self.stream)
        if "journal" in wanted:
            yield attrs.evolve(secure, work="journal")
        if "holds" in wanted:
            for holder in HOLDERS:
                yield attrs.evolve(secure, peer=holder, work="holds", core=None)  # a server would be on its core, too
        if "guard" in wanted:
            for work, count in (
                ("guard", self.kills),
                ("guard-dead", self.dead),
                ("guard-beats", self.beats),
                *(("guard-pace", count) for count in self.sharers),
            ):
                yield attrs.evolve(secure, work=work, orders=count, warm=0, core=None)


FULL = Plan()
SMOKE = Plan(
    rounds=1,
    orders=60,
    growth=(10, 20, 40),
    accounts=4,
    report=50,
    stream=200,
    tails=500,
    kills=1,
    dead=2,
    beats=2,
    sharers=(2,),
    imports=1,
)
"""Every piece of code runs once, and no figure means anything."""
