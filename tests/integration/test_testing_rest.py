"""The fixtures, with a REST side that has faults."""

from __future__ import annotations

import pytest

from trio_cancel import LookupFailed, TradingWS
from trio_cancel.lookup import OrderStatus
from trio_cancel.sandbox import RestFault, RestFaults, Sandbox, SandboxOptions


@pytest.fixture
def trading_sandbox_options() -> SandboxOptions:
    return {"rest_port": 0, "seed": 1, "tls": True, "rest_faults": RestFaults({RestFault.ERROR_500: 0.5})}


async def test_faults_come_by_their_seed(trading_sandbox: Sandbox, trading_ws: TradingWS) -> None:
    order = trading_sandbox.book.create()
    went = []
    for _ in range(20):
        try:
            went.append((await trading_ws.look_up(order.id)).status is OrderStatus.OPEN)
        except LookupFailed:
            went.append(False)
    assert "".join(".x"[ok] for ok in went) == "xx..xxx.xxx...xxxx.."
