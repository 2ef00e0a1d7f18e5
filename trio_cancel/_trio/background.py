"""Tasks beside a block, whose exception propagates unchanged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_background() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery for tasks that run beside a block.

    ``async with trio.open_nursery()`` would put the block's exception into a group. Here it propagates as it was
    raised. The caller must make sure that the tasks have ended, or have been told to end, when the block exits, and
    that they raise nothing.
    """
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    try:
        yield nursery
    finally:
        await manager.__aexit__(None, None, None)  # noqa: ASYNC102 - its tasks have ended, or are about to
