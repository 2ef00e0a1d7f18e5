"""Name resolution hurts no reconnect: busy threads, a resolver that fails, hangs or lies, no thread, no file left."""

from __future__ import annotations

import errno
import resource
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from trio_cancel import HandshakeFailed, open_trading_ws
from trio_cancel._net import names as names_module
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._net.names import Names
from trio_cancel._net.stream import open_stream
from trio_cancel.sandbox import Fault, open_sandbox

NAME = "localhost"
system = socket.getaddrinfo


class System:
    """Stands for the system's resolver."""

    def __init__(self) -> None:
        self.answer: Callable[[int], Any] = partial(self.addresses, "127.0.0.1")
        self.asked = 0
        self.go_on = threading.Event()

    def getaddrinfo(self, host: object, port: int, *args: Any, **kwargs: Any) -> Any:
        if host in (NAME, NAME.encode()):
            self.asked += 1
            return self.answer(port)
        return system(host, port, *args, **kwargs)  # type: ignore[arg-type]  # whatever it is

    @staticmethod
    def addresses(first: str, port: int) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (first, port))]

    def fail(self, port: int) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def hang(self, port: int) -> Any:
        assert self.go_on.wait(60)
        return self.addresses("127.0.0.1", port)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    found = System()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.go_on.set()


@asynccontextmanager
async def listening() -> AsyncGenerator[int]:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def connect(names: Names, port: int) -> None:
    stream = await open_stream(parse_endpoint(f"ws://{NAME}:{port}", allow_insecure=True), names=names)
    await stream.aclose_forcefully()


def no_thread(*_: object, **__: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_program_that_keeps_trios_threads_busy(resolver: System) -> None:
    done = threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with listening() as port, trio.open_nursery() as nursery:
        try:
            limiter.total_tokens = 2
            for _ in range(3):
                nursery.start_soon(trio.to_thread.run_sync, done.wait, 60)
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.available_tokens == 0
            with trio.fail_after(10):
                await connect(Names(), port)
        finally:
            done.set()
            limiter.total_tokens = 40
    assert resolver.asked == 1


@pytest.mark.parametrize("fault", ["fail", "hang", "lie"])
async def test_the_last_good_addresses_are_kept(
    resolver: System, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(patience=0.05)
    async with listening() as port:
        with trio.fail_after(20):
            await connect(names, port)
            answers: dict[str, Callable[[int], Any]] = {
                "fail": resolver.fail,
                "hang": resolver.hang,
                "lie": partial(resolver.addresses, "127.0.0.99"),
            }
            resolver.answer = answers[fault]
            for _ in range(6):
                await connect(names, port)
    if fault == "hang":
        assert resolver.asked == 1 + names_module.THREADS  # no more of them are left hanging
        assert "earlier lookups hang" in caplog.text
    else:
        assert resolver.asked == 7
    if fault != "lie":
        assert f"{NAME} cannot be resolved now" in caplog.text


async def test_bad_addresses_do_not_take_the_place_of_good_ones(resolver: System) -> None:
    names = Names()
    async with listening() as port:
        await connect(names, port)
        resolver.answer = partial(resolver.addresses, "127.0.0.99")
        await connect(names, port)
        resolver.answer = resolver.fail
        await connect(names, port)


async def test_a_late_answer_is_used_the_next_time(resolver: System, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(patience=0.05)
    async with listening() as port:
        resolver.answer = resolver.hang
        with trio.move_on_after(0.05):
            await connect(names, port)
        resolver.go_on.set()
        with trio.fail_after(10):
            while not names._late:  # noqa: ASYNC110 - another thread brings it
                await trio.sleep(0.01)
        resolver.answer = resolver.fail
        await connect(names, port)


async def test_nothing_kept_is_a_failure(resolver: System) -> None:
    resolver.answer = resolver.fail
    async with listening() as port:
        with pytest.raises(HandshakeFailed, match="cannot be resolved") as caught:
            await connect(Names(), port)
    assert isinstance(caught.value.cause, socket.gaierror)


async def test_no_thread_can_be_started(
    resolver: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    names = Names()
    async with listening() as port:
        await connect(names, port)
        assert "can't start new thread" in caplog.text
        assert "in the event loop" in caplog.text
        resolver.answer = resolver.hang  # which would hold the loop
        await connect(names, port)
    assert resolver.asked == 1


async def test_numbers_need_no_resolver(resolver: System, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as port:
        monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
        monkeypatch.setattr(socket, "getaddrinfo", no_thread)
        stream = await open_stream(parse_endpoint(f"ws://127.0.0.1:{port}"))
        await stream.aclose_forcefully()


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
async def test_no_file_left_is_named(resolver: System, host: str) -> None:
    async with listening() as port:
        endpoint = parse_endpoint(f"ws://{host}:{port}", allow_insecure=True)
        resolver.answer = resolver.fail  # as the system's does when it can open nothing
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
            with pytest.raises(HandshakeFailed, match=r"too many open files.*ulimit -n"):
                await open_stream(endpoint)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)


async def test_the_first_that_answers_wins_and_nothing_stays_open(resolver: System) -> None:
    async with listening() as port:
        dead = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.99", 1)),
        ]
        resolver.answer = lambda port: [*dead, *resolver.addresses("127.0.0.1", port), *dead]
        stream = await Names().connect(NAME, port)
        assert stream.socket.getpeername() == ("127.0.0.1", port)
        await stream.aclose()
        resolver.answer = lambda _: dead
        with pytest.raises(OSError, match="no address") as caught:
            await Names().connect(NAME, port)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert {error.errno for error in caught.value.__cause__.exceptions if isinstance(error, OSError)} <= {
        errno.ECONNREFUSED,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENETUNREACH,
    }


async def test_a_session_reconnects_while_the_resolver_is_down(resolver: System) -> None:
    async with open_sandbox(tls=True) as sandbox:
        url = sandbox.url.replace(
            "127.0.0.1", NAME
        )  # the certificate is for localhost, and is checked against the name
        async with open_trading_ws(url, credentials=sandbox.credentials, ssl_context=sandbox.ssl_context) as ws:
            resolver.answer = resolver.fail
            lost, order = sandbox.book.create(), sandbox.book.create()
            sandbox.fault_on(lost.id, Fault.DROP_BEFORE)
            with trio.fail_after(20):
                assert (await ws.cancel(lost.id)).status == "canceled"
                assert (await ws.cancel(order.id)).status == "canceled"
            assert ws.statistics().connections == 2
    assert resolver.asked == 2
