"""A nursery for a context manager: its tasks end with the block, and the block's exception propagates unchanged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_services() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery whose tasks are cancelled when the block exits; a single exception propagates without a group."""
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        errors = group.exceptions
        if len(errors) != 1:
            raise
        (error,) = errors
    if error is not None:  # outside the handler, so that the group does not become its context
        raise error
