"""What the routes share: settings, the engine, metrics, and the replies that may be steered while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from eft_gguf.blend.equation import Blend
from eft_gguf.server.dials import model_names, named
from eft_gguf.server.errors import ApiError
from eft_gguf.server.metrics import Metrics
from eft_gguf.server.process import Engine, OrderFailed, Ticket
from eft_gguf.server.protocol import About, Begun, Done, Event, Failed, Order
from eft_gguf.server.settings import Settings


@dataclass
class Steerable:
    """A reply under way, and its dials."""

    ticket: Ticket
    blend: Blend


@dataclass
class State:
    """One server."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    steerable: dict[str, Steerable] = field(default_factory=dict)

    @property
    def about(self) -> About:
        """The models. Raises ApiError while there are none."""
        if self.engine.about is None:
            raise ApiError.of(OrderFailed(Failed("loading", f"the models are not loaded: {self.engine.progress}"), 5))
        return self.engine.about

    @property
    def names(self) -> dict[str, Blend]:
        """The models' names for clients, each with its blend."""
        return model_names(self.settings, self.about)

    def named(self, model: str) -> tuple[str, Blend]:
        """The name and the blend of a model that a client asks for."""
        return named(model, self.names)

    async def begin(self, orders: Sequence[Order]) -> tuple[Ticket, list[Begun]]:
        """Hand orders over and wait until they are found right. Raises ApiError."""
        try:
            ticket = self.engine.order(orders)
            try:
                return ticket, await ticket.begun()
            except asyncio.CancelledError:
                ticket.cancel()
                raise
        except OrderFailed as failed:
            error = ApiError.of(failed)
            if error.code == "context_length_exceeded":
                # In these words clients look for it.
                limit = f"This model's maximum context length is {self.about.ctx} tokens"
                error.message = f"{limit}, and {error.message}"
            raise error from None

    async def events(self, ticket: Ticket) -> AsyncIterator[tuple[int, Event]]:
        """The events of a ticket, counted. Raises ApiError."""
        try:
            async for place, event in ticket:
                if isinstance(event, Done):
                    self.metrics.count_reply(event.timings)
                yield place, event
        except OrderFailed as failed:
            raise ApiError.of(failed) from None

    def left(self, reply: str, ticket: Ticket) -> None:
        """A reply has no more readers."""
        self.steerable.pop(reply, None)
        ticket.cancel()


def _state(request: Request) -> State:
    state: State = request.app.state.server
    return state


Server = Annotated[State, Depends(_state)]
