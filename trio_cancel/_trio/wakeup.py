"""A wakeup for one task, and an alarm for one task.

Both are cheaper than an Event that is replaced after each use, and no ring is lost while the task is busy.
"""

from __future__ import annotations

import math

import trio


class Wakeup:
    """Anyone may ring it; one task waits for it. Ringing twice is the same as ringing once."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    @trio.lowlevel.enable_ki_protection
    def ring(self) -> None:
        """Wake the task that waits, now or when it next waits."""
        if not self._rung:
            self._rung = True
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None

    async def wait(self) -> None:
        """Wait until it is rung; return at once if it has been. If cancelled, the ring stays for the next wait."""
        if self._rung:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._task = trio.lowlevel.current_task()

            def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._rung = False


class Alarm:
    """Anyone may set it to an earlier time; one task waits for it.

    Attributes:
        at: trio's clock when it is due; inf if never.
    """

    __slots__ = ("_wakeup", "at")

    def __init__(self) -> None:
        self.at: float = math.inf
        self._wakeup = Wakeup()

    def set(self, at: float) -> None:
        """Make it due at ``at``, unless it is due earlier."""
        if at < self.at:
            self.at = at
            self._wakeup.ring()

    def clear(self) -> None:
        """Make it never due, until it is set again."""
        self.at = math.inf

    async def wait(self) -> None:
        """Wait until it is due, always with a checkpoint. If cancelled, it stays set."""
        await trio.lowlevel.checkpoint()
        while trio.current_time() < self.at:
            with trio.move_on_at(self.at):
                await self._wakeup.wait()
