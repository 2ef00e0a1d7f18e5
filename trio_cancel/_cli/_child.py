"""Runs a command inside something else: passes signals on to it, and returns its exit status.

One task waits for the child. Signals that come before the child exists cancel ``Relay.scope``. Afterwards they go to
the child, and the wait goes on until it has ended, however long it takes.

A Ctrl-C and the hangup of a terminal reach the child without our help: the system sends them to the whole process
group. If we passed them on, the child would get two signals for one, and the second ends the grace of order scopes. So
while the child runs, a thread receives the signals, because it can see where they come from (``sigwaitinfo``). Where
there is no such call, all signals are passed on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import trio

from trio_cancel._cli._failure import CommandError, why_of

NOT_FOUND = 127
NOT_RUN = 126
SIGNALLED = 128
FROM_SYSTEM = 0x80
"""``si_code`` of a signal that the system itself has sent (``SI_KERNEL``), as for a terminal."""
PASSED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class Relay:
    """Receives the signals of this process, and passes them on to the child as soon as there is one.

    Attributes:
        scope: cancelled by a signal that comes before that.
        signum: that signal, or None.
        signals: those that are handled; one that is ignored stays ignored, also in the child.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.signum: int | None = None
        self.signals = [
            found
            for name in PASSED
            if (found := getattr(signal, name, None)) is not None and signal.getsignal(found) is not signal.SIG_IGN
        ]
        self._child: trio.Process | None = None

    def take(self, signum: int) -> None:
        """Pass a signal on."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(signum)
        else:
            self.signum = signum
            self.scope.cancel()

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take signals until cancelled."""
        with trio.open_signal_receiver(*self.signals) as received:
            task_status.started()
            async for signum in received:
                self.take(signum)

    async def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command to its end; return its exit status, or 128 plus the signal's number if a signal ended it.

        Raises:
            CommandError: the command cannot be started.

        Cancelled: before the start, the command is not started; after it, its end is awaited first.
        """
        with self._seen() as unmask:
            try:
                self._child = child = await trio.lowlevel.open_process(
                    list(command), env=dict(environment), preexec_fn=unmask
                )
            except OSError as error:
                status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN
                raise CommandError(
                    f"{command[0]} cannot be run ({why_of(error)}): give a command after --.", status=status
                ) from error
            with trio.CancelScope(shield=True):
                status = await child.wait()
        return status if status >= 0 else SIGNALLED - status

    @contextmanager
    def _seen(self) -> Generator[Callable[[], object] | None]:
        """Receive signals that somebody has sent, and leave those that the system has sent to the whole group.

        Yields what the child must call first, because it inherits the mask that keeps the signals for the thread.
        """
        if not hasattr(signal, "sigwaitinfo"):
            yield None
            return
        token = trio.lowlevel.current_trio_token()
        over = threading.Event()

        def wait() -> None:
            while True:
                found = signal.sigwaitinfo(self.signals)
                if over.is_set():
                    return
                if found.si_code != FROM_SYSTEM:
                    token.run_sync_soon(self.take, found.si_signo)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        thread = threading.Thread(target=wait, name="signals", daemon=True)
        thread.start()
        try:
            yield partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        finally:
            over.set()
            if self.signals and thread.ident is not None:
                signal.pthread_kill(thread.ident, self.signals[0])
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
