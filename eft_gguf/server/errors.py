"""Errors as OpenAI's clients read them, and on Ollama's paths as its clients do."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from eft_gguf.errors import EFTError
from eft_gguf.server.process import OrderFailed
from eft_gguf.server.protocol import Failed

INVALID, SERVER = "invalid_request_error", "server_error"
# What a failure of an order is to a client: status, type, code.
_KINDS = {
    "request": (400, INVALID, None),
    "context": (400, INVALID, "context_length_exceeded"),
    "full": (429, "rate_limit_error", "queue_full"),
    "failed": (500, SERVER, "reply_failed"),
    "crashed": (503, SERVER, "engine_crashed"),
    "timeout": (504, SERVER, "timeout"),
    "stopping": (503, SERVER, "stopping"),
    "loading": (503, SERVER, "loading"),
}
_EFT_FIELDS = ("knowledge", "behaviour", "traits", "filter", "examples", "inspect")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Characters that JSON leaves as they are, and that end a line for Python's and JavaScript's readers of lines."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is none. wait: seconds for the header Retry-After."""

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    wait: int | None = None

    @classmethod
    def of(cls, failed: OrderFailed) -> ApiError:
        """What a failed order is to a client."""
        failure: Failed = failed.failure
        status, type, code = _KINDS[failure.kind]
        return cls(status, worded(failure.message, failure.hint), type, code=code, wait=failed.wait)

    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def worded(message: str, hint: str = "") -> str:
    """A message with the way out."""
    return f"{message}. {hint[0].upper()}{hint[1:]}" if hint else message


def error_response(error: ApiError, path: str = "") -> Response:
    """The error as a response, in the shape that the path's clients know."""
    body: Mapping[str, Any] = {"error": error.message} if path.startswith("/api/") else error.body()
    headers = {} if error.wait is None else {"retry-after": str(error.wait)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(encode(body), error.status, headers, "application/json")


def encode(value: Any) -> bytes:
    """JSON as UTF-8, in one line whatever a reader takes for a line's end.

    What clients sent may hold half characters, which are replaced.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8", "replace")


def add_handlers(app: FastAPI) -> None:
    """Have everything that goes wrong worded in these shapes."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error_response(error, request.url.path)

    @app.exception_handler(OrderFailed)
    async def order_failed(request: Request, error: OrderFailed) -> Response:
        return error_response(ApiError.of(error), request.url.path)

    @app.exception_handler(EFTError)
    async def eft_error(request: Request, error: EFTError) -> Response:
        return error_response(ApiError(400, worded(error.message, error.hint)), request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(_invalid(error.errors()), request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        message = {
            404: f"there is no {request.url.path} here",
            405: f"{request.url.path} does not take {request.method}",
        }
        text = message.get(error.status_code, str(error.detail))
        response = error_response(
            ApiError(error.status_code, text, _TYPES.get(error.status_code, INVALID)), request.url.path
        )
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path, exc_info=error)
        message = f"an error inside the server: {type(error).__name__}; its log says more"
        return error_response(ApiError(500, message, SERVER), request.url.path)


def _invalid(errors: Sequence[Any]) -> ApiError:
    """The first thing that is wrong with a body, by name."""
    # Of the forms that a value may have, the one that it came closest to says most.
    first = max(errors, key=lambda error: len(error["loc"]))  # the first of the longest
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is no valid JSON")
    place = ".".join(str(part) for part in first["loc"][1:] if not _is_form(part))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" and place.startswith("eft."):
        message = f"there is no such field; {', '.join(_EFT_FIELDS)} are the fields of eft"
    if not place:
        return ApiError(400, f"the body is not what is wanted here: {message}")
    return ApiError(400, f"{place}: {message}", param=place)


def _is_form(part: object) -> bool:
    """Whether a part of a place is not a name of the client's, but one of the forms that a value may have."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "bool", "none") or "[" in part or part[:1].isupper()
    )
