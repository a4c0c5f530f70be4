"""The port that a server listens on, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Generator

import uvicorn
from starlette.types import ASGIApp

from pgrpo_cli.errors import RecipeError

from .guard import is_loopback

MOST_CONNECTIONS = 512
SHUTDOWN_SECONDS = 2
"""How long answers at work may continue when the server is asked to end."""


def listening_socket(host: str, port: int, token: str | None) -> socket.socket:
    """A socket that listens on `host`, which is this machine's own unless there is a token.

    Port 0 is a free one. Raises RecipeError.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise RecipeError(
            f"--host: there is no machine {host!r}: {error}", remedy="Name an address of this machine."
        ) from error
    if token is None and not is_loopback(str(address[0])):
        raise RecipeError(
            f"--host: {host!r} can be reached from other machines; without a token anybody there could use "
            "this one",
            remedy="Add --token, a secret that clients send as `Authorization: Bearer TOKEN`, or leave "
            "--host out.",
        )
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise RecipeError(f"--port: {_why(error, host, port)}", remedy=_remedy(error)) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(app: ASGIApp, listening: socket.socket, stop_requested: Callable[[], bool]) -> None:
    """Answer requests until `stop_requested` says so; it is asked ten times a second."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    # What goes wrong in a request is told by whoever answers it.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    server = _Server(config, stop_requested)
    asyncio.run(server.serve([listening]))


class _Server(uvicorn.Server):
    """Signals are the command line's."""

    def __init__(self, config: uvicorn.Config, stop_requested: Callable[[], bool]) -> None:
        super().__init__(config)
        self._stop_requested = stop_requested

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop_requested()


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{port} is in use by another program"
    return f"{host}:{port} cannot be listened on: {error.strerror}"


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Choose another one; --port 0 takes one that is free."
    return "Name an address of this machine, and a port above 1023."
