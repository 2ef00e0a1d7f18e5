"""Bytes: addresses, sockets, TLS, WebSocket frames. Only this folder knows trio-websocket."""

from __future__ import annotations

import importlib
import importlib.metadata

import trio


def _load_trio_websocket() -> None:
    """Load trio-websocket even if trio's metadata (dist-info) is missing: it reads trio's version there."""
    try:
        importlib.import_module("trio_websocket")
    except importlib.metadata.PackageNotFoundError:
        ask = importlib.metadata.version

        def version(distribution_name: str) -> str:
            return trio.__version__ if distribution_name == "trio" else ask(distribution_name)

        importlib.metadata.version = version
        try:
            importlib.import_module("trio_websocket")
        finally:
            importlib.metadata.version = ask


_load_trio_websocket()
