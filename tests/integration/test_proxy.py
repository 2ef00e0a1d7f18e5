"""Through proxies: which one is used, end to end over TLS, what they refuse, and that nothing secret is shown."""

from __future__ import annotations

import json
import logging
import ssl
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.tools.proxies import PASSWORD, USER, USERINFO, open_test_proxy
from trio_cancel import ConfigurationError, Credentials, HandshakeFailed, open_trading_ws
from trio_cancel._cli import run_async
from trio_cancel._net import proxy as _proxy
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._net.proxy import Choice, choose_proxy, parse_proxy
from trio_cancel.sandbox import Fault, Sandbox, SandboxOptions

VENUE = parse_endpoint("wss://ws-api.ripio.com")
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def shown(error: BaseException) -> str:
    """Everything that a person or a log may see of an error."""
    parts = ["".join(traceback.format_exception(error)), repr(error)]
    link: BaseException | None = error
    while link is not None:
        parts.append(f"{link!r} {link.args}")
        link = link.__cause__ or link.__context__
    return "".join(parts)


# Which proxy


def origin(choice: Choice) -> str | None:
    assert choice.unused is None
    return None if choice.proxy is None else f"{choice.proxy.origin} {choice.proxy.source}"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1 HTTPS_PROXY"),
        ({"https_proxy": "http://p:1"}, "http://p:1 https_proxy"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "http://low:1 https_proxy"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://all:1"}, "http://p:1 HTTPS_PROXY"),
        ({"ALL_PROXY": "socks5://all"}, "socks5://all:1080 ALL_PROXY"),
        ({"all_proxy": "socks5h://all:9"}, "socks5://all:9 all_proxy"),
        ({"HTTPS_PROXY": " p.corp:3128 \n"}, "http://p.corp:3128 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://user:pw@p/"}, "http://p:80 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "https://p"}, "https://p:443 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://[::1]:8"}, "http://[::1]:8 HTTPS_PROXY"),
    ],
)
def test_the_environment_names_the_proxy(environ: dict[str, str], expected: str | None) -> None:
    assert origin(choose_proxy(VENUE, True, environ)) == expected
    assert origin(choose_proxy(VENUE, None, environ)) is None
    assert origin(choose_proxy(VENUE, "http://mine:2", environ)) == "http://mine:2 proxy="


@pytest.mark.parametrize(
    ("host", "no_proxy", "exempt"),
    [
        ("ws-api.ripio.com", "*", True),
        ("ws-api.ripio.com", "ws-api.ripio.com", True),
        ("ws-api.ripio.com", "example.org, RIPIO.com", True),
        ("ws-api.ripio.com", "example.org .ripio.com", True),
        ("ws-api.ripio.com", "*.ripio.com", True),
        ("ws-api.ripio.com.", "ripio.com.", True),
        ("ws-api.ripio.com", "ws-api.ripio.com:443", True),
        ("ws-api.ripio.com", "ws-api.ripio.com:444", False),
        ("ws-api.ripio.com", "pio.com", False),
        ("ws-api.ripio.com", "api.ws-api.ripio.com", False),
        ("ws-api.ripio.com", "example.org,,", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.3.0/24,0.2.7", False),
        ("192.0.2.7", "192.0.2.7:443", True),
        ("[2001:db8::7]", "2001:db8::/32", True),
        ("[2001:db8::7]", "[2001:DB8:0::7]", True),
        ("[2001:db8::7]", "[2001:db8::7]:444", False),
        ("[2001:db8::7]", "2001:db9::/32", False),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("127.8.0.1", "", True),
        ("[::1]", "", True),
    ],
)
def test_no_proxy_exempts_hosts(host: str, no_proxy: str, exempt: bool) -> None:
    endpoint = parse_endpoint(f"wss://{host}")
    for name in ("NO_PROXY", "no_proxy"):
        environ = {"ALL_PROXY": "http://p:1", name: no_proxy}
        assert (choose_proxy(endpoint, True, environ) == Choice()) is exempt
        assert origin(choose_proxy(endpoint, "http://mine:2", environ)) == "http://mine:2 proxy="


def test_plain_connections_have_a_variable_of_their_own() -> None:
    endpoint = parse_endpoint("ws://192.0.2.1", allow_insecure=True)
    assert origin(choose_proxy(endpoint, True, {"HTTPS_PROXY": "http://p:1"})) is None
    assert origin(choose_proxy(endpoint, True, {"HTTP_PROXY": "http://p:1"})) == "http://p:1 HTTP_PROXY"
    assert origin(choose_proxy(endpoint, True, {"http_proxy": "http://p:1"})) == "http://p:1 http_proxy"
    # In a CGI program a visitor's header sets it.
    assert origin(choose_proxy(endpoint, True, {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"})) is None


UNUSABLE = [
    ("ftp://user:sekret@p:1", "its scheme must be http, https, socks5 or socks5h"),
    ("socks4://user:sekret@p:1", "its scheme must be"),
    ("http://user:sekret@p:99999", "write http://host:port"),
    ("http://user:sekret@p:0", "write http://host:port"),
    ("http://user:sek/ret@p:1", "percent-encoded"),
    ("http://user:sek ret@p:1", "whitespace"),
    ("http://user:sekret@p:1/path", "write http://host:port"),
    ("http://user:sekret@p:1?sekret", "write http://host:port"),
    ("http://", "write http://host:port"),
    ("http://user:sekret@[::1:8", "write http://host:port"),
    ("http://us%3Aer:sekret@p:1", "a user name with a colon"),
    ("socks5://user:" + "sekret" * 50 + "@p", "longer than SOCKS5 allows"),
    ("http://user:sekret@" + "ä" * 300, "not a valid name"),
    ("socks5://user:sekretä@p", "non-ASCII"),
]


@pytest.mark.parametrize(("url", "why"), UNUSABLE)
def test_a_proxy_that_cannot_be_used_is_named_and_its_url_is_not(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        open_trading_ws(credentials=Credentials("t", "s"), proxy=url)
    assert "sek" not in shown(caught.value)
    assert "(proxy=)" in str(caught.value)
    # In the environment it stops nothing, and is told.
    monkeypatch.setenv("HTTPS_PROXY", url)
    choice = choose_proxy(VENUE, True, {"HTTPS_PROXY": url})
    assert choice.proxy is None
    assert choice.unused is not None
    assert choice.unused.startswith("HTTPS_PROXY is set but not used, so the connection is direct: ")
    assert "sek" not in choice.unused
    with caplog.at_level(logging.WARNING, "trio_cancel"):
        open_trading_ws("wss://192.0.2.1", credentials=Credentials("t", "s"))
    assert choice.unused in caplog.messages


@pytest.mark.parametrize("proxy", ["", 7, False, b"http://p:1"])
def test_what_is_no_url_is_refused(proxy: Any) -> None:
    with pytest.raises(ConfigurationError, match="The url of the proxy"):
        open_trading_ws(credentials=Credentials("t", "s"), proxy=proxy)


def test_a_dial_and_a_proxy_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial() -> trio.abc.Stream:
        raise OSError

    with pytest.raises(ConfigurationError, match="by dial or through a proxy"):
        open_trading_ws(credentials=Credentials("t", "s"), proxy="http://p:1", dial=dial)
    monkeypatch.setenv("HTTPS_PROXY", "ftp://no-matter")
    open_trading_ws(credentials=Credentials("t", "s"), dial=dial)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks.async_.trio.v2", None)
    with pytest.raises(ConfigurationError, match=r"needs the package python-socks; install trio-cancel\[proxy\]"):
        open_trading_ws(credentials=Credentials("t", "s"), proxy="socks5://p:1")
    choice = choose_proxy(VENUE, True, {"ALL_PROXY": "socks5://p:1"})
    assert choice.unused == (
        "ALL_PROXY is set but not used, so the connection is direct: "
        "A SOCKS proxy (ALL_PROXY) needs the package python-socks; install trio-cancel[proxy]."
    )
    open_trading_ws(credentials=Credentials("t", "s"), proxy="http://p:1")


def test_no_password_is_in_a_repr() -> None:
    proxy = parse_proxy(f"http://{USERINFO}p:1", "proxy=")
    assert (proxy.username, proxy.password) == (USER, PASSWORD)
    for text in (repr(proxy), str(proxy), proxy.origin):
        assert USER not in text
        assert PASSWORD not in text


# Through one


@pytest.fixture
def trading_sandbox_options() -> SandboxOptions:
    return {"tls": True}


def by_name(sandbox: Sandbox) -> tuple[str, ssl.SSLContext]:
    """The sandbox under a name that only the proxy can resolve."""
    context = sandbox.ssl_context
    assert context is not None
    context.check_hostname = False
    return f"wss://venue.test:{sandbox.url.rpartition(':')[2].rstrip('/')}", context


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("login", [False, True])
@pytest.mark.parametrize("source", ["keyword", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("pieces", [65536, 1])
async def test_a_session_goes_through_it(
    kind: str, login: bool, source: str, pieces: int, trading_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ids = [trading_sandbox.book.create().id for _ in range(200)]
    url, context = by_name(trading_sandbox)
    async with open_test_proxy(kind, login=login) as proxy:
        proxy.pieces = pieces
        named = f"{kind}://{USERINFO if login else ''}127.0.0.1:{proxy.port}"
        keywords: dict[str, Any] = {}
        if source == "keyword":
            keywords = {"proxy": named}
        else:
            monkeypatch.setenv(source, named)
        with trio.fail_after(20):
            async with open_trading_ws(
                url, credentials=trading_sandbox.credentials, ssl_context=context, **keywords
            ) as ws:
                report = await ws.cancel_many(order_ids)
        assert report.counts["canceled"] == 200
        assert proxy.asked == [("venue.test", int(url.rpartition(":")[2]))]
        with trio.fail_after(5):
            while proxy.open:  # noqa: ASYNC110 - it has no event for it
                await trio.sleep(0.001)


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_this_machine_is_reached_directly_unless_asked(
    kind: str, trading_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_test_proxy(kind) as proxy:
        named = f"{kind}://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("ALL_PROXY", named)
        venue: dict[str, Any] = {
            "credentials": trading_sandbox.credentials,
            "ssl_context": trading_sandbox.ssl_context,
        }
        async with open_trading_ws(trading_sandbox.url, **venue):
            assert proxy.asked == []
        async with open_trading_ws(trading_sandbox.url, proxy=named, **venue):
            assert len(proxy.asked) == 1


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_a_lost_connection_is_made_again_through_it(kind: str, trading_sandbox: Sandbox) -> None:
    orders = [trading_sandbox.book.create().id for _ in range(2)]
    url, context = by_name(trading_sandbox)
    async with open_test_proxy(kind) as proxy:
        with trio.fail_after(20):
            async with open_trading_ws(
                url,
                credentials=trading_sandbox.credentials,
                ssl_context=context,
                proxy=f"{kind}://127.0.0.1:{proxy.port}",
            ) as ws:
                await ws.cancel(orders[0])
                trading_sandbox.fault_on(orders[1], Fault.DROP_BEFORE)
                await ws.cancel(orders[1])
        assert len(proxy.asked) == 2


REFUSALS = [
    (
        "http",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "407 Proxy Authentication Required; check the user",
    ),
    (
        "http",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!",
        "refused a connection to .*: 502 Bad Gateway",
    ),
    ("http", b"HTTP/1.1 403 \x1b[2J\r\n\r\n", "403|does not answer as an HTTP proxy"),
    ("http", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer as an HTTP proxy"),
    ("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "does not answer as an HTTP proxy"),
    ("http", b"HTTP/1.1 200 OK\r\n\r\nmore", "sent data before it was asked for any"),
    ("http", b"", "closed the connection before it had answered; if it speaks TLS, write https:// in proxy="),
    ("http", b"HTTP/1.1 20", "closed the connection before it had answered"),
    ("http", b"\x15\x03\x03\x00\x02\x02\x0a\r\n\r\n", "if it speaks TLS, write https:// in proxy="),
    ("socks5", b"\x05\xff", "refused a connection to .*; check proxy="),
    ("socks5", b"\x05", "broke"),
    ("socks5", b"", "broke"),
    ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "refused a connection"),
]


@pytest.mark.parametrize(("kind", "answer", "said"), REFUSALS)
async def test_a_proxy_that_refuses_is_a_failed_handshake(kind: str, answer: bytes, said: str) -> None:
    async with open_test_proxy(kind) as proxy:
        proxy.answer = answer
        with trio.fail_after(10), pytest.raises(HandshakeFailed, match=said) as caught:
            async with open_trading_ws(
                "wss://venue.test",
                credentials=Credentials("t", "s"),
                proxy=f"{kind}://{USERINFO}127.0.0.1:{proxy.port}",
            ):
                pytest.fail("it was opened")
        assert f"{kind}://127.0.0.1:{proxy.port}" in str(caught.value)
        assert caught.value.status is None
        for notation in ("bytearray", "role=", "ConnectionClosed"):  # h11's words, which help nobody here
            assert notation not in str(caught.value)
        for secret in (USER, PASSWORD, "pass%20word"):
            assert secret not in shown(caught.value)


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_wrong_credentials_for_the_proxy(kind: str) -> None:
    async with open_test_proxy(kind, login=True) as proxy:
        for userinfo in ("", "someone:else-sekret@"):
            with pytest.raises(HandshakeFailed, match=r"refused a connection to venue\.test:443") as caught:
                async with open_trading_ws(
                    "wss://venue.test",
                    credentials=Credentials("t", "s"),
                    proxy=f"{kind}://{userinfo}127.0.0.1:{proxy.port}",
                ):
                    pytest.fail("it was opened")
            assert caught.value.__cause__ is not None
            assert "sekret" not in shown(caught.value)


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
async def test_no_proxy_there(kind: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(HandshakeFailed, match=r"No connection to the proxy .* could be made \(.*refused.*\)"):
        async with open_trading_ws(
            "wss://venue.test", credentials=Credentials("t", "s"), proxy=f"{kind}://127.0.0.1:{port}"
        ):
            pytest.fail("it was opened")


async def test_a_proxy_that_speaks_tls_itself(trading_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    order_ids = [trading_sandbox.book.create().id for _ in range(200)]
    url, context = by_name(trading_sandbox)

    async with open_test_proxy("http", login=True, tls=server) as proxy:

        async def cancel_all() -> dict[str, int]:
            async with open_trading_ws(
                url,
                credentials=trading_sandbox.credentials,
                ssl_context=context,
                proxy=f"https://{USERINFO}127.0.0.1:{proxy.port}",
            ) as ws:
                return dict((await ws.cancel_many(order_ids)).counts)

        monkeypatch.setattr(_proxy, "default_ssl_context", lambda: client)
        with pytest.raises(HandshakeFailed, match=r"The certificate of the proxy .* is not trusted"):
            await cancel_all()
        authority.configure_trust(client)
        assert (await cancel_all())["canceled"] == 200
        assert len(proxy.asked) == 1


async def test_a_proxy_that_does_not_speak_tls_itself() -> None:
    async with open_test_proxy("http") as proxy:
        proxy.answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        with pytest.raises(HandshakeFailed, match=r"The proxy .* does not speak TLS; write http://"):
            async with open_trading_ws(
                "wss://venue.test",
                credentials=Credentials("t", "s"),
                proxy=f"https://127.0.0.1:{proxy.port}",
                connect_timeout=5,
            ):
                pytest.fail("it was opened")


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
async def test_a_silent_proxy_costs_the_connect_timeout_and_leaves_nothing_open(kind: str) -> None:
    async with open_test_proxy("http" if kind == "https" else kind) as proxy:
        proxy.silent = True
        said = f"No connection to wss://venue.test through the proxy {kind}://127.0.0.1:{proxy.port} within 0.1 s"
        with trio.fail_after(10), pytest.raises(HandshakeFailed, match=said):
            async with open_trading_ws(
                "wss://venue.test",
                credentials=Credentials("t", "s"),
                proxy=f"{kind}://127.0.0.1:{proxy.port}",
                connect_timeout=0.1,
            ):
                pytest.fail("it was opened")
        with trio.move_on_after(0.1) as scope:
            async with open_trading_ws(
                "wss://venue.test", credentials=Credentials("t", "s"), proxy=f"{kind}://127.0.0.1:{proxy.port}"
            ):
                pytest.fail("it was opened")
        assert scope.cancelled_caught
        with trio.fail_after(5):
            while proxy.open:  # noqa: ASYNC110 - it has no event for it
                await trio.sleep(0.001)


# On the command line


@pytest.fixture
def command(trading_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("RIPIO_API_TOKEN", trading_sandbox.credentials.api_token)
    monkeypatch.setenv("RIPIO_API_SECRET", trading_sandbox.credentials.api_secret)
    trading_sandbox.write_ca(tmp_path / "ca.pem")
    return ["--url", trading_sandbox.url, "--ca-file", str(tmp_path / "ca.pem")]


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_cancel_goes_through_it(
    kind: str, command: list[str], trading_sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    order = trading_sandbox.book.create()
    async with open_test_proxy(kind, login=True) as proxy:
        named = f"{kind}://{USERINFO}127.0.0.1:{proxy.port}"
        assert await run_async(["cancel", order.id, *command, "--proxy", named]) == 0
        assert len(proxy.asked) == 1
        assert await run_async(["cancel", order.id, *command, "--proxy", "none"]) == 0
        assert len(proxy.asked) == 1
        capfd.readouterr()
        wrong = f"{kind}://{USER}:sekret@127.0.0.1:{proxy.port}"
        assert await run_async(["cancel", order.id, *command, "--proxy", wrong]) == 1
        printed = capfd.readouterr()
        assert f"The proxy {kind}://127.0.0.1:{proxy.port} refused a connection to" in printed.err
        assert "--proxy" in printed.err
        assert "sekret" not in printed.err + printed.out
        assert "proxy=" not in printed.err + printed.out


async def test_a_proxy_that_is_not_used_is_told(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (["cancel", "x"], ["doctor"]):
        assert await run_async([*words, *command, "--proxy", "ftp://u:sekret@p"]) == 2
        assert capfd.readouterr().err == (
            "trio-cancel: The url of the proxy (--proxy) cannot be used: "
            "its scheme must be http, https, socks5 or socks5h.\n"
        )
    monkeypatch.setenv("HTTPS_PROXY", "ftp://u:sekret@p")
    assert await run_async(["cancel", "x", *command]) == 1  # of this machine: no word about proxies
    assert "HTTPS_PROXY" not in capfd.readouterr().err
    url = ["--url", "wss://192.0.2.1", "--deadline", "0.01"]
    assert await run_async(["cancel", "x", *url]) == 1
    printed = capfd.readouterr().err
    assert printed.startswith("trio-cancel: HTTPS_PROXY is set but not used, so the connection is direct: ")
    assert "sekret" not in printed


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_the_doctor_shows_it(
    kind: str, command: list[str], trading_sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_test_proxy(kind, login=True) as proxy:
        named = f"{kind}://{USERINFO}127.0.0.1:{proxy.port}"
        assert await run_async(["doctor", *command, "--json", "--proxy", named]) == 0
        checks = {check["check"]: check for check in map(json.loads, capfd.readouterr().out.splitlines())}
        assert {check["result"] for check in checks.values()} == {"ok"}
        assert checks["tcp"]["proxy"] == f"{kind}://127.0.0.1:{proxy.port}"
        assert f"through the proxy {kind}://127.0.0.1:{proxy.port}" in checks["tcp"]["detail"]
        assert await run_async(["doctor", *command, "--proxy", named]) == 0
        head = capfd.readouterr().out.splitlines()[0]
        assert head == f"{trading_sandbox.url.rstrip('/')} through the proxy {kind}://127.0.0.1:{proxy.port} (--proxy)"
        wrong = f"{kind}://{USER}:sekret@127.0.0.1:{proxy.port}"
        assert await run_async(["doctor", *command, "--proxy", wrong]) == 1
        printed = capfd.readouterr()
        assert "failed   tcp          The proxy " in printed.out
        assert "sekret" not in printed.out + printed.err
