"""``trio-cancel doctor`` in this process: what each check finds, healthy and ill."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from trio_cancel import TradingWS
from trio_cancel._cli import _checks, _doctor, run_async
from trio_cancel._cli._checks import NAMES
from trio_cancel.sandbox import Fault, Sandbox, SandboxOptions, open_sandbox

HEALTHY = dict.fromkeys(NAMES, "ok")


@pytest.fixture
def trading_sandbox_options() -> SandboxOptions:
    return {"tls": True}


@attrs.define
class Clinic:
    """Runs the doctor and reads its JSON lines."""

    sandbox: Sandbox
    ca_file: Path
    capture: pytest.CaptureFixture[str]
    checks: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    async def __call__(self, *words: str, url: str | None = None) -> tuple[int, dict[str, str]]:
        with trio.fail_after(20):
            status = await run_async(
                ["doctor", "--url", url or self.sandbox.url, "--ca-file", str(self.ca_file), "--json", *words]
            )
        printed = self.capture.readouterr()
        assert not printed.err
        assert "sandbox-secret" not in printed.out
        records = [json.loads(line) for line in printed.out.splitlines()]
        assert [record["check"] for record in records] == list(NAMES)
        self.checks = {record["check"]: record for record in records}
        return status, {name: record["result"] for name, record in self.checks.items()}


@pytest.fixture
async def clinic(
    trading_sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Clinic:
    monkeypatch.setenv("RIPIO_API_TOKEN", trading_sandbox.credentials.api_token)
    monkeypatch.setenv("RIPIO_API_SECRET", trading_sandbox.credentials.api_secret)
    trading_sandbox.write_ca(tmp_path / "ca.pem")
    return Clinic(trading_sandbox, tmp_path / "ca.pem", capsys)


async def test_a_healthy_venue(clinic: Clinic) -> None:
    order = clinic.sandbox.book.create()
    assert await clinic() == (0, HEALTHY)
    checks = clinic.checks
    assert checks["dns"]["addresses"] == ["127.0.0.1"]
    assert checks["tls"]["version"] == "TLSv1.3"
    assert checks["ping"]["p50_ms"] <= checks["ping"]["p90_ms"] <= checks["ping"]["max_ms"]
    assert checks["clock"]["low_ms"] <= 0 <= checks["clock"]["high_ms"]
    assert (checks["credentials"]["status"], checks["credentials"]["error_code"]) == (404, 40401)
    assert clinic.sandbox.book.open_orders() == [order]
    assert len(clinic.sandbox.log.requests) == 1


async def test_a_person_gets_a_line_a_check(clinic: Clinic) -> None:
    status = await run_async(["doctor", "--url", clinic.sandbox.url, "--ca-file", str(clinic.ca_file)])
    lines = clinic.capture.readouterr().out.splitlines()
    assert status == 0
    assert lines[0] == clinic.sandbox.url
    assert [line.split()[:2] for line in lines[1:]] == [["ok", name] for name in NAMES]


async def test_a_terminal_gets_colours(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "is_terminal", lambda _: True)
    await run_async(["doctor", "--url", clinic.sandbox.url, "--ca-file", str(clinic.ca_file)])
    assert "\033[32mok      \033[0m dns" in clinic.capture.readouterr().out


async def test_stdout_may_be_closed(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert await run_async(["doctor", "--url", clinic.sandbox.url, "--ca-file", str(clinic.ca_file)]) == 0


def after(name: str) -> dict[str, str]:
    """Return results where ``name`` failed and what follows it was skipped."""
    at = NAMES.index(name)
    return HEALTHY | {name: "failed"} | dict.fromkeys(NAMES[at + 1 :], "skipped")


async def test_a_name_that_does_not_resolve(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    assert await clinic(url="wss://no-such-host.invalid") == (1, after("dns"))
    assert "Name or service not known" in clinic.checks["dns"]["detail"]
    assert clinic.checks["tcp"]["detail"] == "dns failed"


async def test_a_name_server_that_does_not_answer(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(_checks, "PATIENCE", 0.05)
    assert await clinic(url="wss://no-such-host.invalid") == (1, after("dns"))
    assert "no answer within 0.05 s" in clinic.checks["dns"]["detail"]


async def test_no_thread_for_the_name_server(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    url = clinic.sandbox.url.replace("127.0.0.1", "localhost")
    assert await clinic(url=url) == (0, HEALTHY | {"dns": "warning"})
    assert "can't start new thread" in clinic.checks["dns"]["detail"]


async def test_a_port_where_nobody_listens(clinic: Clinic) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert await clinic(url=f"wss://127.0.0.1:{port}") == (1, after("tcp"))
    assert "refused" in clinic.checks["tcp"]["detail"]


async def test_a_certificate_that_is_not_trusted(clinic: Clinic, tmp_path: Path) -> None:
    clinic.ca_file = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(clinic.ca_file))
    assert await clinic() == (1, after("tls"))
    assert "the certificate is not trusted: " in clinic.checks["tls"]["detail"]
    assert "--ca-file" in clinic.checks["tls"]["detail"]


async def test_a_port_that_speaks_no_tls(clinic: Clinic) -> None:
    async def babble(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"hello\r\n")
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, babble, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        status, results = await clinic(url=f"wss://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()
    assert (status, results) == (1, after("tls"))
    assert f"does not speak TLS; perhaps the url must be ws://127.0.0.1:{port}, else" in clinic.checks["tls"]["detail"]


async def test_a_certificate_that_ends_soon_is_a_warning(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "EXPIRES_SOON", 1e9)
    assert await clinic() == (0, HEALTHY | {"tls": "warning"})


async def test_plain_ws_has_no_tls_to_check(clinic: Clinic) -> None:
    async with open_sandbox() as plain:
        assert await clinic(url=plain.url) == (0, HEALTHY | {"tls": "skipped"})


async def test_an_upgrade_that_is_refused(clinic: Clinic) -> None:
    clinic.sandbox.fault_on_upgrade(Fault.UPGRADE_403)
    assert await clinic() == (1, after("upgrade"))
    assert "403" in clinic.checks["upgrade"]["detail"]


async def test_a_connection_that_does_not_hold(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ping(_: TradingWS) -> float:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("the link has ended")

    monkeypatch.setattr(TradingWS, "ping", ping)
    assert await clinic() == (1, after("ping"))
    assert "only 0 of 10" in clinic.checks["ping"]["detail"]


@pytest.mark.parametrize(
    ("skew", "result", "way"), [(3000, "warning", "behind"), (8000, "failed", "behind"), (-8000, "failed", "ahead of")]
)
async def test_a_clock_that_is_off(skew: int, result: str, way: str, clinic: Clinic) -> None:
    clinic.sandbox.clock_skew = skew
    status, results = await clinic()
    assert results["clock"] == result
    assert f"ms {way} the venue's" in clinic.checks["clock"]["detail"]
    if result == "failed":
        assert (status, results["credentials"]) == (1, "failed")
        assert "our clock is at least" in clinic.checks["credentials"]["detail"]
        assert clinic.checks["credentials"]["error_code"] == 40011
    else:
        assert (status, results["credentials"]) == (0, "ok")


async def test_a_wrong_secret(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_SECRET", "wrong")
    assert await clinic() == (1, HEALTHY | {"credentials": "failed"})
    assert "the clocks agree, so check RIPIO_API_TOKEN and RIPIO_API_SECRET" in clinic.checks["credentials"]["detail"]


async def test_missing_credentials_leave_the_rest_checked(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIPIO_API_SECRET")
    assert await clinic() == (1, HEALTHY | {"credentials": "failed"})
    assert "RIPIO_API_SECRET" in clinic.checks["credentials"]["detail"]
    assert not clinic.sandbox.log.requests


@pytest.mark.parametrize(
    "words", [["--url", "http://x"], ["--url", "ws://example.org"], ["--ca-file", "no-such-file"], ["x"], ["--nope"]]
)
async def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_async(["doctor", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
