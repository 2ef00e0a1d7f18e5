"""trio made to repeat itself: one seed, one order of tasks, one clock. And what must never happen in it is noticed."""

from __future__ import annotations

import heapq
import io
import logging
import math
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext, redirect_stderr
from types import FrameType

import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

from .record import LogKeeper

SPIN_LIMIT = 60.0
"""Seconds of processor time after which a run counts as spinning: its clock does not get on."""


class Spinning(Exception):
    """A run that does not end. It comes out of trio as an internal error, for it strikes wherever it strikes."""


@contextmanager
def watched() -> Generator[None]:
    """Raise Spinning in a run that takes too long (where the system has timers, and in the main thread)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def strike(_signum: int, frame: FrameType | None) -> None:
        raise Spinning("".join(traceback.format_stack(frame, 8)))

    before = signal.signal(signal.SIGPROF, strike)
    signal.setitimer(signal.ITIMER_PROF, SPIN_LIMIT, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@MockClock.register  # trio lets no other clock jump, and nobody derive from that one
class SimulatedClock(trio.abc.Clock):
    """A clock that stands still while tasks run, and jumps to what comes next when none does.

    What comes next is a deadline of trio's, or a function that is to be called then (:meth:`at`): a tenth of the price
    of a task that sleeps. The function is called outside of any task, and must not raise.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._acts: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def start_clock(self) -> None:
        """See trio."""
        trio_run.GLOBAL_RUN_CONTEXT.runner.clock_autojump_threshold = 0

    def current_time(self) -> float:
        """See trio."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See trio."""
        return 0.0 if deadline <= self._now else 999_999_999.0

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Call a function at a time."""
        self._count += 1
        heapq.heappush(self._acts, (time, self._count, act))

    def _autojump(self) -> None:
        """Jump: trio calls this when no task can run."""
        runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        while not runner.runq:
            deadline = runner.deadlines.next_deadline()
            if not self._acts or self._acts[0][0] > deadline:
                if deadline < math.inf:
                    self._now = max(self._now, deadline)
                return
            time, _, act = heapq.heappop(self._acts)
            self._now = max(self._now, time)
            act()


class Steps(trio.abc.Instrument):
    """Counts task steps, and cancels scopes before the steps that were asked for."""

    def __init__(self) -> None:
        self.count = 0
        self._due: dict[int, list[Callable[[], None]]] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count in self._due:
            for act in self._due.pop(self.count):
                act()

    def after(self, steps: int, act: Callable[[], None]) -> None:
        """Call ``act`` before the step that comes after so many others."""
        self._due.setdefault(self.count + 1 + steps, []).append(act)


def run_deterministically(seed: int, steps: Steps, function: Callable[[], Awaitable[None]]) -> None:
    """Run an async function under trio so that it runs the same way each time.

    trio shuffles the tasks of each pass; with the flag that it keeps for Hypothesis it sorts them by age first, and
    shuffles with a random source that can be seeded.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # Final, but for Hypothesis and for us
    trio_run._r.seed(seed)
    try:
        trio.run(function, clock=SimulatedClock(), instruments=[steps])
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]  # see above
        trio_run._r.setstate(before[1])


@contextmanager
def logging_kept(kept: list[tuple[int, str]], throwing: logging.Handler | None = None) -> Generator[None]:
    """Keep what the library logs, and keep it from everybody else but ``throwing``, a handler that may raise."""
    logger = logging.getLogger("trio_cancel")
    keeper = LogKeeper(kept)
    before = logger.level, logger.propagate
    handlers = [keeper] if throwing is None else [keeper, throwing]
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        with nullcontext() if throwing is None else redirect_stderr(io.StringIO()):  # it is told there, once
            yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
