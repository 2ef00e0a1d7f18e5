"""Bytes: addresses, sockets, TLS, WebSocket frames. trio-websocket is known here and nowhere else."""

from __future__ import annotations

import importlib
import importlib.metadata

import trio


def _load_trio_websocket() -> None:
    """Load trio-websocket also where trio's metadata (dist-info) is missing: it asks there for trio's version."""
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
