"""Fixtures for pytest-trio, with and without its trio_mode: a sandbox exchange, and a client connected to it.

Name the plugin in your ``conftest.py``::

    pytest_plugins = ["trio_cancel.testing"]

and use it::

    async def test_my_bot(trading_sandbox, trading_ws):
        order = trading_sandbox.book.create(external_id="my-order-123")
        await my_bot(trading_ws)
        assert trading_sandbox.log.applied(order.id)

They use a real socket on the loopback interface, so they do not work with ``autojump_clock``, which does not wait for
sockets. With such a clock, open a sandbox with ``port=None`` and serve memory streams.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest
from pytest_trio import trio_fixture  # type: ignore[import-untyped]  # it has no types

from trio_cancel.sandbox import Sandbox, SandboxOptions, open_sandbox

if TYPE_CHECKING:
    from trio_cancel import TradingWS


@pytest.fixture
def trading_sandbox_options() -> SandboxOptions:
    """Keywords of `open_sandbox` for `trading_sandbox`; override it in a module or conftest to change them."""
    return {}


@trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def trading_sandbox(trading_sandbox_options: SandboxOptions) -> AsyncGenerator[Sandbox]:
    """A running `Sandbox`, fresh for each test."""
    async with open_sandbox(**trading_sandbox_options) as sandbox:
        yield sandbox  # noqa: ASYNC119 - pytest-trio runs a fixture in a task of its own, to its end


@trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def trading_ws(trading_sandbox: Sandbox) -> AsyncGenerator[TradingWS]:
    """A `TradingWS` connected to ``trading_sandbox``, fresh for each test.

    It looks orders up if the sandbox has a REST side (``rest_port=0`` in ``trading_sandbox_options``).
    """
    from trio_cancel import open_trading_ws  # here, so that a test of the sandbox alone does not load the client
    from trio_cancel.lookup import RestLookup

    async with open_trading_ws(
        trading_sandbox.url,
        credentials=trading_sandbox.credentials,
        ssl_context=trading_sandbox.ssl_context,
        lookup=RestLookup(base_url=trading_sandbox.rest_url) if trading_sandbox.has_rest else None,
    ) as ws:
        yield ws  # noqa: ASYNC119 - pytest-trio runs it to its end
