"""One connection at the sandbox: reads messages, has them processed, has the answers written, keeps deadlines.

The task that calls `ServedConnection.serve` owns the stream and closes it, whatever happens. It runs the upgrade, then
reads. In the connection's own nursery, one task writes what is queued (the only one that writes), and one sends pings
and ends an idle connection; each delayed answer waits in another task. Requests that wait for the venue's processing
delay do so in the exchange's nursery: what was received is processed even if its connection is gone.

If it is cancelled anywhere, the stream is closed and its record says so; nothing is left half done on the book.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio
from wsproto import WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trio_cancel.sandbox._delivery import PING, PONG, TEXT, End, Mood, Step, close_frame, deliver, frame
from trio_cancel.sandbox._exchange import Exchange, Received
from trio_cancel.sandbox._faults import Fault, Point
from trio_cancel.sandbox._log import ConnectionRecord, RequestRecord
from trio_cancel.sandbox._outbox import Gone, Outbox, finish
from trio_cancel.sandbox._tally import FrameTally
from trio_cancel.sandbox._upgrade import READ_SIZE, NoUpgrade, answer_upgrade, read_upgrade, response

SIDE_DOOR = "/sandbox"
UPGRADE_WITHIN = 10.0  # s, from the start of the connection to the whole request
CLOSE_WITHIN = 5.0  # s, from the end that we began to the client's
MAX_MESSAGE = 2**20  # bytes


@attrs.frozen
class Habits:
    """How the venue treats its connections; seconds.

    Args:
        delay: for processing a request: fixed, or (least, most) drawn for each.
        idle_timeout: without a message, a ping or an answer to our ping; None for no limit.
        ping_interval: between the venue's pings; None for no pings.
    """

    delay: float | tuple[float, float] = 0.0
    idle_timeout: float | None = 60.0
    ping_interval: float | None = 30.0


class ServedConnection:
    """One client's connection over any stream, after its TLS handshake.

    Args:
        side_door: answers a message that comes through the side door.
        nursery: the exchange's; runs what outlives the connection.
        rng: draws delays and shapes of faults.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        exchange: Exchange,
        side_door: Callable[[str], str],
        nursery: trio.Nursery,
        rng: random.Random,
        habits: Habits,
    ) -> None:
        self._stream = stream
        self._exchange = exchange
        self._side_door = side_door
        self._lasting = nursery
        self._rng = rng
        self._habits = habits
        self.record: ConnectionRecord = exchange.log.add_connection(trio.current_time())
        self._outbox = Outbox(stream, self._end)
        self._mood = Mood.FAIR
        self._tally = FrameTally()
        self._parts: list[str] = []
        self._parts_size = 0
        self._heard_at = 0.0
        self._pings = 0
        self._doomed = False  # messages are not accepted any more: the client sent Close, or broke the protocol
        self._ended = False

    async def serve(self) -> None:
        """Serve the connection until it ends; always closes the stream."""
        try:
            websocket = await self._upgrade()
            self.record.upgraded_at = self._heard_at = trio.current_time()
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._outbox.run)
                self._nursery.start_soon(self._keep_time)
                await self._read(websocket)
                self._nursery.cancel_scope.cancel()
        except NoUpgrade as reason:
            self._note(str(reason))
            await finish(self._stream)
        except Gone:
            self._note("the stream broke")
        finally:
            self._ended = True
            self._note("the sandbox was closed")
            self.record.closed_at = trio.current_time()
            self.record.incomplete = self._tally.pending
            await trio.aclose_forcefully(self._stream)

    async def _upgrade(self) -> WSConnection:
        upgrade = None
        with trio.move_on_after(UPGRADE_WITHIN):
            upgrade = await read_upgrade(self._stream)
        if upgrade is None:
            raise NoUpgrade("no upgrade request in time")
        self.record.path = upgrade.path
        fault = None
        if upgrade.path != SIDE_DOOR:
            fault = self.record.fault = self._exchange.plan.at(Point.UPGRADE)
        elif upgrade.from_browser:  # a web page must not reach into a developer's sandbox
            await self._stream.send_all(response(403, {}, b"Not from a browser.\n"))
            raise NoUpgrade("a browser at the side door")
        await answer_upgrade(self._stream, upgrade, self._exchange.now(), fault, self._exchange.plan.faults, self._rng)
        return upgrade.websocket

    def _note(self, text: str) -> None:
        self.record.note = self.record.note or text

    # Reading

    async def _read(self, websocket: WSConnection) -> None:
        try:
            while True:
                if self._mood is Mood.NOT_READING:
                    await trio.sleep_forever()
                self._take(websocket)
                data = bytes(await self._stream.receive_some(READ_SIZE))
                if not data:
                    self._note("the client ended the stream")
                    self._outbox.peer_ended.set()
                    self._put(Step(end=End.FINISH))  # after the answers that are still due
                    await trio.sleep_forever()
                self._tally.feed(data)
                if not self._doomed:
                    websocket.receive_data(data)
        except Gone:
            self._note("the stream broke")

    def _take(self, websocket: WSConnection) -> None:
        if self._doomed:
            return
        for event in websocket.events():
            if isinstance(event, CloseConnection):
                self._doomed = True
                if websocket.state is ConnectionState.OPEN:  # wsproto's way of saying that the peer broke the protocol
                    self._close(int(event.code), event.reason or "protocol error", End.FINISH)
                else:
                    self.record.close_code = int(event.code)
                    self._closed_by_client()
            else:
                self._take_event(event)
            if self._mood is Mood.NOT_READING or self._doomed:
                return

    def _take_event(self, event: Event) -> None:
        match event:
            case TextMessage(data=data, message_finished=finished):
                self._heard_at = trio.current_time()
                self._parts.append(data)
                self._parts_size += len(data)
                if self._parts_size > MAX_MESSAGE:
                    self._close(1009, "message too big")
                    self._parts.clear()
                elif finished:
                    whole = "".join(self._parts)
                    self._parts.clear()
                    self._parts_size = 0
                    self._take_text(whole)
            case BytesMessage():
                self._close(1003, "text messages only")
            case Ping(payload=payload):
                self._heard_at = trio.current_time()
                if self._mood is Mood.FAIR:
                    self._put(Step(frame(PONG, bytes(payload))))
            case Pong(payload=payload) if bytes(payload) == b"%d" % self._pings:
                # Source: _venue/contract.md, "Connection": an unsolicited pong does not keep it alive.
                self._heard_at = trio.current_time()
            case _:
                pass

    def _take_text(self, text: str) -> None:
        if self._mood in (Mood.DEAF, Mood.STALLED):
            self.record.unread += 1
        elif self.record.path == SIDE_DOOR:
            self._put(Step(frame(TEXT, self._side_door(text).encode())))
        else:
            received = self._exchange.receive(text, self.record, trio.current_time())
            delay = self._habits.delay
            seconds = self._rng.uniform(*delay) if isinstance(delay, tuple) else delay
            if seconds:
                self._lasting.start_soon(_later, seconds, self._process, received)
            else:
                self._process(received)

    def _process(self, received: Received) -> None:
        silent = self._ended or self._mood is not Mood.FAIR
        answer = self._exchange.process(received, trio.current_time(), silent=silent)
        if answer.fault is Fault.ACTS_LATE:
            self._lasting.start_soon(self._apply_late, received)
        if silent:
            received.record.note = "the connection was given up before the answer"
            return
        for step in deliver(answer, self._exchange.plan.faults, self._rng):
            if step.mood is not None:
                self._turn(step.mood, received.record.note)
            if step.payload is not None:
                received.record.replies += (step.payload,)
            if step.after:
                self._nursery.start_soon(_later, step.after, self._put, step, received.record)
            elif step.data or step.end is not End.STAY:
                self._put(step, received.record)

    async def _apply_late(self, received: Received) -> None:
        await trio.sleep(self._rng.uniform(*self._exchange.plan.faults.acts_late))
        self._exchange.apply_late(received.record, trio.current_time())

    def _turn(self, mood: Mood, why: str) -> None:
        self._mood = mood
        self._note(why)
        if mood is not Mood.DEAF:
            self._nursery.start_soon(_later, self._exchange.plan.faults.hold, self._end, why)

    # Writing and ending

    def _put(self, step: Step, record: RequestRecord | None = None) -> None:
        if step.end is not End.STAY and not self._outbox.ending:
            self._nursery.start_soon(_later, CLOSE_WITHIN, self._end, "the client did not close in time")
        self._outbox.put(step, record)

    def _close(self, code: int, reason: str, end: End = End.CLOSE) -> None:
        if self._mood is Mood.FAIR:  # any other mood has nothing more to say
            self._note(f"closed by the sandbox: {code} {reason}")
            self._mood = Mood.DEAF
            self._put(Step(close_frame(code, reason), end=end))

    def _closed_by_client(self) -> None:
        self._note("closed by the client")
        if self._mood in (Mood.STALLED, Mood.APPLYING):
            return
        code = self.record.close_code or 1005
        hold = self._exchange.plan.faults.hold
        answered = self._mood is Mood.DEAF  # our Close was first, theirs is the answer
        trading = self.record.path != SIDE_DOOR
        fault = self._exchange.plan.at(Point.CLOSE) if trading and not answered else None
        self.record.fault = self.record.fault or fault
        self._mood = Mood.DEAF
        match fault:
            case Fault.CLOSE_IGNORED:
                self._nursery.start_soon(_later, hold, self._end, str(fault))
            case Fault.CLOSE_WITHOUT_END:
                self._put(Step(close_frame(code)))
                self._nursery.start_soon(_later, hold, self._end, str(fault))
            case Fault.CLOSE_PINGED:
                pings = b"".join(frame(PING, b"closing %d" % count) for count in range(3))
                self._put(Step(pings + close_frame(code), end=End.FINISH))
            case _:
                self._put(Step(b"" if answered else close_frame(code), end=End.FINISH))

    def _end(self, why: str) -> None:
        self._note(why)
        self._nursery.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        idle, interval = self._habits.idle_timeout, self._habits.ping_interval
        next_ping = trio.current_time() + interval if interval is not None else float("inf")
        while True:
            await trio.sleep_until(min(next_ping, self._heard_at + idle if idle is not None else float("inf")))
            now = trio.current_time()
            if idle is not None and now >= self._heard_at + idle:  # as slept for: the difference could round below it
                if self._mood is not Mood.FAIR:
                    self._end("idle")
                self._close(1001, "idle")
                return
            if interval is not None and now >= next_ping:
                next_ping = now + interval
                if self._mood is Mood.FAIR:
                    self._pings += 1
                    self._put(Step(frame(PING, b"%d" % self._pings)))


async def _later(seconds: float, call: Callable[..., None], *args: object) -> None:
    await trio.sleep(seconds)
    call(*args)
