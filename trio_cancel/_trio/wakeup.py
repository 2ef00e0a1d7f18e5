"""A doorbell for one task: anyone may ring it, one task waits at it. Ringing twice is ringing once.

Cheaper than an Event that is replaced after each use, and nothing rung while its task was busy is lost.
"""

from __future__ import annotations

import trio


class Wakeup:
    """See the module's docstring."""

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
