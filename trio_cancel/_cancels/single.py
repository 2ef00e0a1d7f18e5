"""One order's cancel, and how its caller waits for the outcome.

Each cancel that is under way has its own memory channel of size 1, into which the reader's task delivers the one
outcome. Making a channel takes as long as everything else about waiting for it, so a channel whose outcome has been
taken serves a later cancel. A channel whose caller has left is never used again, because its outcome may still come.

If the answer arrives sooner than this process could fall asleep and be woken (a venue on this machine or next door), it
is looked for at once, for some passes of the scheduler. Falling asleep and waking up takes longer than those passes,
and costs more.
"""

from __future__ import annotations

from typing import TypeAlias

import trio

from trio_cancel._engine.order import OrderCancel, RetryPolicy
from trio_cancel._session.session import Session
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome

NEAR = 0.0005
"""Seconds within which the last answer must have come for the next one to be looked for at once."""
LOOKS = 10
"""Passes of the scheduler (about 10 µs each) for which it is looked for."""
KEPT = 256
"""Channels that a session keeps."""

Channel: TypeAlias = "tuple[trio.MemorySendChannel[OrderCancel], trio.MemoryReceiveChannel[OrderCancel]]"


class Channels:
    """The channels of a session's single cancels that are not in use."""

    __slots__ = ("_idle", "near")

    def __init__(self) -> None:
        self._idle: list[Channel] = []
        self.near = False  # the last cancel that was alone had its answer within `NEAR`

    def take(self) -> Channel:
        """Return a channel that nobody else uses."""
        # (Without a type argument: trio's subscript alone would take longer than the channel.)
        return self._idle.pop() if self._idle else trio.open_memory_channel(1)

    def give_back(self, channel: Channel) -> None:
        """Keep a channel whose one outcome has been taken."""
        if len(self._idle) < KEPT:
            self._idle.append(channel)


async def cancel_one(session: Session, request: CancelRequest, policy: RetryPolicy, channels: Channels) -> Outcome:
    """Cancel one order; return its outcome.

    Cancelled: what has not been written is withdrawn; what is being written is finished and still tracked.
    """
    await trio.lowlevel.checkpoint_if_cancelled()  # if the caller is already cancelled, nothing is written
    channel = channels.take()
    send, receive = channel
    order = OrderCancel(request, policy, send, priority=True)
    try:
        now = trio.current_time()
        if session.engine.submit_lone(order, now):
            session.write_now()
        alone = order.latest is not None and session.engine.lone  # written at once, with nothing else under way
        looked = alone and channels.near
        if looked:
            await look(order)
        # An outcome that was found is not lost to a cancellation that came with it. Otherwise this is the checkpoint.
        found = receive.receive_nowait() if looked and order.outcome is not None else await receive.receive()
        outcome = found.result
        channels.give_back(channel)
        if alone:
            channels.near = trio.current_time() - now < NEAR
        return outcome
    except BaseException:
        if order.outcome is None:
            session.engine.abandon(order)
        else:  # it came, and so did what ends the wait
            session.engine.notify_late(request, order.outcome)
        raise


async def look(order: OrderCancel) -> None:
    """Wait for an outcome that comes almost at once, and no longer. Cancelled: only if none has come."""
    for _ in range(LOOKS):
        await trio.lowlevel.cancel_shielded_checkpoint()
        if order.outcome is not None:
            return
        await trio.lowlevel.checkpoint_if_cancelled()
