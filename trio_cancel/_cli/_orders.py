"""Orders for a sandbox's book."""

from __future__ import annotations

import importlib

from trio_cancel._cli._failure import CommandError
from trio_cancel.sandbox import Sandbox

ORDERS_MOST = 100_000
PARTLY_FILLED = 10
"""One in this many orders is partly executed."""


def check_orders(orders: int, *, least: int) -> None:
    """Refuse a number of orders that makes no sense."""
    if not least <= orders <= ORDERS_MOST:
        raise CommandError(f"--orders needs a number from {least} to {ORDERS_MOST}, not {orders}.")


def need_trustme() -> None:
    """Raise ModuleNotFoundError if the package that makes certificates is missing."""
    importlib.import_module("trustme")


def place_orders(venue: Sandbox, count: int) -> list[str]:
    """Place orders, some of them partly executed; return their ids. External ids are ``sandbox-1`` and so on."""
    ids: list[str] = []
    for number in range(1, count + 1):
        order = venue.book.create(external_id=f"sandbox-{number}")
        if number % PARTLY_FILLED == 0:
            venue.book.fill(order.id, amount="0.0004")
        ids.append(order.id)
    return ids
