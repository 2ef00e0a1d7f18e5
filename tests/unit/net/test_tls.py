"""The TLS codec against the standard library's server side, both ends in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_cancel import HandshakeFailed, open_trading_ws
from trio_cancel._net import tls
from trio_cancel._net.tls import MAX_RECORD, TLSCodec, default_ssl_context, trusting_context
from trio_cancel.sandbox import open_sandbox

CA = trustme.CA()
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CA.issue_cert("venue.example", "127.0.0.1").configure_cert(SERVER_CONTEXT)
CLIENT_CONTEXT = ssl.create_default_context()
CA.configure_trust(CLIENT_CONTEXT)


class Server:
    """The other end: a server-side SSLObject over two memory buffers."""

    def __init__(self, context: ssl.SSLContext = SERVER_CONTEXT) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake(self, data: bytes) -> bytes:
        self.incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.object.do_handshake()
        return self.outgoing.read()

    def take(self, data: bytes) -> bytes:
        self.incoming.write(data)
        out = b""
        while True:
            try:
                out += self.object.read(MAX_RECORD)
            except ssl.SSLWantReadError:
                return out

    def give(self, *messages: bytes) -> bytes:
        for message in messages:
            assert self.object.write(message) == len(message)
        return self.outgoing.read()


def connected(context: ssl.SSLContext = CLIENT_CONTEXT, name: str = "venue.example") -> tuple[TLSCodec, Server]:
    codec, server = TLSCodec(context, name), Server()
    done, out = codec.handshake(b"")
    while not done:
        done, out = codec.handshake(server.shake(out))
    tickets = server.shake(out)  # session tickets of TLS 1.3
    assert codec.open(tickets) == b""
    return codec, server


def test_every_record_at_hand_is_drained() -> None:
    codec, server = connected()
    replies = [b"reply %d" % index for index in range(200)]
    assert codec.open(server.give(*replies)) == b"".join(replies)
    assert not codec.unread
    assert codec.open(server.give(b"one")) == b"one"


@given(st.lists(st.integers(0, 3000), max_size=5))
@settings(max_examples=30, deadline=None)
def test_records_cut_anywhere(places: list[int]) -> None:
    codec, server = connected()
    data = server.give(*[b"%d" % index * 50 for index in range(8)])
    edges = [0, *sorted({place % len(data) for place in places}), len(data)]
    plain = b"".join(codec.open(data[a:b]) for a, b in pairwise(edges) if a < b)
    assert plain == b"".join(b"%d" % index * 50 for index in range(8))


@given(
    st.lists(
        st.one_of(st.integers(0, 600), st.sampled_from([MAX_RECORD - 1, MAX_RECORD, MAX_RECORD + 1, 40_000])),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_chunk_is_whole_where_its_record_ends(sizes: list[int]) -> None:
    codec, server = connected()
    chunks = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    sealed, ends = codec.seal(b"".join(chunks), list(accumulate(sizes)))
    assert ends == sorted(ends)
    count = at = 0
    for chunks_there, offset in ends:  # at each offset the peer can read exactly these chunks
        plain = server.take(sealed[at:offset])
        assert plain == b"".join(chunks[count:chunks_there])
        count, at = chunks_there, offset
    assert count == len(chunks)
    assert at == len(sealed)


def test_small_chunks_share_records() -> None:
    codec, _ = connected()
    sealed, ends = codec.seal(b"x" * 40_000, range(400, 40_001, 400))
    assert [count for count, _ in ends] == [40, 80, 100]
    assert len(sealed) < 40_000 + 3 * 100


def test_nothing_to_seal() -> None:
    codec, _ = connected()
    assert codec.seal(b"", []) == (b"", [])
    assert codec.seal(b"", [0]) == (b"", [(1, 0)])


def test_the_close_of_the_peer_ends_after_what_came_before() -> None:
    codec, server = connected()
    data = server.give(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        server.object.unwrap()
    assert codec.open(data + server.outgoing.read()) == b"last"
    assert codec.ended


def test_a_broken_record_is_an_error_after_what_came_before() -> None:
    codec, server = connected()
    good, bad = server.give(b"good"), server.give(b"bad")
    assert codec.open(good + bad[:-1] + bytes([bad[-1] ^ 1])) == b"good"
    assert codec.unread
    with pytest.raises(ssl.SSLError):
        codec.open(b"")


def test_a_broken_record_alone() -> None:
    codec, server = connected()
    bad = server.give(b"bad")
    with pytest.raises(ssl.SSLError):
        codec.open(bad[:-1] + bytes([bad[-1] ^ 1]))
    assert codec.pending_output  # the alert


@pytest.mark.parametrize("name", ["other.example", "127.0.0.2"])
def test_a_certificate_for_another_name(name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connected(name=name)


def test_an_address_as_a_name() -> None:
    connected(name="127.0.0.1")


def test_an_untrusted_certificate() -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        connected(default_ssl_context())


def test_the_default_context_is_shared_and_checks() -> None:
    context = default_ssl_context()
    assert context is default_ssl_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_tls_1_2() -> None:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    codec, server = connected(context)
    assert server.take(codec.seal(b"there", [5])[0]) == b"there"
    assert codec.open(server.give(b"and", b"back")) == b"andback"


@pytest.mark.parametrize("place", [".", "missing/keys"])
def test_a_key_log_that_cannot_be_written_stops_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / place))
    context = trusting_context()
    monkeypatch.delenv("SSLKEYLOGFILE")
    plain = ssl.create_default_context()
    for name in ("verify_mode", "check_hostname", "verify_flags", "minimum_version", "maximum_version"):
        assert getattr(context, name) == getattr(plain, name)
    assert context.options == plain.options | ssl.OP_NO_RENEGOTIATION
    assert context.cert_store_stats() == plain.cert_store_stats()
    assert "SSLKEYLOGFILE" in caplog.text
    assert "TLS goes on without" in caplog.text


async def test_a_sandbox_and_its_client_with_a_key_log_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path))
    monkeypatch.setattr(tls, "_built", [])
    async with open_sandbox(tls=True) as sandbox:
        with pytest.raises(HandshakeFailed, match="not trusted"):  # the system does not know its authority
            async with open_trading_ws(sandbox.url, credentials=sandbox.credentials):
                pytest.fail("it was trusted")
        sandbox.write_ca(tmp_path / "ca.pem")
        context = trusting_context(str(tmp_path / "ca.pem"))
        async with open_trading_ws(sandbox.url, credentials=sandbox.credentials, ssl_context=context) as ws:
            await ws.cancel(sandbox.book.create().id)


def test_a_context_without_certificates_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_built", [])
    monkeypatch.setattr(tls, "trusting_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # no file was left
    first = default_ssl_context()
    assert first is not default_ssl_context()
