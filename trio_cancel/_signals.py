"""SIGTERM and SIGINT as an orderly end: the block is cancelled, so that its scopes run; then ``Interrupted`` comes out.

One task watches for signals while the block runs. The first signal cancels the block, the second ends the grace of the
order scopes that are being left.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_cancel._errors import ConfigurationError, Interrupted
from trio_cancel._scope import drains

_active: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("trio_cancel.cancel_on_signals", False)


@asynccontextmanager
async def cancel_on_signals() -> AsyncGenerator[None]:
    """Let SIGTERM and SIGINT end the block in an orderly way.

    Use it once per program, in the main thread. The first signal cancels the block, so that order scopes and other
    clean-up run; a second one ends the grace of order scopes early.

    Raises:
        Interrupted: after the block, if a signal came. It is no ``Exception``, so that no loop swallows it by accident;
            what came out of the block (``OrdersLeft``, say) is its ``__cause__``.
        ConfigurationError: it is used twice, or outside the main thread.

    Cancelled: the block is cancelled; nothing of its own is left behind.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("cancel_on_signals() works in the main thread only: signals arrive nowhere else.")
    if _active.get():
        raise ConfigurationError("cancel_on_signals() is used already: it belongs once around the whole program.")
    _active.set(True)
    received: list[int] = []
    watching = trio.CancelScope(shield=True)  # a second signal must be heard in a block that is cancelled already
    manager = trio.open_nursery()
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            nursery = await manager.__aenter__()
            try:
                with trio.CancelScope() as block:
                    nursery.start_soon(_watch, signals, received, block, watching)
                    yield
            except BaseException as error:
                if received and not isinstance(error, GeneratorExit):
                    raise Interrupted(received[0]) from error
                raise
            finally:
                # No `async with`: the nursery would wrap the block's exception in a group.
                watching.cancel()
                await manager.__aexit__(None, None, None)
    finally:
        _active.set(False)
    if received:
        raise Interrupted(received[0])


async def _watch(
    signals: AsyncIterator[int], received: list[int], block: trio.CancelScope, watching: trio.CancelScope
) -> None:
    with watching:
        async for signum in signals:
            received.append(signum)
            if len(received) == 1:
                block.cancel()
            else:
                for drain in list(drains.get(set())):
                    drain.cancel()
