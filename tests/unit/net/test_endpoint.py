"""Which urls are taken, how they are taken apart, and what their errors do not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._values.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://ws-api.ripio.com", (True, "ws-api.ripio.com", 443, "/", "ws-api.ripio.com")),
        ("wss://ws-api.ripio.com:443/a/b?c=d", (True, "ws-api.ripio.com", 443, "/a/b?c=d", "ws-api.ripio.com")),
        ("WSS://EXAMPLE.com:8443/?x", (True, "example.com", 8443, "/?x", "example.com:8443")),
        ("wss://[2001:db8::1]:9000/x", (True, "2001:db8::1", 9000, "/x", "[2001:db8::1]:9000")),
        ("wss://[2001:db8::1]", (True, "2001:db8::1", 443, "/", "[2001:db8::1]")),
        ("wss://10.0.0.1/x%20y", (True, "10.0.0.1", 443, "/x%20y", "10.0.0.1")),
        ("wss://b\u00fc.example/?q=\u00f6", (True, "xn--b-eha.example", 443, "/?q=%C3%B6", "xn--b-eha.example")),
        ("ws://127.0.0.1:80", (False, "127.0.0.1", 80, "/", "127.0.0.1")),
        ("ws://127.8.9.1:8080", (False, "127.8.9.1", 8080, "/", "127.8.9.1:8080")),
        ("ws://[::1]:8080/p", (False, "::1", 8080, "/p", "[::1]:8080")),
        ("ws://localhost", (False, "localhost", 80, "/", "localhost")),
    ],
)  # fmt: skip
def test_taken_apart(url: str, expected: tuple[bool, str, int, str, str]) -> None:
    secure, host, port, resource, host_header = expected
    assert parse_endpoint(url) == Endpoint(url, secure, host, port, resource, host_header)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com", "scheme must be wss://"),
        ("example.com", "scheme must be wss://"),
        ("", "scheme must be wss://"),
        ("wss://", "names no host"),
        ("wss:///path", "names no host"),
        ("wss://:443", "names no host"),
        ("wss://user:pass@example.com", "user name or password"),
        ("wss://@example.com", "user name or password"),
        ("wss://example.com/#part", "fragment"),
        ("wss://example.com/#", "fragment"),
        ("wss://example.com:0", "port must be"),
        ("wss://example.com:", "port must be"),
        ("wss://example.com:65536", "port must be"),
        ("wss://example.com:abc", "port must be"),
        ("wss://example.com:-1", "port must be"),
        ("wss://example.com/a b", "whitespace"),
        (" wss://example.com", "whitespace"),
        ("wss://example.com\r\nX: y", "whitespace"),
        ("wss://exam\x00ple.com", "whitespace"),
        ("wss://example.com/\u200b", "whitespace"),
        ("wss://[::1", "malformed"),
        ("wss://[fe80::1%25eth0]/", "zone"),
        ("wss://a..b", "not a valid name"),
        ("wss://" + "a" * 64 + ".com", "not a valid name"),
        ("wss://exa$mple.com", "not a valid name"),
        ("ws://example.com", "allow_insecure=True"),
        ("ws://localhost.example.com", "allow_insecure=True"),
        ("ws://10.0.0.1", "allow_insecure=True"),
        ("ws://[::2]", "allow_insecure=True"),
        ("ws://127.0.0.1.example.com", "allow_insecure=True"),
    ],
)
def test_refused_with_one_clear_sentence(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        parse_endpoint(url)
    text = str(caught.value)
    assert text.startswith("The url cannot be used: ")
    assert text.endswith(".")
    assert "\n" not in text
    assert not any(secret in text for secret in ("pass@", "part", "a b"))


def test_not_a_string() -> None:
    with pytest.raises(ConfigurationError, match="must be a str, not bytes"):
        parse_endpoint(b"wss://example.com")  # type: ignore[arg-type]  # what is tested


def test_insecure_on_request() -> None:
    assert not parse_endpoint("ws://example.com", allow_insecure=True).secure


def test_the_query_is_not_shown() -> None:
    endpoint = parse_endpoint("wss://example.com/path?token=hush")
    assert "hush" not in repr(endpoint)
    assert endpoint.origin == "wss://example.com"


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    for url in (text, "wss://" + text, "wss://h/" + text):
        try:
            endpoint = parse_endpoint(url)
        except ConfigurationError:
            continue
        assert endpoint.resource.isascii()
        assert endpoint.resource.startswith("/")
        assert not set(endpoint.resource) & set(" \r\n")
        assert endpoint.host.isascii()
        assert 0 < endpoint.port < 65536
