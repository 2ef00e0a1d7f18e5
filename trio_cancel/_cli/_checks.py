"""The doctor's checks: of the WebSocket, each of which builds on the one before, and of the REST side for lookups.

Everything happens in the caller's task. Each check is bounded by ``PATIENCE``, or by the lookup's timeout. A failed
check is reported with its reason; checks that depend on it are skipped, and reported as skipped. No order is touched:
the credentials are tested with a cancel, or a lookup, of a random id that cannot exist.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import attrs
import trio

from trio_cancel._cli._failure import shell_words, why_of
from trio_cancel._cli._figures import percentile
from trio_cancel._client import TradingWS, open_trading_ws
from trio_cancel._net.endpoint import Endpoint
from trio_cancel._net.names import Names, system_words
from trio_cancel._net.proxy import Tunnel
from trio_cancel._net.stream import without_tls
from trio_cancel._net.tls import default_ssl_context, speaks_no_tls
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConfigurationError, HandshakeFailed, LookupFailed
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_VARIABLE, CancelRequest, Credentials
from trio_cancel._values.outcomes import FIELD_ADVICE, AlreadyClosed, NotFound, NotSent, Outcome, Rejected, Unknown
from trio_cancel._venue.verdict import NOT_FOUND_CODES
from trio_cancel.lookup import RestLookup

PATIENCE = 10.0
"""Seconds per check."""
PINGS = 10
ADDRESSES_SHOWN = 3
EXPIRES_SOON = 14
"""If a certificate expires within this many days, that is worth a warning."""
TIMESTAMP_LATE, TIMESTAMP_EARLY = 5000.0, 1000.0
"""Milliseconds by which a request's timestamp may be behind or ahead of the venue's clock.

Source: REST authentication (5 s back). Nothing is published for the WebSocket, nor for how far ahead it may be.
"""
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY = 401, 403, 404, 429


class Result(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Check:
    """The result of one check: one line of the doctor's output.

    Attributes:
        detail: what was found, and what helps.
        figures: numbers for programs; milliseconds have names that say so.
    """

    name: str
    result: Result
    detail: str
    figures: dict[str, Any] = attrs.field(factory=dict)


class _Failed(Exception):
    """A check failed, and the ones after it cannot be made."""


Report = Callable[[Check], None]
NAMES = ("dns", "tcp", "tls", "upgrade", "ping", "clock", "credentials")
REST_NAMES = ("rest", "rest clock", "rest login")


async def examine(
    endpoint: Endpoint,
    ssl_context: ssl.SSLContext | None,
    report: Report,
    tunnel: Tunnel | None = None,
) -> None:
    """Make all checks of ``NAMES``, in this order, through the tunnel if there is one."""
    done: list[str] = []

    def note(check: Check) -> None:
        done.append(check.name)
        report(check)
        if check.result is Result.FAILED and check.name != "clock":  # the venue's own answer about a clock comes later
            raise _Failed

    try:
        note(await _within("dns", _resolve, endpoint, tunnel))
        note(await _within("tcp", _connect, endpoint, tunnel))
        note(await _within("tls", _shake_hands, endpoint, ssl_context, tunnel))
        await _examine_session(endpoint, ssl_context, note, tunnel)
    except _Failed:
        for name in NAMES[len(done) :]:
            report(Check(name, Result.SKIPPED, f"{done[-1]} failed"))


async def _within(name: str, check: Callable[..., Awaitable[Check]], *args: Any) -> Check:
    with trio.move_on_after(PATIENCE):
        return await check(*args)
    return Check(name, Result.FAILED, f"no answer within {PATIENCE:g} s")


async def _resolve(endpoint: Endpoint, tunnel: Tunnel | None) -> Check:
    host, port, named_in = endpoint.host, endpoint.port, "the url"
    if tunnel is not None:
        host, port, named_in = tunnel.proxy.host, tunnel.proxy.port, shell_words(f"check {tunnel.proxy.source}")[6:]
    started = time.perf_counter()
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        detail = f"{host} cannot be resolved ({why_of(error)}); check {named_in} and the network"
        return Check("dns", Result.FAILED, detail)
    except RuntimeError as error:
        detail = f"no thread can be started ({error}); cancels work without one, but raise the limit (ulimit -u)"
        return Check("dns", Result.WARNING, detail)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    detail = ", ".join(addresses[:ADDRESSES_SHOWN])
    if tunnel is not None:
        detail = f"the proxy: {detail} (it resolves {endpoint.host} itself)"
    return _timed("dns", detail, started, addresses=addresses)


async def _connect(endpoint: Endpoint, tunnel: Tunnel | None) -> Check:
    figures = {} if tunnel is None else {"proxy": tunnel.proxy.origin}
    started = time.perf_counter()
    try:
        stream = await _open(endpoint, tunnel)
    except HandshakeFailed as error:
        return Check("tcp", Result.FAILED, shell_words(str(error)), figures)
    except OSError as error:
        return Check("tcp", Result.FAILED, f"no connection to port {endpoint.port} ({reason(error)}); check the url")
    through = "" if tunnel is None else f" through the proxy {tunnel.proxy.origin}"
    check = _timed("tcp", f"connected to port {endpoint.port}{through}", started, **figures)
    await trio.aclose_forcefully(stream)
    return check


async def _open(endpoint: Endpoint, tunnel: Tunnel | None) -> trio.abc.Stream:
    connect = Names().connect if tunnel is None else tunnel
    return await connect(endpoint.host, endpoint.port)


async def _shake_hands(endpoint: Endpoint, ssl_context: ssl.SSLContext | None, tunnel: Tunnel | None) -> Check:
    if not endpoint.secure:
        return Check("tls", Result.SKIPPED, "the url says ws://: no TLS, nothing to check")
    name = endpoint.host.rstrip(".")
    started = time.perf_counter()
    stream: trio.SSLStream[trio.abc.Stream] | None = None
    try:
        tcp = await _open(endpoint, tunnel)
        stream = trio.SSLStream(tcp, ssl_context or default_ssl_context(), server_hostname=name)
        await stream.do_handshake()
        return _judge_certificate(stream, started)
    except HandshakeFailed as error:
        return Check("tls", Result.FAILED, shell_words(str(error)))
    except (OSError, trio.BrokenResourceError) as error:
        failed = reason(error)
        remedy = "check the url, the system's clock and certificates, or name a --ca-file"
        if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
            remedy = f"check that the port speaks TLS (without TLS the url is {without_tls(endpoint.origin)})"
            if speaks_no_tls(error):
                failed = "the server does not speak TLS"
                remedy = f"perhaps the url must be {without_tls(endpoint.origin)}, else check its port"
        return Check("tls", Result.FAILED, f"{failed}; {remedy}")
    finally:
        if stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


def _judge_certificate(stream: trio.SSLStream[trio.abc.Stream], started: float) -> Check:
    certificate: dict[str, Any] = stream.getpeercert()
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (ends - time.time()) / 86400
    until = datetime.fromtimestamp(ends, UTC).date().isoformat()
    version = str(stream.version())
    detail = f"{version}, certificate good for {days:.0f} days, until {until}"
    check = _timed("tls", detail, started, version=version, not_after=until, days=round(days, 1))
    return attrs.evolve(check, result=Result.WARNING) if days < EXPIRES_SOON else check


def _credentials() -> tuple[Credentials, ConfigurationError | None]:
    """Return the credentials, or a stand-in, with which nothing must be signed, and why there are none."""
    try:
        return Credentials.from_env(), None
    except ConfigurationError as error:
        return Credentials("no token", "no secret"), error


async def _examine_session(
    endpoint: Endpoint, ssl_context: ssl.SSLContext | None, note: Report, tunnel: Tunnel | None
) -> None:
    credentials, missing = _credentials()
    started = time.perf_counter()
    try:
        async with open_trading_ws(
            endpoint.url,
            credentials=credentials,
            ssl_context=ssl_context,
            dial=tunnel,
            proxy=None,
            connect_timeout=PATIENCE,
            reply_timeout=PATIENCE,
            give_up_after=PATIENCE,
            retry=False,
        ) as ws:
            note(_timed("upgrade", "it speaks WebSocket", started))
            note(await _within("ping", _ping, ws))
            note(judge_clock(ws.clock))
            if missing is not None:
                note(Check("credentials", Result.FAILED, shell_words(str(missing))))
            else:
                note(judge_probe(await ws.try_cancel(str(uuid4()).upper()), ws.clock))
    except HandshakeFailed as error:
        note(Check("upgrade", Result.FAILED, shell_words(str(error))))


async def _ping(ws: TradingWS) -> Check:
    times: list[float] = []
    try:
        for _ in range(PINGS):
            times.append(1000 * await ws.ping())  # noqa: PERF401 - those before a failure count
    except trio.BrokenResourceError as error:
        return Check("ping", Result.FAILED, f"only {len(times)} of {PINGS} were answered ({error})")
    times.sort()
    figures = {f"p{percent}_ms": round(percentile(times, percent), 3) for percent in (50, 90)}
    figures["max_ms"] = round(times[-1], 3)
    detail = f"{PINGS} of {PINGS} answered: " + ", ".join(f"{k[:-3]} {v:.3g} ms" for k, v in figures.items())
    return Check("ping", Result.OK, detail, figures)


def judge_clock(offset: OffsetInterval | None) -> Check:
    """Return what the offset means for signatures: a warning if it excludes zero, a failure if it is too large."""
    if offset is None:
        return Check("clock", Result.WARNING, "the venue does not send its time (no Date header)")
    figures = {"low_ms": round(offset.low), "high_ms": round(offset.high)}
    between = f"venue minus ours: between {offset.low:+.0f} and {offset.high:+.0f} ms"
    if not offset.excludes_zero:
        return Check("clock", Result.OK, between, figures)
    off = offset.low > TIMESTAMP_LATE or offset.high < -TIMESTAMP_EARLY
    return Check("clock", Result.FAILED if off else Result.WARNING, shell_words(offset.advice), figures)


def judge_probe(outcome: Outcome, clock: OffsetInterval | None) -> Check:
    """Return what the answer to a cancel of an order that cannot exist says about the credentials."""
    error = outcome.error
    figures = {} if error is None else {"status": error.status, "error_code": error.error_code}
    if isinstance(outcome, NotFound | AlreadyClosed) and error is not None:
        if isinstance(outcome, NotFound) and error.error_code not in NOT_FOUND_CODES:
            detail = f"{error}: not found, but without the venue's own code, so this does not prove the credentials"
            return Check("credentials", Result.WARNING, detail, figures)
        detail = f"{error.error_code} as expected: token, secret and clock are right"
        return Check("credentials", Result.OK, detail, figures)
    if isinstance(outcome, Rejected) and error is not None:
        if error.refuses_credentials:
            what = "signature" if error.refuses_signature and not error.misses_token else "credentials"
            suspect = _suspect(clock if error.refuses_signature else None, timed=error.refuses_signature)
            detail = f"the venue refuses the {what} ({error.error_code or error.status}): {suspect}"
        elif error.status == TOO_MANY:
            detail = "the venue limits requests (429); try again later"
        else:
            detail = f"the venue refused a cancel for another reason: {str(error).rstrip('.')}"
        if error.misses_token:
            detail += f"; {shell_words(FIELD_ADVICE)}"
    elif isinstance(outcome, NotSent | Unknown):
        detail = f"the answer proves nothing: {outcome.cause}"
    else:
        detail = "the venue says that it canceled an order that cannot exist"
    return Check("credentials", Result.FAILED, detail, figures)


async def examine_rest(lookup: RestLookup, ssl_context: ssl.SSLContext | None, report: Report) -> None:
    """Make all checks of ``REST_NAMES``, in this order. They do not depend on the checks of the WebSocket."""
    credentials, missing = _credentials()
    async with lookup.opened(credentials=credentials, ssl_context=ssl_context) as look_up:
        started = time.perf_counter()
        try:
            offset = await look_up.server_time()
        except LookupFailed as error:
            report(Check("rest", Result.FAILED, f"{shell_words(str(error))} Check --rest-url and the network."))
            for name in REST_NAMES[1:]:
                report(Check(name, Result.SKIPPED, "rest failed"))
            return
        ms = round((time.perf_counter() - started) * 1000, 3)
        report(Check("rest", Result.OK, f"server-time answered, {ms:.3g} ms", {"ms": ms}))
        report(attrs.evolve(judge_clock(offset), name="rest clock"))
        if missing is not None:
            report(Check("rest login", Result.FAILED, shell_words(str(missing))))
            return
        try:
            await look_up(CancelRequest(str(uuid4()).upper()))
        except LookupFailed as error:
            report(_judge_login(error))
        else:
            report(Check("rest login", Result.FAILED, "the venue found an order that cannot exist"))


def _judge_login(error: LookupFailed) -> Check:
    figures = {"status": error.status, "error_code": error.error_code}
    if error.status == NOT_FOUND:
        return Check("rest login", Result.OK, "404 as expected: token, secret and clock are right", figures)
    if error.status == UNAUTHORIZED:
        why = f"{error} Check {TOKEN_VARIABLE}, {SECRET_VARIABLE} and the clock."
    elif error.status == FORBIDDEN:
        why = f"{error} The token needs the permission to read."
    else:
        why = f"the answer proves nothing: {error}"
    return Check("rest login", Result.FAILED, why, figures)


def _suspect(clock: OffsetInterval | None, *, timed: bool) -> str:
    names = f"{TOKEN_VARIABLE} and {SECRET_VARIABLE}"
    if clock is None:
        return f"check {names}{', and the clock' if timed else ''}"
    if clock.excludes_zero:
        return shell_words(clock.advice)
    return f"the clocks agree, so check {names}"


def _timed(name: str, detail: str, started: float, **figures: Any) -> Check:
    milliseconds = (time.perf_counter() - started) * 1000
    return Check(name, Result.OK, f"{detail}, {milliseconds:.3g} ms", {**figures, "ms": round(milliseconds, 3)})


def reason(error: BaseException) -> str:
    """Return briefly what went wrong: the first error of several addresses; for a wrapper, the error it wraps."""
    while True:
        cause = error.__cause__
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if cause is None:
            break
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    if isinstance(error, OSError) and error.strerror:
        return system_words(error)
    return str(error) or type(error).__name__
