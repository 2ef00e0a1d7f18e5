"""A certificate for the sandbox, made on the spot, with its own authority that only its clients trust."""

from __future__ import annotations

import ssl

import attrs


class NoCertificate(RuntimeError):
    """A sandbox cannot have TLS; the text says why, and what helps."""


@attrs.frozen
class Certificate:
    """The TLS set-up of both ends.

    ``server`` is the sandbox's context, ``client`` one that trusts it, ``ca_pem`` the authority for other programs.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    ca_pem: bytes


def make_certificate() -> Certificate:
    """Return a certificate for localhost, 127.0.0.1 and ::1, or raise `NoCertificate`."""
    try:
        import trustme  # an extra, needed for TLS only
    except ImportError:
        raise NoCertificate("A sandbox with TLS needs trustme: pip install 'trio-cancel[testing]'.") from None
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # it writes no key log, and so cannot fail to
    certificate = authority.issue_cert("localhost", "127.0.0.1", "::1")
    try:
        certificate.configure_cert(server)  # through a file: OpenSSL reads keys from nowhere else
    except OSError as error:
        raise NoCertificate(
            f"A sandbox with TLS needs a temporary file for its certificate, which cannot be written "
            f"({error.strerror or error}); set TMPDIR to a folder that can be written."
        ) from error
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take 29 ms to load
    authority.configure_trust(client)
    return Certificate(server, client, authority.cert_pem.bytes())
