"""The doctor's checks of the REST side, where orders are looked up: reachability, clock, credentials.

They do not depend on the checks of the WebSocket. No order is touched: a random id that cannot exist is looked up.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from uuid import uuid4

import attrs

from trio_cancel._cli._checks import Check, Result, Tell, judge_clock
from trio_cancel._cli._failure import shell_words
from trio_cancel._values.errors import ConfigurationError, LookupFailed
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_VARIABLE, CancelRequest, Credentials
from trio_cancel.lookup import RestLookup

NOT_FOUND, UNAUTHORIZED, FORBIDDEN = 404, 401, 403
NAMES = ("rest", "rest clock", "rest login")


async def examine_rest(
    lookup: RestLookup,
    ssl_context: ssl.SSLContext | None,
    find_credentials: Callable[[], Credentials],
    tell: Tell,
) -> None:
    """Make all checks of ``NAMES``, in this order; each is bounded by the lookup's timeout."""
    missing: ConfigurationError | None = None
    try:
        credentials = find_credentials()
    except ConfigurationError as error:
        missing, credentials = error, Credentials("no token", "no secret")  # server-time is not signed
    async with lookup.opened(credentials=credentials, ssl_context=ssl_context) as look_up:
        started = time.perf_counter()
        try:
            offset = await look_up.server_time()
        except LookupFailed as error:
            tell(Check("rest", Result.FAILED, f"{shell_words(str(error))} Check --rest-url and the network."))
            for name in NAMES[1:]:
                tell(Check(name, Result.SKIPPED, "rest failed"))
            return
        ms = round((time.perf_counter() - started) * 1000, 3)
        tell(Check("rest", Result.OK, f"server-time answered, {ms:.3g} ms", {"ms": ms}))
        tell(attrs.evolve(judge_clock(offset), name="rest clock"))
        if missing is not None:
            tell(Check("rest login", Result.FAILED, shell_words(str(missing))))
            return
        try:
            await look_up(CancelRequest(str(uuid4()).upper()))
        except LookupFailed as error:
            tell(_judge(error))
        else:
            tell(Check("rest login", Result.FAILED, "the venue found an order that cannot exist"))


def _judge(error: LookupFailed) -> Check:
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
