"""What a client process is told to do, and what it tells back: two frozen values and their JSON.

A job names a competitor, a kind of work and its size. Its sample holds the figures, by name; which names there are
depends on the work (`cpu_us`, `rate`, `p50_us`, ...), and a name always ends in its unit.
"""

from __future__ import annotations

import functools
import random
import ssl
from collections.abc import Iterator

import attrs
import msgspec

IN_FLIGHT = 256
"""Requests without an answer that every competitor may have at once, except when it works one at a time."""

API_TOKEN = "benchmark-token"
API_SECRET = "benchmark-secret-of-a-usual-length-0123456789"


@attrs.frozen
class Job:
    """One measurement by one client process.

    Attributes:
        peer: Name of a competitor in `benchmarks.peers.PEERS`, or of what a special work measures.
        work: Name of the work, see `benchmarks.plan`.
        orders: How many orders are canceled in the measured part.
        url: Where the venue listens; empty where the work needs none.
        ca: Path of the venue's certificate authority (PEM); empty for ws://.
        warm: How many orders are canceled before the measuring starts.
        times: How often the measured part is done over, so that a small work is measured over a long enough time.
        core: The processor core to be pinned to, or None for any.
    """

    peer: str
    work: str
    orders: int
    url: str = ""
    ca: str = ""
    warm: int = 0
    times: int = 1
    core: int | None = None

    @property
    def scheme(self) -> str:
        """`ws`, `wss`, or nothing where no venue takes part."""
        return self.url.partition(":")[0]

    def order_ids(self) -> list[str]:
        """The orders to cancel, as the venue spells its ids; the same for every competitor."""
        return list(order_ids(self.orders, seed=1))

    def warm_ids(self) -> list[str]:
        """The orders to cancel before the measuring starts."""
        return list(order_ids(self.warm, seed=2))


@attrs.frozen
class Sample:
    """The figures of one job, by name."""

    job: Job
    figures: dict[str, float]


def order_ids(count: int, *, seed: int) -> Iterator[str]:
    """Generate `count` order ids, the same ones for the same seed."""
    bits = random.Random(seed).getrandbits
    for _ in range(count):
        text = f"{bits(128):032X}"
        yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@functools.cache
def ssl_context(ca: str) -> ssl.SSLContext | None:
    """The client's SSL context, one per process as every competitor's manual advises; None for ws://."""
    return ssl.create_default_context(cafile=ca) if ca else None


def to_json(value: Job | Sample) -> str:
    """One line of JSON."""
    return msgspec.json.encode(value).decode()


def job_from_json(text: str) -> Job:
    """The job that `to_json` wrote."""
    return msgspec.json.decode(text, type=Job)


def sample_from_json(text: str) -> Sample:
    """The sample that `to_json` wrote."""
    return msgspec.json.decode(text, type=Sample)
