"""What a session takes from the world around it, besides trio's clock: so that a simulation can supply another one."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable

import attrs


@attrs.frozen
class World:
    """The wall clock and the sources of chance.

    Attributes:
        wall: returns Unix seconds.
        id_prefix: returns a new prefix for request ids; unique across processes and restarts.
        random_bytes: returns that many unpredictable bytes, for the masks of frames.
        jitter: spreads retries.
    """

    wall: Callable[[], float] = time.time
    id_prefix: Callable[[], str] = attrs.field(default=lambda: secrets.token_hex(8))
    random_bytes: Callable[[int], bytes] = os.urandom
    jitter: random.Random = attrs.field(factory=random.SystemRandom)
