"""A certificate for the sandbox, made on the spot, with an authority of its own that only its clients trust."""

from __future__ import annotations

import ssl

import attrs


@attrs.frozen
class Certificate:
    """What both ends need.

    ``server`` is the sandbox's context, ``client`` one that trusts it, ``ca_pem`` the authority for other programs.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    ca_pem: bytes


def make_certificate() -> Certificate:
    """Return a certificate for localhost, 127.0.0.1 and ::1.

    Raises:
        RuntimeError: if trustme is not installed.
    """
    try:
        import trustme  # an extra, needed for TLS only
    except ImportError:
        raise RuntimeError("A sandbox with TLS needs trustme: pip install 'trio-cancel[testing]'.") from None
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # which writes no key log, and so cannot fail to
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take 29 ms to load
    authority.configure_trust(client)
    return Certificate(server, client, authority.cert_pem.bytes())
