"""``cancel_on_signals``: SIGTERM, SIGINT and SIGHUP end the block in an orderly way. Each test has a run of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.tools.venues import open_venue
from trio_cancel import ConfigurationError, Interrupted, OrdersLeft, cancel_on_signals
from trio_cancel.sandbox import Fault

SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if sys.platform != "win32" else [])]
EACH = pytest.mark.parametrize("signum", SIGNALS)


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))


async def send(signum: int, *seconds: float) -> None:
    for wait in seconds:
        await trio.sleep(wait)
        raise_while_nobody_runs(signum)


@trio.lowlevel.enable_ki_protection
def raise_while_nobody_runs(signum: int) -> None:
    signal.raise_signal(signum)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, the handlers are as before."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    yield
    assert before == [signal.getsignal(signum) for signum in SIGNALS]


@EACH
def test_a_signal_cancels_the_block_so_that_its_scopes_run(signum: int) -> None:
    async def main() -> None:
        async with open_venue(delay=1.0) as venue:
            with pytest.raises(Interrupted) as caught:
                async with (
                    cancel_on_signals(),
                    venue.open() as ws,
                    ws.open_order_scope() as orders,
                    trio.open_nursery() as nursery,
                ):
                    for order_id in venue.orders(3):
                        await orders.add(order_id)
                    nursery.start_soon(send, signum, 1)
                    await trio.sleep_forever()
            assert caught.value.signum == signum
            assert str(signum.real) in str(caught.value)
            assert caught.value.__cause__ is None
            assert not isinstance(caught.value, Exception)
            assert venue.book.open_orders() == []
            assert trio.current_time() < 5

    run(main)


@EACH
def test_what_is_left_is_its_cause(signum: int) -> None:
    async def main() -> None:
        async with open_venue() as venue:
            with pytest.raises(Interrupted) as caught:
                async with cancel_on_signals(), venue.open() as ws, ws.open_order_scope() as orders:
                    await orders.add(external_id="never")
                    signal.raise_signal(signum)
                    await trio.sleep_forever()
            assert isinstance(caught.value.__cause__, OrdersLeft)
            assert caught.value.__cause__.report is orders.report

    run(main)


@EACH
@pytest.mark.parametrize("child", [False, True])
def test_a_second_signal_ends_the_grace_early(signum: int, child: bool) -> None:
    async def main() -> None:
        async with open_venue() as venue, trio.open_nursery() as outer:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)

            async def trade() -> None:
                async with ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    await trio.sleep_forever()

            with pytest.raises(Interrupted) as caught:
                async with cancel_on_signals(), venue.open() as ws:
                    outer.start_soon(send, signum, 1, 2)
                    if child:
                        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - in a task of its own
                            nursery.start_soon(trade)
                    else:
                        await trade()
            assert trio.current_time() == pytest.approx(3, abs=2.1)
            cause = caught.value.__cause__
            if isinstance(cause, ExceptionGroup):
                (cause,) = cause.exceptions
            assert isinstance(cause, OrdersLeft)
            assert cause.report.counts["unknown"] == 1

    run(main)


def test_the_first_signal_while_the_orders_are_canceled_waits_for_them() -> None:
    async def main() -> None:
        async with open_venue(delay=5.0) as venue, trio.open_nursery() as outer:
            with pytest.raises(Interrupted) as caught:
                async with cancel_on_signals(), venue.open() as ws, ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    outer.start_soon(send, signal.SIGINT, 1)
            assert caught.value.__cause__ is None
            assert orders.report is not None
            assert orders.report.counts["canceled"] == 1

    run(main)


def test_within_a_scope_it_is_left_by_interrupted_and_a_second_signal_is_heard() -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            with pytest.raises(Interrupted) as caught:
                async with ws.open_order_scope() as orders, cancel_on_signals():
                    await orders.add(*venue.orders(1))
                    nursery.start_soon(send, signal.SIGINT, 1, 2)
                    await trio.sleep_forever()
            assert trio.current_time() == pytest.approx(3, abs=0.1)
            assert "(unknown)" in caught.value.__notes__[0]

    run(main)


def test_no_loop_swallows_it_by_accident() -> None:
    async def main() -> None:
        turns = 0
        with pytest.raises(Interrupted):
            while True:
                turns += 1
                with suppress(Exception):
                    async with cancel_on_signals():
                        signal.raise_signal(signal.SIGTERM)
                        while True:
                            with suppress(Exception):
                                await trio.sleep(1)
        assert turns == 1

    run(main)


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_in_the_last_moment_counts(count: int) -> None:
    async def main() -> None:
        with pytest.raises(Interrupted):
            async with cancel_on_signals():
                for _ in range(count):
                    signal.raise_signal(signal.SIGTERM)

    run(main)


def test_an_exception_of_the_block_is_its_cause() -> None:
    async def main() -> None:
        error = ValueError("while it was ending")
        with pytest.raises(Interrupted) as caught:
            async with cancel_on_signals():
                signal.raise_signal(signal.SIGTERM)
                try:
                    await trio.sleep_forever()
                finally:
                    raise error
        assert caught.value.__cause__ is error

    run(main)


def test_a_scope_around_it_that_fires_at_the_same_time_does_not_hide_it() -> None:
    async def main() -> None:
        with pytest.raises(Interrupted), trio.CancelScope() as scope:
            async with cancel_on_signals():
                signal.raise_signal(signal.SIGTERM)
                scope.cancel()
                await trio.sleep_forever()

    run(main)


def test_without_a_signal_it_is_not_felt() -> None:
    async def main() -> None:
        async with cancel_on_signals():
            await trio.sleep(1)
        with pytest.raises(ValueError, match="as it is"):
            async with cancel_on_signals():
                raise ValueError("as it is")
        with trio.move_on_after(1) as scope:
            async with cancel_on_signals():
                await trio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP")
@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_closed_terminal_that_signals_twice_asks_once(first: int, second: int) -> None:
    async def main() -> None:
        async with open_venue(delay=5.0) as venue, trio.open_nursery() as outer:
            with pytest.raises(Interrupted) as caught:
                async with cancel_on_signals(), venue.open() as ws, ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    outer.start_soon(send, first, 1)
                    outer.start_soon(send, second, 1.01)
                    await trio.sleep_forever()
            assert caught.value.signum == first
            assert orders.report is not None
            assert orders.report.counts["canceled"] == 1

    run(main)


@EACH
def test_a_signal_that_was_ignored_stays_ignored(signum: int) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    other = signal.SIGINT if signum == signal.SIGTERM else signal.SIGTERM

    async def main() -> None:
        async with open_venue() as venue:
            async with cancel_on_signals(), venue.open() as ws, ws.open_order_scope() as orders:
                await orders.add(*venue.orders(1))
                assert signal.getsignal(signum) is signal.SIG_IGN
                signal.raise_signal(signum)
                await trio.sleep(1)
            with pytest.raises(Interrupted):
                async with cancel_on_signals():
                    signal.raise_signal(other)
                    await trio.sleep_forever()
        assert signal.getsignal(signum) is signal.SIG_IGN

    try:
        run(main)
    finally:
        signal.signal(signum, before)


GUEST = """
import asyncio, os, signal, sys, trio
from trio_cancel import Interrupted, cancel_on_signals

async def guest():
    async with cancel_on_signals():
        print("ready", flush=True)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            print("cleaned up", flush=True)

async def host():
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    ended = []
    def finish(outcome):
        ended.append(outcome)
        done.set()
    trio.lowlevel.start_guest_run(
        guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=finish,
        host_uses_signal_set_wakeup_fd=True,
    )
    await done.wait()
    try:
        ended[0].unwrap()
    except Interrupted as interrupted:
        print("interrupted by", interrupted.signum)
        sys.exit(128 + interrupted.signum)

asyncio.run(host())
"""


@EACH
def test_in_a_guest_run_as_well(signum: int) -> None:
    with subprocess.Popen([sys.executable, "-c", GUEST], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signum)
        assert child.stdout.read() == f"cleaned up\ninterrupted by {int(signum)}\n"
    assert child.returncode == 128 + signum


def test_it_is_used_once() -> None:
    async def main() -> None:
        async with cancel_on_signals(), trio.open_nursery() as nursery:
            with pytest.raises(ConfigurationError, match="in use already"):
                async with cancel_on_signals():
                    pytest.fail("twice")

            async def elsewhere() -> None:
                with pytest.raises(ConfigurationError, match="in use already"):
                    async with cancel_on_signals():
                        pytest.fail("twice")

            nursery.start_soon(elsewhere)

    run(main)


def test_it_is_used_in_the_main_thread() -> None:
    async def inner() -> None:
        with pytest.raises(ConfigurationError, match="main thread"):
            async with cancel_on_signals():
                pytest.fail("another thread")

    async def main() -> None:
        await trio.to_thread.run_sync(run, inner)

    trio.run(main)


CHILD = """
import sys, trio
from trio_cancel import Interrupted, cancel_on_signals

async def main():
    async with cancel_on_signals():
        print("ready", flush=True)
        try:
            await trio.sleep_forever()
        finally:
            print("cleaned up", flush=True)

try:
    trio.run(main)
except Interrupted as interrupted:
    print("interrupted by", interrupted.signum)
    sys.exit(128 + interrupted.signum)
"""


@EACH
def test_a_process_ends_in_an_orderly_way(signum: int) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signum)
        assert child.stdout.read() == f"cleaned up\ninterrupted by {int(signum)}\n"
    assert child.returncode == 128 + signum
