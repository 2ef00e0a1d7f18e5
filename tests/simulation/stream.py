"""A connection in memory that behaves like a bad network: bounded buffers, latency, resets, stalls, black holes.

A :class:`Wire` has two ends, each a ``trio.abc.HalfCloseableStream``; both directions are :class:`Pipe` objects. What
the client's end was offered, what of it was accepted and what it read is kept on record for the checker.

Cancellation: a send that is cancelled has accepted what ``Pipe.data`` holds; a receive that is cancelled loses nothing.
"""

from __future__ import annotations

import math
import random
from collections import deque
from enum import StrEnum

import attrs
import trio

from trio_cancel._net.sockets import StreamRaw

from .record import Recorder, Stamp


class NetFault(StrEnum):
    """What can go wrong below the WebSocket."""

    REFUSED = "net_refused"  # no TCP connection
    HANGS = "net_hangs"  # the TCP connection is never made
    SLOW = "net_slow"  # it takes a while
    CERTIFICATE = "net_certificate"  # stands for an untrusted certificate: there is no TLS in a simulation
    RESET_LOST = "net_reset_lost"  # reset; what was under way is lost
    RESET_KEPT = "net_reset_kept"  # reset; what was under way still arrives
    CUT = "net_cut"  # the venue's bytes end, as if it had closed
    BLACKHOLE = "net_blackhole"  # half-open: nothing arrives any more, in either direction
    STALL = "net_stall"  # one direction stops for a while
    ODD_RAISES = "odd_dial_raises"  # a dial of the user's raises whatever it likes
    ODD_RETURNS = "odd_dial_returns"  # it returns no stream
    ODD_CLOSED = "odd_dial_closed"  # it returns a stream that is closed
    ODD_RETRY = "odd_retry_after"  # the upgrade is refused with a Retry-After that is out of range
    ODD_SEND = "odd_send"  # the stream's send_all raises an error of its own
    ODD_RECEIVE = "odd_receive"  # its receive_some does

    @property
    def at_dial(self) -> bool:
        """Whether it strikes before there is a connection."""
        return self in _AT_DIAL

    @property
    def odd(self) -> bool:
        """Whether it is an error of the user's own code, or an answer as odd."""
        return self.value.startswith("odd_")


_AT_DIAL = frozenset(
    {
        NetFault.REFUSED,
        NetFault.HANGS,
        NetFault.SLOW,
        NetFault.CERTIFICATE,
        NetFault.ODD_RAISES,
        NetFault.ODD_RETURNS,
        NetFault.ODD_CLOSED,
        NetFault.ODD_RETRY,
    }
)


@attrs.frozen
class Road:
    """What one connection is like.

    Args:
        capacity: bytes that a direction holds before its sender must wait.
        latency: seconds that bytes travel.
        most: bytes that one send accepts, and one receive returns, at most.
        fault: what goes wrong, if anything.
        upward: whether bytes to the venue are counted for ``at_byte``, else those to the client.
        at_byte: how many bytes pass before the fault strikes.
        seconds: how long a stall or a slow connect lasts.
        direct: whether the client may use its end as it uses a socket, sending without waiting, rather than as a
            stream of somebody else's.
    """

    capacity: int = 65_536
    latency: float = 0.0
    most: int = 1 << 30
    fault: NetFault | None = None
    upward: bool = True
    at_byte: int = 0
    seconds: float = 0.0
    direct: bool = True


@attrs.define(eq=False)
class Pipe:
    """One direction."""

    road: Road
    data: bytearray = attrs.field(factory=bytearray)  # everything accepted
    read: int = 0  # bytes that the receiver took
    chunks: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    size: int = 0
    frozen_until: float = -math.inf
    eof: bool = False
    broken: bool = False  # senders fail; receivers, too, once ``chunks`` is empty
    sender_closed: bool = False
    receiver_closed: bool = False
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def wake(self) -> None:
        self.changed.unpark_all()

    def ready_at(self) -> float:
        """When the receiver can go on without anything new: inf for never."""
        if self.chunks:
            return max(self.chunks[0][0], self.frozen_until)
        return self.frozen_until if self.eof or self.broken else math.inf


class Wire:
    """One connection; ``number`` counts them."""

    def __init__(self, number: int, road: Road, recorder: Recorder, rng: random.Random) -> None:
        self.number = number
        self.road = road
        self.recorder = recorder
        self.rng = rng
        self.up = Pipe(road)
        self.down = Pipe(road)
        self.client = End(self, self.down, self.up, watched=True)
        self.venue = End(self, self.up, self.down, watched=False)
        self.offers: list[tuple[Stamp, int, int]] = []  # when, and which bytes, the client's end was offered
        self.accepts: list[tuple[Stamp, int]] = []  # when, and how many bytes there were then
        self.reads: list[tuple[Stamp, int]] = []
        self.wrote_on = False  # bytes followed a write that was left unfinished
        self.venue_number: int | None = None
        self.unread_since: float | None = None  # when bytes came that the client had not read as it closed
        self.closed_at: Stamp | None = None  # by the client
        self.left_at: Stamp | None = None  # by the venue
        self.struck_at: float | None = None  # by the fault
        self.is_look = False  # opened for nothing but a look at the venue's clock
        self._rest: bytes | None = None
        self._follows = False

    def offered(self, data: bytes) -> None:
        """Put on record what the client's end was offered."""
        self._follows = self._rest is not None and data != self._rest
        start = len(self.up.data)
        self.offers.append((self.recorder.stamp(), start, start + len(data)))

    def accepted(self, data: bytes, count: int) -> None:
        """Put on record what was accepted of it."""
        self.accepts.append((self.recorder.stamp(), len(self.up.data)))
        self.wrote_on = self.wrote_on or self._follows
        self._rest = data[count:] if count < len(data) else None

    def room(self, pipe: Pipe) -> int:
        """How many bytes a direction accepts now."""
        room = min(pipe.road.capacity - pipe.size, pipe.road.most)
        if self.struck_at is None and self._counts(pipe):
            room = min(room, max(0, self.road.at_byte - len(pipe.data)))
        return room

    def strike_if_due(self, pipe: Pipe) -> bool:
        """Let the fault strike when enough bytes have passed."""
        if self.struck_at is not None or not self._counts(pipe) or len(pipe.data) < self.road.at_byte:
            return False
        self.struck_at = trio.current_time()
        fault = self.road.fault
        assert fault is not None
        self.recorder.faults[fault] += 1
        both = (self.up, self.down)
        match fault:
            case NetFault.RESET_LOST | NetFault.RESET_KEPT:
                for each in both:
                    each.broken = True
                    if fault is NetFault.RESET_LOST:
                        each.chunks.clear()
            case NetFault.CUT:
                self.down.eof = self.down.broken = self.up.broken = True
            case NetFault.BLACKHOLE:
                self.up.frozen_until = self.down.frozen_until = math.inf
            case NetFault.STALL:
                pipe.frozen_until = trio.current_time() + self.road.seconds
        for each in both:
            each.wake()
        return True

    def _counts(self, pipe: Pipe) -> bool:
        fault = self.road.fault
        return (
            fault is not None
            and not fault.at_dial
            and not fault.odd
            and pipe is (self.up if self.road.upward else self.down)
        )


class End(trio.abc.HalfCloseableStream):
    """One end of a wire."""

    def __init__(self, wire: Wire, incoming: Pipe, outgoing: Pipe, *, watched: bool) -> None:
        self._wire = wire
        self._in = incoming
        self._out = outgoing
        self._watched = watched
        self.closed = False

    @property
    def direct(self) -> bool:
        """Whether the client may use this end as it uses a socket."""
        return self._wire.road.direct

    def send_now(self, data: bytes) -> int:
        """Accept what there is room for, without waiting; return how many bytes that was."""
        wire, out = self._wire, self._out
        if self._watched:
            wire.offered(data)
        if self.closed or out.sender_closed:
            raise trio.ClosedResourceError("this end is closed")
        wire.strike_if_due(out)
        if out.broken or (out.receiver_closed and trio.current_time() >= out.frozen_until):
            raise trio.BrokenResourceError("the other end has gone")
        count = min(len(data), wire.room(out))
        if count <= 0:
            return 0
        chunk = bytes(data[:count])
        out.data += chunk
        out.size += count
        out.chunks.append((trio.current_time() + out.road.latency, chunk))
        if self._watched:
            wire.accepted(data, count)
        out.wake()
        wire.strike_if_due(out)
        return count

    async def wait_room(self) -> None:
        """Wait until trying to send again may be worth it. Cancelled: nothing has happened."""
        if self._wire.room(self._out) > 0:
            await trio.lowlevel.checkpoint()
            return
        frozen_until = self._out.frozen_until
        with trio.move_on_at(frozen_until if frozen_until > trio.current_time() else math.inf):
            await self._out.changed.park()

    async def send_some(self, data: bytes) -> int:
        """Wait until at least a byte is accepted; return how many were. Cancelled: none was."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            count = self.send_now(data)
            if count or not data:
                break
            await self.wait_room()
        if self._wire.rng.random() < 0.5:  # a socket that takes bytes at once need not let others run
            await trio.lowlevel.cancel_shielded_checkpoint()
        return count

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = bytes(data)
        sent = 0
        while sent < len(view):
            sent += await self.send_some(view[sent : sent + self._out.road.capacity])
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        if not self._out.broken:
            self._out.eof = self._out.sender_closed = True
            self._out.wake()
        if not self._watched and self._wire.left_at is None:
            self._wire.left_at = self._wire.recorder.stamp()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        incoming, road = self._in, self._in.road
        while True:
            if self.closed:
                raise trio.ClosedResourceError("this end is closed")
            ready_at = incoming.ready_at()
            if ready_at <= trio.current_time():
                break
            with trio.move_on_at(ready_at):
                await incoming.changed.park()
        if not incoming.chunks:
            if incoming.eof:
                return b""
            raise trio.BrokenResourceError("the connection was reset")
        most = min(max_bytes or 65_536, road.most)
        taken = bytearray()
        now = trio.current_time()
        while incoming.chunks and incoming.chunks[0][0] <= now and len(taken) < most:
            at, chunk = incoming.chunks.popleft()
            count = min(len(chunk), most - len(taken))
            taken += chunk[:count]
            if count < len(chunk):
                incoming.chunks.appendleft((at, chunk[count:]))
        incoming.size -= len(taken)
        incoming.read += len(taken)
        if self._watched:
            self._wire.reads.append((self._wire.recorder.stamp(), incoming.read))
        incoming.wake()
        return bytes(taken)

    def close(self) -> None:
        """Close at once; whoever waits in here is told."""
        if not self.closed:
            self.closed = True
            wire = self._wire
            if not self._watched:
                wire.left_at = wire.recorder.stamp()
            else:
                wire.closed_at = wire.recorder.stamp()
                if self._in.chunks and self._in.ready_at() <= trio.current_time():
                    wire.unread_since = self._in.ready_at()
            self._out.sender_closed = self._in.receiver_closed = True
            if not self._out.broken:
                self._out.eof = True
            self._out.wake()
            self._in.wake()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class DirectRaw:
    """What the client's transport makes of a direct wire: the same as of a socket."""

    def __init__(self, end: End) -> None:
        self._end = end
        self.sent = 0

    async def receive(self) -> bytes:
        try:
            return await self._end.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    def send_now(self, data: bytes) -> int:
        try:
            count = self._end.send_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error
        self.sent += count
        return count

    async def send(self, data: bytes) -> None:
        sent = self.send_now(data)
        while sent < len(data):
            await self._end.wait_room()
            sent += self.send_now(data[sent:])

    def close(self) -> None:
        self._end.close()

    async def aclose_forcefully(self) -> None:
        self._end.close()


def wrapped(stream: trio.abc.Stream) -> DirectRaw | StreamRaw:
    """Stands for ``StreamRaw`` in the client's transport, so that direct wires are used as sockets are."""
    return DirectRaw(stream) if isinstance(stream, End) and stream.direct else StreamRaw(stream)
