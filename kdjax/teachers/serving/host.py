"""A socket, a web server, and how it ends: after SIGTERM or Ctrl-C requests that are being answered are finished."""

import asyncio
import socket
from typing import Any

import uvicorn

from kdjax.training.stop import Stop, until_stopped
from kdjax.types import BadInput

GRACE = 30
"""Seconds that requests have to finish once the service is asked to stop."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
        BadInput: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it; without it an answer's second packet waits 40 ms for the first one's acknowledgement.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise BadInput(f"--host={host} --port={port}: {error}; accepted: a free port of this machine, or 0.") from None
    return found


def serve(app: Any, at: socket.socket, *, seconds: float = 0.0) -> Stop:
    """Serve until a signal comes, or for so many seconds; 0 is no limit.

    Returns:
        True where a signal ended it.
    """
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(settings)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[at]))
        if seconds:
            await asyncio.wait([serving], timeout=seconds)
            server.should_exit = True
        await serving

    # The server notes a signal, ends, and sends it once more: to who would note it before.
    with until_stopped() as stop:
        asyncio.run(run())
    return stop
