"""The peeler against wsproto: the same messages and the same errors, however the stream is cut."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trio_cancel._net.frames import (
    MAX_HEAD,
    MAX_MESSAGE_SIZE,
    MAX_PEELED,
    MAX_PIECES,
    FramePeeler,
    HeadReader,
    NotHTTP,
    encode_close,
    encode_texts,
)

FORGED = b"\x81\x05\x81\x03abc\x81\x01"  # looks like frames from every second byte on


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, first: int = 0, mask: bool = False) -> bytes:
    """A server's frame, also a wrong one."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes([bit | size])
    elif size <= 0xFFFF:
        head = bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head = bytes([bit | 127]) + struct.pack("!Q", size)
    return bytes([first or (fin << 7 | opcode)]) + head + payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def join(events: list[Event]) -> tuple[list[str | bytes], list[object]]:
    """Whole messages, and the rest of the events (Close only with its code)."""
    messages: list[str | bytes] = []
    rest: list[object] = []
    parts: list[str | bytes] = []
    for event in events:
        match event:
            case TextMessage() | BytesMessage():
                parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    empty: str | bytes = "" if isinstance(event, TextMessage) else b""
                    messages.append(empty.join(parts))  # type: ignore[arg-type]  # parts of one message are alike
                    parts = []
            case Ping() | Pong():
                rest.append((type(event), bytes(event.payload)))
            case CloseConnection():
                rest.append((CloseConnection, int(event.code)))
    return messages, rest


def through_wsproto(pieces: list[bytes]) -> list[Event]:
    connection = Connection(ConnectionType.CLIENT)
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        events += connection.events()
        if any(isinstance(event, CloseConnection) for event in events):
            break
    return events


def through_peeler(pieces: list[bytes]) -> tuple[list[str], list[Event], FramePeeler]:
    """What was peeled, what wsproto made of the rest, and the peeler."""
    peeled: list[str] = []
    peeler = FramePeeler(lambda payloads: peeled.extend(payload.decode() for payload in payloads))
    connection = Connection(ConnectionType.CLIENT)
    events: list[Event] = []
    for piece in pieces:
        passing = peeler.feed(piece)
        if passing:
            connection.receive_data(passing)
            events += connection.events()
        if any(isinstance(event, CloseConnection) for event in events):
            break
    return peeled, events, peeler


def is_merge(whole: list[str | bytes], one: list[str], other: list[str | bytes]) -> bool:
    """Is `whole` made of both, each in its own order?"""
    reached = {0}  # how many of `one` may have been used so far
    for index, message in enumerate(whole):
        reached = {
            used + step
            for used in reached
            for step in (0, 1)
            if (
                (used < len(one) and one[used] == message)
                if step
                else (index - used < len(other) and other[index - used] == message)
            )
        }
    return len(one) in reached and len(one) + len(other) == len(whole)


def taken(stream: bytes) -> bytes:
    """A stream without the small text frame at its end that is not whole: it is held back, also if it is invalid."""
    peeled: list[bytes] = []
    passed = len(FramePeeler(peeled.extend).feed(stream))
    return stream[: passed + sum(len(payload) + (2 if len(payload) < 126 else 4) for payload in peeled)]


def check_same(stream: bytes, pieces: list[bytes]) -> None:
    expected, expected_rest = join(through_wsproto([taken(stream)]))
    peeled, events, _ = through_peeler(pieces)
    slow, rest = join(events)
    assert rest == expected_rest
    if expected_rest[-1:] == [(CloseConnection, 1007)]:
        # A slow message of invalid text: wsproto alone sees it, and replies after it in the same piece are peeled.
        peeled = peeled[: len(expected) - len(slow)]
    assert is_merge(expected, peeled, slow)


texts = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.text("\u00c1\u0081\u0101", max_size=80).map(str.encode),  # full of 0x81 bytes
    st.binary(min_size=1, max_size=40).map(lambda tail: FORGED * 3 + tail),
    st.sampled_from([b"", b"a" * 125, b"b" * 126, b"c" * 127, b"\x81" * 8, b"{}" * 3000, b"\xc3\x81" * 70]),
)
controls = st.builds(frame, st.binary(max_size=125), st.sampled_from([9, 10]))


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    payload = draw(texts)
    pieces = cut(payload, draw(st.lists(st.integers(0, 200), min_size=1, max_size=4)))
    opcode = draw(st.sampled_from([1, 2]))
    out = b""
    for index, piece in enumerate(pieces):
        out += frame(piece, 0 if index else opcode, fin=index == len(pieces) - 1)
        out += b"".join(draw(st.lists(controls, max_size=2)))
    return out


good = st.one_of(
    st.builds(frame, texts, st.just(1)),
    st.builds(frame, texts, st.just(1)),
    st.builds(frame, texts, st.just(2)),
    controls,
    fragmented(),
)
bad = st.sampled_from(
    [
        frame(b"abc", first=0xC1),  # reserved bit
        frame(b"abc", first=0x91),
        frame(b"abc", 3),  # reserved opcodes
        frame(b"abc", 0xB),
        frame(b"abcd" + b"abc", mask=True),  # masked by the server
        b"\x81\x7e\x00\x05hello",  # not the shortest form
        b"\x81\x7f" + struct.pack("!Q", 300) + b"x" * 300,
        b"\x82\x7f" + struct.pack("!Q", 1 << 63) + b"x" * 30,
        frame(b"ping", 9, fin=False),  # fragmented or long control frames
        frame(b"x" * 126, 9),
        frame(b"\xff\xfe"),  # no UTF-8
        frame(b"abc\xed\xa0\x80"),
        frame(b"abc\xc3"),
        frame(b"abc", 0),  # continues nothing
        frame(b"abc", 1, fin=False) + frame(b"abc"),  # does not continue
        frame(b"", 8),
        frame(struct.pack("!H", 1000) + b"bye", 8),
        frame(struct.pack("!H", 1005), 8),
        frame(b"\x03", 8),
    ]
)


@given(st.lists(good, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_the_peeler_gives_what_wsproto_gives(frames: list[bytes], places: list[int]) -> None:
    stream = b"".join(frames)
    check_same(stream, cut(stream, places))


@given(st.lists(good, max_size=4), bad, st.lists(good, max_size=3), st.lists(st.integers(0, 10_000), max_size=8))
def test_errors_are_those_of_wsproto(before: list[bytes], wrong: bytes, after: list[bytes], places: list[int]) -> None:
    stream = b"".join([*before, wrong, *after])
    check_same(stream, cut(stream, places))


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=5))
@example(b"\x81\x02\x80", [])
def test_any_bytes_at_all(stream: bytes, places: list[int]) -> None:
    check_same(stream, cut(stream, places))


@given(st.lists(good, min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_every_split_point_and_every_byte_alone(frames: list[bytes]) -> None:
    stream = b"".join(frames)[:700]
    for place in range(len(stream)):
        check_same(stream, [stream[:place], stream[place:]])
    check_same(stream, [stream[i : i + 1] for i in range(len(stream))])


@pytest.mark.parametrize("opcode", [1, 2])
def test_a_payload_cannot_forge_a_reply(opcode: int) -> None:
    forged = frame(b'{"id":"1","status":200}')
    inner = b"\x81" * 64 + forged * 4
    inner = inner if opcode == 2 else ("\u00c1" * 40).encode() + b"x" * 70_000 + inner.decode("latin-1").encode()
    stream = frame(inner, opcode) + frame(b"real")
    for place in range(len(stream)) if opcode == 2 else range(0, len(stream), 311):
        peeled, events, _ = through_peeler([stream[:place], stream[place:]])
        assert peeled == ["real"]
        assert len(join(events)[0]) == 1


def test_what_passes_is_the_stream_without_the_peeled_frames() -> None:
    ping, binary = frame(b"hi", 9), frame(b"\x81" * 300, 2)
    parts = [frame(b"one"), ping, frame(b"two"), binary, frame(b"three"), frame(b"x", 8), b"anything"]
    stream = b"".join(parts)
    for size in (1, 2, 3, 7, 100, len(stream)):
        peeled: list[bytes] = []
        peeler = FramePeeler(peeled.extend)
        passed = b"".join(peeler.feed(stream[i : i + size]) for i in range(0, len(stream), size))
        assert peeled == [b"one", b"two", b"three"]
        assert passed == ping + binary + parts[5] + parts[6]
        assert peeler.close_seen
        assert list(peeler.passed) == [300]
        assert peeler.backlog == 300


def test_an_empty_text_is_not_held_back() -> None:
    peeled: list[bytes] = []
    FramePeeler(peeled.extend).feed(frame(b"") + frame(b"a") + frame(b""))
    assert peeled == [b"", b"a", b""]


def test_one_byte_at_a_time_is_linear() -> None:
    """Held bytes are appended to, never joined again for each piece."""
    peeled: list[bytes] = []
    peeler = FramePeeler(peeled.extend)
    stream = frame(b"x" * MAX_PEELED)
    tracemalloc.start()
    try:
        for index in range(len(stream)):
            peeler.feed(stream[index : index + 1])
            if index == len(stream) - 2:  # a copy for each byte would show as a peak of two frames long before
                assert tracemalloc.get_traced_memory()[1] < 1.5 * MAX_PEELED
    finally:
        tracemalloc.stop()
    assert peeled == [b"x" * MAX_PEELED]


def test_a_longer_text_passes() -> None:
    stream = frame(b"x" * (MAX_PEELED + 1))
    peeled, events, peeler = through_peeler([stream])
    assert not peeled
    assert len(join(events)[0][0]) == MAX_PEELED + 1
    assert peeler.backlog == MAX_PEELED + 1


@pytest.mark.parametrize("opcode", [1, 2])
def test_a_message_that_is_too_big_is_dropped_from_its_header_on(opcode: int) -> None:
    peeled, events, peeler = through_peeler(
        [frame(b"ok") + frame(b"pong", 10), frame(b"x" * (MAX_MESSAGE_SIZE + 1), opcode)]
    )
    assert peeler.too_big
    assert peeled == ["ok"]
    assert len(events) == 1
    assert peeler.feed(frame(b"more")) == b""


def test_fragments_that_are_too_big_together() -> None:
    half = frame(b"x" * (MAX_MESSAGE_SIZE // 2), 2, fin=False)
    rest = frame(b"x" * (MAX_MESSAGE_SIZE // 2), 0, fin=False)
    _, _, peeler = through_peeler([half, rest])
    assert not peeler.too_big
    peeler.feed(frame(b"x", 0))
    assert peeler.too_big


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_endless_fragments_end(payload: bytes) -> None:
    peeler = FramePeeler(lambda payloads: None)
    peeler.feed(frame(payload, 1, fin=False))
    peeler.feed(frame(payload, 0, fin=False) * (MAX_PIECES + 1))
    assert peeler.too_big


def test_a_frame_that_trickles_ends() -> None:
    peeler = FramePeeler(lambda payloads: None)
    peeler.feed(frame(b"x" * 100_000, 2)[:20])
    for _ in range(MAX_PIECES):
        peeler.feed(b"x")
    assert peeler.too_big


def test_pings_between_fragments_and_many_messages_are_no_flood() -> None:
    peeler = FramePeeler(lambda payloads: None)
    for _ in range(MAX_PIECES + 10):
        stream = frame(b"", 9) + frame(b"ab", 2)
        peeler.feed(stream[:5])
        peeler.feed(stream[5:])
    assert not peeler.too_big


@given(st.text(max_size=400), st.binary(min_size=4, max_size=4))
def test_our_frames_are_understood(text: str, mask: bytes) -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(encode_texts([text.encode()], mask)[0])
    assert join(list(server.events()))[0] == [text]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 70_001])
def test_our_frames_in_every_form_of_length(size: int) -> None:
    payload = bytes(index % 91 + 32 for index in range(size))
    server = Connection(ConnectionType.SERVER)
    server.receive_data(encode_texts([payload], b"\x01\xfe\x00\x80")[0])
    assert join(list(server.events()))[0] == [payload.decode()]


@given(
    st.lists(st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_001])), max_size=12),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_frames_of_all_sizes_go_out_together(sizes: list[int], seed: int) -> None:
    draw = random.Random(seed)
    payloads = [bytes(draw.choices(range(32, 127), k=size)) for size in sizes]
    masks = draw.randbytes(4 * len(sizes))
    frames, ends = encode_texts(payloads, masks)
    server = Connection(ConnectionType.SERVER)
    at = 0
    for index, end in enumerate(ends):  # each is a whole frame, masked with bytes of its own
        head = 2 if sizes[index] < 126 else 4 if sizes[index] <= 0xFFFF else 10
        assert frames[at + head : at + head + 4] == masks[4 * index : 4 * index + 4]
        server.receive_data(frames[at:end])
        assert join(list(server.events()))[0] == [payloads[index].decode()]
        at = end
    assert at == len(frames)
    assert len(ends) == len(sizes)


@pytest.mark.parametrize("reason", ["", "bye", "\u00e4" * 100])
def test_our_close_is_understood(reason: str) -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(encode_close(1009, reason, b"\x01\xfe\x00\x80"))
    (event,) = server.events()
    assert isinstance(event, CloseConnection)
    assert event.code == 1009
    assert reason.startswith(event.reason or "")
    assert len((event.reason or "").encode()) <= 123


HEAD = b"HTTP/1.1 101 Switching Protocols\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nUpgrade : x\r\nX:y:z\r\n\r\n"


@given(st.lists(st.integers(0, 200), max_size=5), st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"]))
def test_a_head_however_cut(places: list[int], interim: bytes) -> None:
    reader = HeadReader()
    rest = b""
    pieces = cut(interim + HEAD + b"\x81\x00\n\n", places)
    while pieces:
        if reader.feed(pieces.pop(0)):
            rest = b"".join(pieces)
            break
    assert reader.status == 101
    assert reader.head == HEAD
    assert reader.rest + rest == b"\x81\x00\n\n"
    assert reader.header("dAtE") == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert reader.header("x") == "y:z"
    assert reader.header("retry-after") is None


def test_a_head_with_bare_newlines_ends_where_h11_ends_it() -> None:
    reader = HeadReader()
    assert reader.feed(b"HTTP/1.1 429\nRetry-After: 7\n\nrest")
    assert (reader.status, reader.header("retry-after"), reader.rest) == (429, "7", b"rest")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH",
        b"\x15\x03\x01",
        b"\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.x 101\r\n\r\n",
        b"HTTP/1.1 101 " + b"x" * MAX_HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 25 + 1),
    ],
)
def test_no_head_at_all(answer: bytes) -> None:
    with pytest.raises(NotHTTP):
        HeadReader().feed(answer)
