"""What a session needs from outside besides trio's clock, so that a simulation can supply something else."""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections.abc import Callable

import attrs

from trio_cancel._values.timings import Timings

# trio's clock stops while the machine is suspended; these go on. (Apple's CLOCK_MONOTONIC does, too.)
_GOES_ON = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if sys.platform == "darwin" else None)


def suspended() -> float:
    """Return the seconds for which the machine has been suspended so far; always 0 if no clock tells."""
    return 0.0 if _GOES_ON is None else time.clock_gettime(_GOES_ON) - time.monotonic()


@attrs.frozen
class Environment:
    """The clocks other than trio's, the sources of randomness, and the times to wait."""

    wall: Callable[[], float] = time.time  # Unix seconds; it may be set at any time
    # A new prefix for request ids; unique across processes and restarts.
    id_prefix: Callable[[], str] = attrs.field(default=lambda: secrets.token_hex(8))
    random_bytes: Callable[[int], bytes] = os.urandom  # that many unpredictable bytes, for the masks of frames
    jitter: random.Random = attrs.field(factory=random.SystemRandom)  # spreads retries
    steady: Callable[[], float] = time.monotonic  # a clock that nobody sets; it may stop while the machine is suspended
    suspended: Callable[[], float] = suspended  # seconds for which the machine was suspended; only the growth matters
    timings: Timings = attrs.field(factory=Timings)
