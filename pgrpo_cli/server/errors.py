"""What is wrong with a request, in the form that clients of OpenAI's interface read."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pgrpo_cli.errors import PgrpoError

RETRY_SECONDS = 5
"""What a client is told to wait for when the queue is full."""

_KINDS = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(Exception):
    """A request that is refused, with its status of HTTP. `param` names the field, `code` the kind."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def content(self) -> dict[str, Any]:
        """The body of the response."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    def response(self) -> Response:
        """The response."""
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content(), self.status, headers)


def as_api_error(error: Exception) -> ApiError | None:
    """The error as clients are told of it; None for what nobody foresaw."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, error.detail)
    if isinstance(error, PgrpoError):
        return ApiError(400 if error.exit_code == 2 else 500, " ".join(str(error).split()))
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or None
        said = first["msg"].removeprefix("Value error, ")
        return ApiError(400, f"{place}: {said}" if place else said, param=place)
    return None


def unforeseen() -> ApiError:
    """What a client is told of a defect; the trace stays with whoever runs the server."""
    return ApiError(500, "the server failed at this request; its terminal says where the trace is")
