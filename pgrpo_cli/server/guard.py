"""Who may ask for what: stands before every request, and ends it when its client has gone.

A page of another site can make a browser send requests to this machine. It can name neither a token nor an
origin that is ours, and a request with a body of JSON needs a permission that is never given. A name of its
own that it lets lead here (DNS rebinding) stands in `Host`, where only this machine's names are taken.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, as_api_error, unforeseen

LONGEST_BODY = 1 << 20
"""Bytes of a request."""
BODY_SECONDS = 30.0
"""Time that a client has to send them."""

_SAFE_METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(?::\d+)?")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Admission:
    """Whose requests are taken: with a token, whoever has it; without one, this machine's.

    `host`: the name that the server was told to listen on. `open_paths` need no token.
    """

    host: str
    token: str | None = None
    open_paths: frozenset[str] = frozenset()

    def check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is not taken."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.token is None and not self._is_ours(host):
            raise ApiError(403, "Host names another machine; this server answers as localhost only")
        if origin is not None and _place_of(origin) != host.lower():
            raise ApiError(403, "Origin: pages of other sites may not use this server")
        if self.token is not None and scope["path"] not in self.open_paths:
            self._check_token(headers.get("authorization", ""))
        if scope["method"] not in _SAFE_METHODS:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "Content-Type must be application/json")

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = match[1].strip("[]").lower().rstrip(".") if match else ""
        return name == self.host.lower() or name == "localhost" or is_loopback(name)

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode(), (self.token or "").encode())
        if scheme.lower() != "bearer" or not same:
            raise ApiError(
                401, "this server needs its token: Authorization: Bearer TOKEN", code="invalid_api_key"
            )


def _place_of(origin: str) -> str | None:
    """Host and port of an origin; None where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether an address in numbers is this machine's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Guard:
    """The application behind an admission.

    Errors become responses; `on_failure` hears of those that nobody foresaw. A request whose client has gone
    is cancelled.
    """

    def __init__(self, app: ASGIApp, admission: Admission, on_failure: Callable[[Exception], object]) -> None:
        self._app, self._admission, self._on_failure = app, admission, on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            self._admission.check(scope)
            body = await _body(scope, receive)
            # Starlette raises what it would answer otherwise where it is told of an application.
            work = self._app({**scope, "app": self._app}, _given(body), sent)
            await _unless_gone(work, receive)
        except Exception as error:
            told = as_api_error(error)
            if told is None:
                self._on_failure(error)
            if not begun:
                await (told or unforeseen()).response()(scope, receive, sent)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """All of it. Raises ApiError where it is too long or too slow."""
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length) > LONGEST_BODY:
        raise _too_long()
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client went away before its request was complete")
                body += message.get("body", b"")
                if len(body) > LONGEST_BODY:
                    raise _too_long()
                if not message.get("more_body", False):
                    return body
    except TimeoutError as error:
        raise ApiError(408, f"the request did not arrive within {BODY_SECONDS:g} seconds") from error


def _too_long() -> ApiError:
    return ApiError(413, f"the request has more than {LONGEST_BODY:,} bytes")


def _given(body: bytes) -> Receive:
    """What hands a body on that has been read; nothing comes after it."""
    parts = [body]

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def _unless_gone(work: Awaitable[None], receive: Receive) -> None:
    """Do the work, and cancel it when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
