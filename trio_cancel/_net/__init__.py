"""Bytes: addresses, sockets, TLS, WebSocket frames. trio-websocket is known here and nowhere else."""
