"""Who may use the server: checks before any request is looked at further. Everything is refused that is not allowed.

- The Host header must be an IP address, localhost, or a name that was allowed: a web page whose name was made to point
  here (DNS rebinding) calls us by its own name.
- The Origin header, which browsers send with what pages do, must be this server's own or an allowed one.
- Where there are API keys, one must come along. Only the page's own files and /health are there for all.
- A body has a greatest size, and a time by which it must be here; so have the headers (`patient_protocol`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Container
from typing import Any

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from eft_gguf.server.errors import ApiError, error_response
from eft_gguf.server.settings import Settings

BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Guard:
    """ASGI middleware, the outermost. open_paths: those that need no key."""

    def __init__(self, app: ASGIApp, settings: Settings, open_paths: Container[str]) -> None:
        self._app, self._settings, self._open = app, settings, open_paths
        self._keys = [_digest(key.encode()) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        try:
            self._check_host(headers)
            origin = self._checked_origin(headers)
            if origin is not None:
                send = _with_cors(send, origin)
                if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    await _preflight()(scope, receive, send)
                    return
            if path not in self._open:
                self._check_key(headers)
            if scope["method"] in BODY_METHODS:
                receive = await self._with_body(headers, receive)
                # Clients such as curl name another type for the JSON that they send.
                scope["headers"] = _typed_as_json(scope["headers"])
        except ApiError as error:
            response = error_response(error, path)
            # What is left of the request is not read: the connection cannot be used for another.
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        except _Left:
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not _is_own_name(host, self._settings.allowed_hosts):
            raise ApiError(
                403,
                f"this server is not called {host[:100]!r}. Start it with --allow-host to be called by a name",
                "permission_error",
                code="host_not_allowed",
            )

    def _checked_origin(self, headers: Headers) -> str | None:
        """The origin that the response is to be released to, where it is another server's page."""
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers.get("host"):
            return None
        if origin not in self._settings.allowed_origins:
            raise ApiError(
                403,
                f"pages of {origin[:100]!r} may not use this server. Start it with --allow-origin to let them",
                "permission_error",
                code="origin_not_allowed",
            )
        return origin

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        found = _digest(given.encode("latin-1"))
        # All are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(found, key) for key in self._keys]
        if not any(matches):
            message = (
                "this is no API key of this server" if given else "an API key is needed: Authorization: Bearer KEY"
            )
            raise ApiError(401, message, "authentication_error", code="invalid_api_key")

    async def _with_body(self, headers: Headers, receive: Receive) -> Receive:
        """The whole body read, and given out again by what is returned."""
        limit = self._settings.body_limit
        too_large = ApiError(
            413, f"the body is larger than {limit:,} bytes. Send less, or start with a larger --body-limit"
        )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()

        async def read() -> None:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Left
                body.extend(message.get("body", b""))
                if len(body) > limit:
                    raise too_large
                more = message.get("more_body", False)

        try:
            await asyncio.wait_for(read(), self._settings.patience)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body was not here within {self._settings.patience:g} s") from None
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return again


def patient_protocol(patience: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, which ends connections whose request's head is not here within `patience` seconds."""

    class Patient(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state.__name__ == "IDLE":
                self._arm()
            else:
                self._disarm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _arm(self) -> None:
            if self.timer is None:
                self.timer = self.loop.call_later(patience, self.transport.close)

        def _disarm(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Patient


class _Left(Exception):
    """The client closed the connection before its request was whole."""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_own_name(host: str, allowed: tuple[str, ...]) -> bool:
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")
    if name == "localhost" or name in (entry.lower() for entry in allowed):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _with_cors(send: Send, origin: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "retry-after"
            headers.add_vary_header("origin")
        await send(message)

    return wrapped


def _preflight() -> Response:
    headers = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization, content-type, x-api-key",
        "access-control-max-age": "600",
    }
    return Response(None, 204, headers)


def _typed_as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0] != b"content-type"] + [(b"content-type", b"application/json")]
