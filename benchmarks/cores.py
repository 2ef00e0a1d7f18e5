"""Which processor core each process of the benchmark runs on."""

from __future__ import annotations

import os
import resource


def client_and_venue() -> tuple[int | None, int | None]:
    """A core for the client and another for the venue; None for both where there are not two to pin to."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


def pin(core: int | None) -> None:
    """Pin this process to a core, and let it open as many sockets as the system allows."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
