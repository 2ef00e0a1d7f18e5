"""TLS as a codec: ciphertext in, plaintext out, and back. No I/O here; the standard library does the cryptography.

The reader calls :meth:`TLSCodec.open`, the writer :meth:`TLSCodec.seal`; nothing here awaits, so they cannot
interleave. All ciphertext leaves through :meth:`TLSCodec.seal`, so records stay in order.
"""

from __future__ import annotations

import os
import ssl
import sys
from bisect import bisect_right
from collections.abc import Sequence

from trio_cancel._values.observer import logger

#: Most plaintext that a record can contain, in bytes (RFC 8446, section 5.1).
MAX_RECORD = 2**14


#: OpenSSL's names, by version, for an answer that is not a TLS record.
_NO_TLS = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}

_built: list[ssl.SSLContext] = []


def speaks_no_tls(exc: BaseException) -> bool:
    """Return True if a TLS handshake failed because the peer does not speak TLS."""
    error = exc if isinstance(exc, ssl.SSLError) else exc.__cause__
    return isinstance(error, ssl.SSLError) and error.reason in _NO_TLS


def default_ssl_context() -> ssl.SSLContext:
    """Return a context that trusts the system's certificates and checks host names; made once (some 30 ms, 1 MB)."""
    if _built:
        return _built[0]
    context = trusting_context()
    if context.cert_store_stats()["x509"]:
        _built.append(context)  # otherwise perhaps no file could be opened just now, and the next call finds some
    return context


def trusting_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts the certificates in ``ca_file``; the system's if it is None.

    A key log (``SSLKEYLOGFILE``) that cannot be written is left out, with a warning: it is only for debugging.

    Raises:
        OSError: ``ca_file`` cannot be read, or (``ssl.SSLError``) contains no certificate.
    """
    context = _checking_context(ca_file)
    context.options |= ssl.OP_NO_RENEGOTIATION  # TLS 1.2: a write would have to wait for a read
    return context


def _checking_context(ca_file: str | None) -> ssl.SSLContext:
    key_log = os.environ.get("SSLKEYLOGFILE")
    if key_log:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = key_log
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            logger.warning("the key log %s (SSLKEYLOGFILE) cannot be written (%s): TLS goes on without", key_log, why)
            return _without_key_log(ca_file)
    return ssl.create_default_context(cafile=ca_file)


def _without_key_log(ca_file: str | None) -> ssl.SSLContext:
    """Do what ``ssl.create_default_context`` does, except for the key log."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    return context


class TLSCodec:
    """One TLS client connection over two memory buffers.

    Args:
        context: trust and protocol versions.
        server_hostname: the name (or address) that the certificate must be for.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._error: ssl.SSLError | None = None
        self.ended = False  # the peer has said that nothing follows

    @property
    def unread(self) -> bool:
        """True if :meth:`open` has something to return or raise without further bytes."""
        return self._error is not None or self._incoming.pending > 0

    @property
    def pending_output(self) -> bool:
        """True if the protocol itself has something to send; the next :meth:`seal` puts it first."""
        return self._outgoing.pending > 0

    def handshake(self, data: bytes) -> tuple[bool, bytes]:
        """Take one step of the handshake.

        Args:
            data: ciphertext from the peer, ``b""`` for the first step.

        Returns:
            Whether the handshake is done, and bytes to send first.

        Raises:
            ssl.SSLCertVerificationError: the certificate is not trusted or is for another name.
            ssl.SSLError: the handshake failed otherwise.
        """
        if data:
            self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        return True, self._outgoing.read()

    def open(self, data: bytes) -> bytes:
        """Turn ciphertext into all the plaintext that it completes, however many records that is.

        Args:
            data: ciphertext from the peer; ``b""`` for bytes that came right after the handshake.

        Returns:
            Plaintext, perhaps none.

        Raises:
            ssl.SSLError: the peer broke the protocol or sent an alert. Plaintext before it comes first: the call that
                met the error returns it, and the next call raises.
        """
        if self._error is not None:
            raise self._error
        incoming, read = self._incoming, self._object.read
        if data:
            incoming.write(data)
        parts: list[bytes] = []
        # OpenSSL takes whole records out of the buffer, so an empty buffer means that there is nothing more to read.
        # Checking that saves an exception for each call.
        while incoming.pending and not self.ended:
            try:
                part = read(MAX_RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as exc:
                if not parts:
                    raise
                self._error = exc
                break
            if not part:
                self.ended = True
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seal(self, data: bytes, ends: Sequence[int]) -> tuple[bytes, list[tuple[int, int]]]:
        """Encrypt whole chunks, as many of them per record as fit.

        Args:
            data: the chunks, one after the other; perhaps none, to get the protocol's own output.
            ends: for each chunk the offset of its end.

        Returns:
            The ciphertext (it must be sent whole and in order), and for each group of chunks its end: (number of
            chunks up to there, offset in the ciphertext where the record ends that holds the last byte of the last).

        Raises:
            ssl.SSLError: the connection cannot take data any more.
        """
        outgoing = self._outgoing
        sealed: list[tuple[int, int]] = []
        begin = done = 0  # bytes and chunks that are sealed
        while done < len(ends):
            done = max(done + 1, bisect_right(ends, begin + MAX_RECORD, done))
            end = ends[done - 1]
            self._write(data[begin:end])
            sealed.append((done, outgoing.pending))
            begin = end
        return outgoing.read(), sealed

    def _write(self, data: bytes) -> None:
        while data:  # OpenSSL may take one record per call
            data = data[self._object.write(data) :]
