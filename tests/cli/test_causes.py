"""What is told where there is no connection: the cause, once, without the notation of a program, and what helps."""

from __future__ import annotations

import json

import pytest

from trio_cancel._cli import run_async
from trio_cancel.sandbox import open_sandbox


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_TOKEN", "a")
    monkeypatch.setenv("RIPIO_API_SECRET", "b")


async def test_ws_to_a_port_that_speaks_tls_suggests_wss(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_sandbox(tls=True) as venue:
        assert await run_async(["cancel", "A", "--url", venue.url.replace("wss://", "ws://")]) == 1
        printed = capsys.readouterr()
        assert f"perhaps the port speaks TLS ({venue.url})" in printed.err
        assert await run_async(["doctor", "--url", venue.url.replace("wss://", "ws://")]) == 1
        assert f"perhaps the port speaks TLS ({venue.url})" in capsys.readouterr().out


async def test_wss_to_a_port_without_tls_suggests_ws(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_sandbox() as venue:
        secure = venue.url.replace("ws://", "wss://")
        assert await run_async(["cancel", "A", "--url", secure]) == 1
        told = f"{secure} does not speak TLS; perhaps the url must be {venue.url}, otherwise check its port."
        assert told in capsys.readouterr().err
        assert await run_async(["doctor", "--url", secure]) == 1
        assert f"does not speak TLS; perhaps the url must be {venue.url}" in capsys.readouterr().out


async def test_http_to_a_rest_port_that_speaks_tls_suggests_https(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_sandbox(tls=True, rest_port=0) as venue:
        assert await run_async(["show", "A", "--rest-url", venue.rest_url.replace("https://", "http://")]) == 1
        assert "Perhaps the port speaks TLS (https://127.0.0.1:" in "".join(capsys.readouterr())


async def test_https_to_a_rest_port_without_tls_suggests_http(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_sandbox(rest_port=0) as venue:
        secure = venue.rest_url.replace("http://", "https://")
        for words in (["show", "A"], ["doctor", "--url", venue.url]):
            assert await run_async([*words, "--rest-url", secure]) == 1
            assert "without TLS the url is http://127.0.0.1:" in "".join(capsys.readouterr())


@pytest.mark.parametrize("command", [["cancel", "A"], ["doctor"]])
async def test_a_proxy_with_the_wrong_scheme_is_told_which_is_right(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command, "--url", "wss://venue.test", "--proxy"]
    async with open_sandbox() as plain, open_sandbox(tls=True) as secure:
        where = [venue.url.partition("://")[2] for venue in (plain, secure)]
        told = []
        for proxy in (f"https://{where[0]}", f"http://{where[1]}", f"https://{where[1]}"):
            assert await run_async([*words, proxy]) == 1
            told.append("".join(capsys.readouterr()))
    assert f"The proxy https://{where[0]} does not speak TLS; write http:// in --proxy, or check its port." in told[0]
    assert "if it speaks TLS, write https:// in --proxy" in told[1]
    # It does speak TLS: another scheme would help nobody.
    assert f"The certificate of the proxy https://{where[1]} is not trusted" in told[2]
    assert "http:// in" not in told[2]
    for shown in told:
        assert "WRONG_VERSION_NUMBER" not in shown


@pytest.mark.parametrize("words", [["cancel", "A", "B", "C"], ["doctor"]])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_told_in_words(
    words: list[str], host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_async([*words, "--url", f"ws://{host}:9"]) == 1
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert "Connection refused" in said
    assert "('" not in said
    assert "Errno" not in said


async def test_the_cause_of_a_failure_stands_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_async(["cancel", "A", "B", "--url", "ws://127.0.0.1:9"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("Connection refused") == 1
    assert "2 orders may still be on the book:\n  not sent   A\n  not sent   B\n" in printed.err
    assert [json.loads(line)["status"] for line in printed.out.splitlines()] == ["not_sent"] * 2
