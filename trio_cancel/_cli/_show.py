"""``trio-cancel show``: what the venue says about orders now, over its REST API. Nothing is canceled."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from trio_cancel._cli._env_file import use_env_file
from trio_cancel._cli._failure import CommandError, clean, is_terminal, say, short
from trio_cancel._cli._input import GivenOrders, read_arguments
from trio_cancel._cli._options import CaFile, EnvFile, ExternalIds, Ids, Json, Proxy, RestUrl
from trio_cancel._cli._records import KEY_WIDTH, plain
from trio_cancel._cli._run import Halt, hear_signals
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import find_lookup, trust
from trio_cancel._values.errors import LookupFailed
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.order_state import OrderState
from trio_cancel.lookup import OpenRestLookup

TRIES = 5
"""Attempts per order while the venue limits requests."""
WAIT = 1.0
"""Seconds until the next attempt, if the venue does not say: its lowest limit is one request a second."""
WAIT_MOST = 60.0
LIMITED, UNAUTHORIZED, NOT_FOUND = 429, 401, 404


async def show(
    *ids: Ids,
    external_id: ExternalIds = (),
    json: Json = False,
    rest_url: RestUrl = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    env_file: EnvFile = None,
) -> int:
    """Show what the venue says about these orders now."""
    use_env_file(env_file)
    found = GivenOrders(literal=False)
    read_arguments(found, ids, external_id)
    for where, why in found.bad:
        say(f"{where}: {why}")
    if found.bad:
        raise CommandError("Nothing was looked up: correct the arguments named above.")
    if not found.requests:
        raise CommandError("There is nothing to show: give order ids or --external-id.")
    lookup = find_lookup(rest_url, None, proxy)
    credentials, context = Credentials.from_env(), trust(ca_file)
    halt = Halt()
    as_json = json or not is_terminal(sys.stdout)
    status = Status.OK
    async with hear_signals(halt):
        with halt.scope:
            async with lookup.opened(credentials=credentials, ssl_context=context) as look_up:
                if not as_json:
                    write_stdout(HEAD)
                for request in found.requests:
                    state, failed = await _look_up(look_up, request)
                    if failed is not None and failed.status == UNAUTHORIZED:
                        raise CommandError(f"{failed} Check the token, the secret and the clock.")
                    if failed is not None:
                        status = Status.LEFT
                    write_stdout(_json_line(request, state, failed) if as_json else _text_line(request, state, failed))
    return halt.status(status)


async def _look_up(look_up: OpenRestLookup, request: CancelRequest) -> tuple[OrderState | None, LookupFailed | None]:
    failed: LookupFailed | None = None
    for _ in range(TRIES):
        try:
            return await look_up(request), None
        except LookupFailed as error:
            failed = error
            if error.status != LIMITED:
                break
            await trio.sleep(min(WAIT_MOST, max(WAIT, error.retry_after or 0.0)))
    return None, failed


HEAD = f"{'status':<21}{'order':<{KEY_WIDTH}}  {'executed':<24} {'updated':<20} pair, side, price\n"


def order_line(state: OrderState, *, as_json: bool) -> str:
    """Return a line about a listed order."""
    request = CancelRequest(state.id)
    return _json_line(request, state, None) if as_json else _text_line(request, state, None)


def _text_line(request: CancelRequest, state: OrderState | None, failed: LookupFailed | None) -> str:
    key = short(clean(request.key), 200)
    if state is None:
        word = "not found" if failed is not None and failed.status == NOT_FOUND else "failed"
        return f"{word:<21}{key:<{KEY_WIDTH}}  {clean(str(failed))}\n"
    executed = "" if state.executed_amount is None else plain(state.executed_amount)
    of = "" if state.requested_amount is None else f" of {plain(state.requested_amount)}"
    updated = "" if state.update_date is None else state.update_date.isoformat(timespec="seconds")[:-6]
    rest = [state.pair, state.side, plain(state.price)]
    words = clean(" ".join(part for part in rest if part))
    return f"{clean(state.raw_status):<21}{key:<{KEY_WIDTH}}  {f'{executed}{of}':<24} {updated:<20} {words}\n"


NUMBERS = (
    "price",
    "requested_amount",
    "executed_amount",
    "remaining_amount",
    "requested_value",
    "remaining_value",
    "total_value",
    "fee",
    "average_execution_price",
)


def _json_line(request: CancelRequest, state: OrderState | None, failed: LookupFailed | None) -> str:
    record: dict[str, Any] = {"id": request.id, "external_id": request.external_id}
    record |= {"found": state is not None, "status": None, "on_book": None}
    if state is not None:
        record |= {
            "id": state.id or request.id,
            "external_id": state.external_id or request.external_id,
            "status": state.raw_status,
            "on_book": state.on_book,
            "pair": state.pair,
            "side": state.side,
            "type": state.type,
        }
        record |= {name: plain(getattr(state, name)) for name in NUMBERS}
        record["fills"] = [
            {
                "amount": plain(fill.amount),
                "price": plain(fill.price),
                "fee": plain(fill.fee),
                "fee_currency": fill.fee_currency,
                "time": None if fill.time is None else fill.time.isoformat(),
            }
            for fill in state.fills
        ]
        for name in ("create_date", "update_date"):
            date = getattr(state, name)
            record[name] = None if date is None else date.isoformat()
        record["seen_at"] = datetime.fromtimestamp(state.seen_at, UTC).isoformat(timespec="milliseconds")
    record["error"] = None if failed is None else str(failed)
    record["error_status"] = None if failed is None else failed.status
    return msgspec.json.encode(record).decode() + "\n"
