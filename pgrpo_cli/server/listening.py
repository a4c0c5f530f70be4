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
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pgrpo_cli.errors import RecipeError

from .errors import ApiError
from .guard import is_loopback

MOST_CONNECTIONS = 512
HEAD_SECONDS = 30.0
"""Time that a client has for the head of a request, from the connection or the response before it on."""
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
        _limited(app, lambda: len(server.server_state.connections)),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    # What goes wrong in a request is told by whoever answers it.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    server = _Server(config, stop_requested)
    asyncio.run(server.serve([listening]))


def _limited(app: ASGIApp, connections: Callable[[], int]) -> ASGIApp:
    """The application while there are no more connections than it may have. An idle one counts, too."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and connections() > MOST_CONNECTIONS:
            refused = ApiError(503, f"there are {MOST_CONNECTIONS} connections already; try again later")
            await refused.response()(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


class _Connection(H11Protocol):
    """It is closed where no complete head of a request comes: uvicorn waits for the first one for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        # A request that has a head may take its time: its body has a limit of its own.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


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
