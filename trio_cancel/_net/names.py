"""From a host name to a connected socket, whatever the program and the system do to name resolution.

Names are looked up in threads of our own, so that a program that keeps all of trio's usual threads busy can still
reconnect. The last addresses that led to a connection are kept for a resolver that fails, lies, does not answer within
``PATIENCE``, or cannot be asked because no thread can be started. A lookup that hangs keeps its thread; a session has
at most ``THREADS`` of them.

Without kept addresses and without a thread, the name is looked up in the event loop, which waits for it. That happens
only on a first connection, and there is no other way to make one. A numeric address needs no lookup.

Cancellation: a lookup is abandoned in its thread, and sockets are closed.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from typing import Any

import trio

from trio_cancel._values.observer import logger

THREADS = 4
"""Lookups of one session that may be under way, or hang, at the same time."""
PATIENCE = 1.0
"""Seconds that a lookup may take when there are kept addresses."""
NEXT_ADDRESS = 0.25
"""Seconds until the next address is also tried (RFC 8305, section 5: connection attempt delay)."""

Address = tuple[int, int, int, Any]
"""Family, kind, protocol and socket address, as ``socket`` takes them."""


class Names:
    """The addresses of one host and port. Made once for a session, for all its connections."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._limiter = trio.CapacityLimiter(THREADS)
        self._good: list[Address] = []
        self._late: list[Address] = []  # from a lookup that nobody was waiting for any more
        self._found: list[Address] = []  # what the last connection was made from

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Return a TCP connection to one of the name's addresses; if none can be reached, to a kept one.

        Args:
            host: a name, or an address without brackets.
            port: its TCP port.

        Raises:
            socket.gaierror: the name cannot be resolved, and no address is kept.
            OSError: no address could be connected to.

        Cancelled: nothing stays open.
        """
        found = await self._find(host, port)
        sock, address = await _connect_to_one([*found, *(kept for kept in self._good if kept not in found)])
        self._found = found if address in found else self._good
        return trio.SocketStream(sock)

    def keep(self) -> None:
        """Keep the addresses that the last connection was made from: it reached the right server."""
        self._good = self._found

    async def _find(self, host: str, port: int) -> list[Address]:
        if (numeric := _in_numbers(host, port)) is not None:
            return numeric
        kept = self._late or self._good
        if not kept:
            return await self._look_up(host, port)
        if not self._limiter.available_tokens:
            why = "earlier lookups hang"
        else:
            with trio.move_on_after(self._patience) as scope:
                try:
                    return await self._look_up_in_thread(host, port)
                except (OSError, RuntimeError) as error:
                    why = str(error)
            if scope.cancelled_caught:
                why = f"no answer within {self._patience:g} s"
        logger.warning("%s cannot be resolved now (%s); its last good addresses are used", host, why)
        # If that was one lookup's late answer, next time start with what certainly worked, or with a newer one.
        self._late = []
        return kept

    async def _look_up(self, host: str, port: int) -> list[Address]:
        try:
            return await self._look_up_in_thread(host, port)
        except RuntimeError as error:
            logger.warning("no thread can be started (%s): %s is resolved in the event loop", error, host)
            return _ask_system(host, port)

    async def _look_up_in_thread(self, host: str, port: int) -> list[Address]:
        """Ask trio's resolver if the program has set one, otherwise the system's.

        Raises:
            OSError: it failed.
            RuntimeError: no thread can be started.
        """
        resolver = trio.socket.set_custom_hostname_resolver(None)  # there is no other way to read it
        if resolver is not None:
            trio.socket.set_custom_hostname_resolver(resolver)
            return _addresses(await resolver.getaddrinfo(host.encode(), port, 0, socket.SOCK_STREAM, 0, 0))

        def ask() -> list[Address]:
            self._late = found = _ask_system(host, port)
            return found

        found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        self._late = []
        return found


def _in_numbers(host: str, port: int) -> list[Address] | None:
    try:
        version = ip_address(host).version
    except ValueError:
        return None
    if version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, 0, (host, port, 0, 0))]


def _ask_system(host: str, port: int) -> list[Address]:
    return _addresses(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))


def _addresses(answers: list[Any]) -> list[Address]:
    """Return the addresses in the order of RFC 8305: the second is of another family than the first, if possible."""
    found = [(family, kind, protocol, address) for family, kind, protocol, _, address in answers]
    for index, address in enumerate(found):
        if address[0] != found[0][0]:
            found.insert(1, found.pop(index))
            break
    return found


async def _connect_to_one(addresses: list[Address]) -> tuple[trio.socket.SocketType, Address]:
    """Try one address after the other, each a little later than the one before, until one is connected."""
    won: list[tuple[trio.socket.SocketType, Address]] = []
    errors: list[OSError] = []

    @trio.lowlevel.enable_ki_protection
    async def attempt(address: Address, failed: trio.Event) -> None:
        try:
            sock = trio.socket.socket(*address[:3])
            try:
                await sock.connect(address[3])
                if not won:
                    won.append((sock, address))
                    nursery.cancel_scope.cancel()
            finally:
                if not won or won[0][0] is not sock:
                    sock.close()
        except OSError as error:
            errors.append(error)
            failed.set()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(NEXT_ADDRESS):
                    await failed.wait()
    except BaseException:
        for sock, _ in won:
            sock.close()
        raise
    if won:
        return won[0]
    if len(errors) == 1:
        raise errors[0]
    raise OSError("no address could be connected to") from ExceptionGroup("one of each address", errors)


def system_words(error: OSError) -> str:
    """Return the system's words for an error, without the address that trio puts before them."""
    words = error.strerror or str(error)
    return os.strerror(error.errno) if words.startswith("Error connecting to (") and error.errno else words
