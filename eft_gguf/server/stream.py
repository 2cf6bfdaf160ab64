"""Responses that come piece by piece, and the watch on whether anyone still takes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from eft_gguf.server.errors import encode

Outcome = TypeVar("Outcome")
GONE = 499
"""The status on record where the client has left: nobody reads it."""

log = logging.getLogger(__name__)


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def line(value: Any) -> bytes:
    """A line of JSON, as Ollama streams."""
    return encode(value) + b"\n"


class Stream(Response):
    """Sends what `pieces` gives. `left` is called when all is sent or nobody takes it any longer.

    patience: seconds that the client may take for one piece.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], left: Callable[[], None], *, media_type: str, patience: float
    ) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._left, self._patience = pieces, left, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._left()
            for task in (sending, gone):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
        if sending.done() and not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None
        async for piece in self._pieces:
            # A client that takes nothing in must not hold what was made for it for ever.
            timer = loop.call_later(self._patience, task.cancel)
            try:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                timer.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(request: Request, work: Awaitable[Outcome], left: Callable[[], None]) -> Outcome | None:
    """What `work` gives, or None where the client leaves before; `left` is called in any case."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        left()
        for task in (working, gone):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
