"""Signals: noticing a second Ctrl-C, and ``cancel_on_signals``, which turns a signal into an orderly end.

A :class:`SignalCounter` (one for each ``trio.run``) counts the signals that ask for an end, whichever task trio raises
them in: trio's KeyboardInterrupt goes to the main task, while the order scope that must notice the second one may be in
another. While an order scope is open, a handler on SIGINT counts and then calls the previous handler. Under
``cancel_on_signals``, its handler on all :func:`ending_signals` counts instead, and cancels the block. Both note a
signal at once, so that none is lost, and act in the event loop, through trio's ``run_sync_soon``, which is made for
that.

A signal that is already ignored stays ignored, because whoever started the program (``nohup``, a script's ``&``) wants
it that way.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import TypeAlias

import trio

from trio_cancel._trio.running import check_trio
from trio_cancel._values.errors import ConfigurationError, Interrupted

Handler: TypeAlias = Callable[[int, FrameType | None], object]

SAME = 0.5
"""Seconds around a SIGHUP in which further signals are the same request to end."""
HANGUP = frozenset({signal.SIGHUP} if sys.platform != "win32" else ())


def ending_signals() -> list[signal.Signals]:
    """Return the signals that ask a program to end, without those that are ignored now.

    SIGTERM comes from a service manager, SIGINT from Ctrl-C, SIGHUP (not on Windows) when the terminal is closed or its
    ssh connection is lost.
    """
    asking = (signal.SIGTERM, signal.SIGINT, *HANGUP)
    return [signum for signum in asking if signal.getsignal(signum) is not signal.SIG_IGN]


class SignalRepeats:
    """Distinguishes one request to end from two.

    A closed terminal can send SIGHUP twice, from the system and from the shell, and a service manager may send it right
    after SIGTERM. Nobody has asked twice then: signals within ``SAME`` seconds of a SIGHUP count as one with it.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._at = 0.0

    def is_new(self, signum: int, now: float) -> bool:
        """Return True unless this signal belongs to the one before.

        Args:
            signum: its number.
            now: seconds of any clock that runs on.
        """
        last, before = self._last, self._at
        self._last, self._at = signum, now
        return last is None or now - before >= SAME or not {last, signum} & HANGUP


class SignalCounter:
    """Counts the signals of one run, and ends early what they should end."""

    def __init__(self) -> None:
        self.count = 0  # how many signals have come while something was listening
        self._ends: dict[trio.CancelScope, int] = {}
        self._listeners = 0
        self._ours: Handler | None = None
        self._before: Handler | None = None

    def add(self) -> None:
        """Count a signal, and cancel the scopes that it ends."""
        self.count += 1
        self.end()

    def end(self) -> None:
        """Cancel the scopes that the signals so far should end."""
        for scope in [scope for scope, at in self._ends.items() if at <= self.count]:
            scope.cancel()

    @property
    def listening(self) -> bool:
        """True if a Ctrl-C is counted now."""
        return self._ours is not None

    @contextmanager
    def ending(self, scope: trio.CancelScope, after: int) -> Generator[None]:
        """Cancel ``scope`` when ``after`` more signals have come."""
        self._ends[scope] = self.count + after
        try:
            yield
        finally:
            del self._ends[scope]

    def listen(self) -> None:
        """Count each Ctrl-C from now on. Call :meth:`stop` as many times."""
        self._listeners += 1
        if _active.get() or threading.current_thread() is not threading.main_thread():
            return  # cancel_on_signals counts them; no signal arrives here
        if self._ours is None:
            before = signal.getsignal(signal.SIGINT)
            if callable(before):  # not SIG_DFL (it kills), SIG_IGN, or a handler that is not Python's
                self._before = before
                self._ours = self._handler(before)
                signal.signal(signal.SIGINT, self._ours)

    def stop(self) -> None:
        """Stop counting, unless others still want it."""
        self._listeners -= 1
        if self._listeners == 0 and self._ours is not None:
            if signal.getsignal(signal.SIGINT) is self._ours:
                signal.signal(signal.SIGINT, self._before)
            self._ours = self._before = None

    def _handler(self, before: Handler) -> Handler:
        token = trio.lowlevel.current_trio_token()

        @trio.lowlevel.enable_ki_protection
        def count(signum: int, frame: FrameType | None) -> None:
            self.count += 1  # at once: a block may exit by the KeyboardInterrupt before the loop goes on
            try:
                token.run_sync_soon(self.end)
            except trio.RunFinishedError:
                # Somebody reinstalled our handler after the run; trio's handler behind it has no one left to tell.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from None
            before(signum, frame)

        return count


def is_interrupt(error: BaseException | None) -> bool:
    """Return True for an exception of a signal that ends the program, also in a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup((KeyboardInterrupt, Interrupted)) is not None
    return isinstance(error, KeyboardInterrupt | Interrupted)


_counter: trio.lowlevel.RunVar[SignalCounter] = trio.lowlevel.RunVar("trio_cancel.signal_counter")
_active: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("trio_cancel.cancel_on_signals", False)


def signal_counter() -> SignalCounter:
    """Return the :class:`SignalCounter` of this run."""
    try:
        return _counter.get()
    except LookupError:
        found = SignalCounter()
        _counter.set(found)
        return found


@asynccontextmanager
async def cancel_on_signals() -> AsyncGenerator[None]:
    """Let SIGTERM, SIGINT and SIGHUP end the block in an orderly way.

    Use it once per program, in the main thread, around everything. The first signal cancels the block, so that order
    scopes and other clean-up code run; a second one ends the grace of order scopes early. A signal that is ignored when
    the block is entered stays ignored: SIGHUP under ``nohup``, SIGINT in a background job of a script.

    Raises:
        Interrupted: after the block, if a signal came. It is not an ``Exception``, so no loop swallows it by accident;
            what came out of the block (``OrdersLeft``, say) is its ``__cause__``.
        ConfigurationError: it is used twice, outside the main thread, or under an event loop other than trio.

    Cancelled: the block is cancelled; nothing stays behind.
    """
    check_trio("cancel_on_signals()")
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("cancel_on_signals() works in the main thread only: signals arrive nowhere else.")
    if _active.get():
        raise ConfigurationError("cancel_on_signals() is in use already: put it once around the whole program.")
    _active.set(True)
    received: list[int] = []
    block = trio.CancelScope()
    try:
        with _received(received, block.cancel), block:
            yield
    except BaseException as error:
        if received and not isinstance(error, GeneratorExit):
            raise Interrupted(received[0]) from error  # noqa: ASYNC104 - it ends what a cancellation ends, and more
        raise
    finally:
        _active.set(False)
    if received:
        raise Interrupted(received[0])


@contextmanager
def _received(received: list[int], act: Callable[[], object]) -> Generator[None]:
    """Note each ending signal at once; call ``act``, in the event loop, soon after each."""
    token = trio.lowlevel.current_trio_token()
    clock = trio.lowlevel.current_clock()  # it also works between two steps of a guest run
    repeats = SignalRepeats()
    listeners = signal_counter()

    def act_and_end() -> None:
        act()
        listeners.end()

    @trio.lowlevel.enable_ki_protection
    def note(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as the system calls it
        received.append(signum)
        listeners.count += repeats.is_new(signum, clock.current_time())
        token.run_sync_soon(act_and_end)

    before = {signum: signal.signal(signum, note) for signum in ending_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
