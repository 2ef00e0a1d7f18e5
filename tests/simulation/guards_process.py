"""Processes in one run: each has a clock, can be stopped (SIGSTOP) and killed, and has threads that may block.

All tasks know their process by a context variable. The tasks of a stopped process are not scheduled: what wakes them
is kept until it goes on, while its deadlines pass and what it has sent travels on. A thread that blocks is a real one,
which runs only while trio's waits for it, so that a run repeats itself.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
import outcome
import psycopg
import trio
from trio._core import _run as trio_run

from .stream import Wire

greenlet: Any = import_module("greenlet") if find_spec("greenlet") else None  # it is only quicker
Step = tuple[bool, Any]
"""Whether a job is done; what it came to, or what it asks for."""

CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""The process that runs; None for the world around them."""


@attrs.define(eq=False)
class Process:
    """One process.

    Attributes:
        rate: of its clock.
        reachable_from: since when it runs and has a way to the database.
        scope: around its main task.
        context: to look into it from outside.
    """

    name: str
    rate: float = 1.0
    stopped: bool = False
    dead: bool = False
    ended: bool = False
    stopped_for: float = 0.0
    stopped_at: float = 0.0
    reachable_from: float = 0.0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    wires: list[Wire] = attrs.field(factory=list)
    connections: list[Any] = attrs.field(factory=list)
    context: contextvars.Context | None = None
    _kept: list[trio.lowlevel.Task] = attrs.field(factory=list)

    def stop(self) -> None:
        """Let none of its tasks run."""
        if self.stopped:
            return
        self.stopped, self.stopped_at = True, trio.current_time()
        runq = trio_run.GLOBAL_RUN_CONTEXT.runner.runq
        for task in [task for task in runq if task.context.get(CURRENT) is self]:
            runq.remove(task)
            self._kept.append(task)

    def go_on(self) -> None:
        """Let them run again."""
        if not self.stopped:
            return
        self.stopped = False
        self.stopped_for += trio.current_time() - self.stopped_at
        kept, self._kept = self._kept, []
        trio_run.GLOBAL_RUN_CONTEXT.runner.runq.extend(kept)

    def keep(self, task: trio.lowlevel.Task) -> None:
        """Keep a task that was to run."""
        self._kept.append(task)

    def stopped_in_all(self) -> float:
        """Return for how many seconds it was stopped until now."""
        return self.stopped_for + (trio.current_time() - self.stopped_at if self.stopped else 0.0)


@contextmanager
def stoppable() -> Generator[None]:
    """Have processes that can be stopped while the block runs."""
    reschedule = trio_run.Runner.reschedule

    def reschedule_or_keep(runner: trio_run.Runner, task: trio.lowlevel.Task, *args: Any) -> None:
        reschedule(runner, task, *args)
        process = task.context.get(CURRENT)
        if process is not None and process.stopped:
            runner.runq.pop()
            process.keep(task)

    with patch.object(trio_run.Runner, "reschedule", reschedule_or_keep):
        yield


class _Thread:
    """A thread that runs one job after another, each while trio's waits for it."""

    here = threading.local()
    idle: ClassVar[list[_Thread]] = []

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Step] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="simulated thread", daemon=True).start()

    @classmethod
    def get(cls) -> _Thread:
        """Return one that has nothing to do."""
        return cls.idle.pop() if cls.idle else cls()

    def _run(self) -> None:
        self.here.worker = self
        while True:
            job = self._inbox.get()
            result = outcome.capture(job)
            del job
            self._outbox.put((True, result))
            del result

    def go_on(self, what: Any) -> Step:
        """Hand it a job, or what it has asked for; return what it came to, or what it asks for now."""
        self._inbox.put(what)
        step = self._outbox.get()
        if step[0]:
            self.idle.append(self)
        return step

    @classmethod
    def ask(cls, function: Callable[[], Awaitable[Any]]) -> outcome.Outcome[Any]:
        """In the thread: ask for something, and wait for it."""
        worker: _Thread = cls.here.worker
        worker._outbox.put((False, function))
        result: outcome.Outcome[Any] = worker._inbox.get()
        return result


class _Green:
    """The same without a thread, which takes a fifth of the time; needs greenlet."""

    def __init__(self) -> None:
        self._green: Any = None

    @classmethod
    def get(cls) -> _Green:
        """Return a new one."""
        return cls()

    def go_on(self, what: Any) -> Step:
        """See the other one."""
        if self._green is None:
            self._green = greenlet.greenlet(lambda job: (True, outcome.capture(job)))
        step: Step = self._green.switch(what)
        return step

    @classmethod
    def ask(cls, function: Callable[[], Awaitable[Any]]) -> outcome.Outcome[Any]:
        """See the other one."""
        result: outcome.Outcome[Any] = greenlet.getcurrent().parent.switch((False, function))
        return result


_WORKER: Any = _Thread if greenlet is None else _Green


def wait(function: Callable[[], Awaitable[Any]]) -> Any:
    """In a job: wait for an async function, which trio's thread runs."""
    return _WORKER.ask(function).unwrap()


class Lock:
    """Stands for ``threading.Lock``: a job that waits for it lets the others go on."""

    def __init__(self) -> None:
        self._held = False
        self._free: list[trio.Event] = []

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it, also for another job to release; return whether that is so."""
        while self._held:
            if not blocking:
                return False
            event = trio.Event()
            self._free.append(event)
            wait(event.wait)
        self._held = True
        return True

    def release(self) -> None:
        """Let the next job have it."""
        self._held = False
        if self._free:
            set_event(self._free.pop(0))


def set_event(event: trio.Event) -> None:
    """Set an event, in a job or outside of any."""
    if trio.lowlevel.in_trio_run():
        event.set()
    else:  # a job in a thread of its own
        wait(partial(_set, event))


async def _set(event: trio.Event) -> None:
    event.set()


class Threads:
    """Stands for ``trio.to_thread``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def run_sync(
        self,
        function: Callable[..., Any],
        *args: object,
        abandon_on_cancel: bool = False,
        limiter: trio.CapacityLimiter | None = None,
    ) -> Any:
        """Run what blocks."""
        await trio.lowlevel.checkpoint_if_cancelled()
        context, done = contextvars.copy_context(), trio.Event()
        results: list[outcome.Outcome[Any]] = []
        token = object()
        if limiter is not None:
            try:
                limiter.acquire_on_behalf_of_nowait(token)
            except trio.WouldBlock:
                await limiter.acquire_on_behalf_of(token)

        async def run() -> None:
            try:
                results.append(await drive(lambda: context.run(function, *args)))
            except trio.Cancelled:
                results.append(outcome.Error(psycopg.OperationalError("the run is over")))
                raise
            finally:
                if limiter is not None:
                    limiter.release_on_behalf_of(token)
                done.set()

        self._nursery.start_soon(run)
        with trio.CancelScope(shield=not abandon_on_cancel):
            await done.wait()
        return results.pop().unwrap()


async def drive(job: Callable[[], Any]) -> outcome.Outcome[Any]:
    """Run a job to its end."""
    worker = _WORKER.get()
    done, what = worker.go_on(job)
    try:
        while not done:
            done, what = worker.go_on(await _captured(what))
    except trio.Cancelled:  # the run is over: whatever it still asks for fails
        for _ in range(1_000):
            if not done:
                done, what = worker.go_on(outcome.Error(psycopg.OperationalError("the run is over")))
        raise
    result: outcome.Outcome[Any] = what
    return result


async def _captured(function: Callable[[], Awaitable[Any]]) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(await function())
    except Exception as error:  # it is the thread's to deal with; a cancellation is trio's
        return outcome.Error(error)
