"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from eft_gguf.blend.equation import Blend
from eft_gguf.engine.sampling import Sampling
from eft_gguf.server import tools
from eft_gguf.server.dials import blend_of, constraints_of, plain_dials, sampling_of, seeds, shown
from eft_gguf.server.errors import ApiError, encode
from eft_gguf.server.logprobs import chat_logprob
from eft_gguf.server.protocol import Begin, Done, Piece, Read
from eft_gguf.server.schema import ChatRequest, JsonObjectFormat, JsonSchemaFormat, ToolChoice
from eft_gguf.server.state import Server, State, Steerable
from eft_gguf.server.stream import DONE, GONE, Stream, event, unless_gone
from eft_gguf.server.usage import Usage

router = APIRouter()


@router.post("/v1/chat/completions", summary="Answer messages.")
async def chat_completions(body: ChatRequest, request: Request, server: Server) -> Response:
    model, preset = server.named(body.model)
    blend = blend_of(body.eft, preset, server.about)
    form, forced = _tool_form(body, server)
    sampling = _sampling(body, server.settings.sampling, forced)
    offered = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if form else None
    messages = [message.plain() for message in body.messages]
    inspect = body.eft is not None and body.eft.inspect
    whole = not body.stream
    examples = shown(body.eft, model, server.names)
    orders = [
        Begin(messages, blend, own, inspect, offered, whole, examples, body.variables)
        for own in seeds(sampling, body.n or 1)
    ]
    ticket, begun = await server.begin(orders)
    answer = Answer(body, model, blend, server, form, seed=begun[0].seed)
    server.steerable[answer.id] = steerable = Steerable(ticket, blend)

    def left() -> None:
        server.left(answer.id, ticket)

    answer.steerable = steerable
    if body.stream:
        return Stream(
            answer.stream(server.events(ticket)),
            left,
            media_type="text/event-stream",
            patience=server.settings.patience,
        )
    told = await unless_gone(request, answer.whole(server.events(ticket)), left)
    return Response(status_code=GONE) if told is None else Response(encode(told), media_type="application/json")


def _sampling(body: ChatRequest, defaults: Sampling, forced: str | None) -> Sampling:
    more: dict[str, Any] = {"max_tokens": body.max_completion_tokens or body.max_tokens}
    if body.logprobs:
        more["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    format = body.response_format
    if isinstance(format, JsonObjectFormat):
        more["json_schema"] = format.schema_ or {"type": "object"}
    elif isinstance(format, JsonSchemaFormat):
        nested = None if format.json_schema is None else format.json_schema.schema_
        more["json_schema"] = nested or format.schema_ or {"type": "object"}
    if forced is not None:
        if "json_schema" in more or body.grammar is not None or constraints_of(body):
            raise ApiError(400, "a forced tool call cannot follow another format as well", param="tool_choice")
        more["lark"] = forced
    return sampling_of(body, defaults, **more)


def _tool_form(body: ChatRequest, server: State) -> tuple[tools.Form | None, str | None]:
    """How calls are written, where there may be any, and the grammar that forces one."""
    choice = body.tool_choice
    if not body.tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice names a call, but there are no tools", param="tool_choice")
        return None, None
    if choice == "none":
        return None, None
    if choice in (None, "auto") and not tools.has_place(server.about.template):
        # Clients send their tools with any message: they are answered in text, and told.
        return None, None
    form = tools.form_of(server.about.template)
    functions = [tool.function for tool in body.tools]
    if isinstance(choice, ToolChoice):
        functions = [function for function in functions if function.name == choice.function.name]
        if not functions:
            raise ApiError(400, f"tool_choice names {choice.function.name!r}, which is no tool", param="tool_choice")
    elif choice != "required":
        return form, None
    return form, tools.forcing(form, functions)


@dataclass
class _Choice:
    """One of the replies as far as it came."""

    reader: tools.Reader
    text: list[str] = field(default_factory=list)
    calls: list[tools.ToolCall] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    inspected: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    timings: dict[str, Any] = field(default_factory=dict)

    def finish(self, done: Done) -> None:
        self.finish_reason = "tool_calls" if self.calls and done.finish_reason == "stop" else done.finish_reason
        self.timings = done.timings


class Answer:
    """The replies to one request, in OpenAI's words."""

    def __init__(
        self, body: ChatRequest, model: str, blend: Blend, server: State, form: tools.Form | None, seed: int
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.steerable = None
        self._model, self._server, self._seed = model, server, seed
        self._blend = blend
        self._warnings = body.warnings
        if body.tools and form is None and body.tool_choice != "none":
            self._warnings.append("the tuned model's template has no place for tools: it did not hear of them")
        self._logprobs = bool(body.logprobs)
        self._inspect = body.eft is not None and body.eft.inspect
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._choices = [
            _Choice(tools.CallReader(form, body.tools or []) if form else tools.PlainReader())
            for _ in range(body.n or 1)
        ]

    steerable: Steerable | None

    async def whole(self, events: AsyncIterator[tuple[int, Any]]) -> dict[str, Any]:
        """The response of a request without streaming."""
        async for place, happened in events:
            choice = self._choices[place]
            if isinstance(happened, Piece):
                said, calls = choice.reader.push(happened.text)
                self._take(choice, said, calls, happened)
            elif isinstance(happened, Done):
                self._take(choice, *choice.reader.flush())
                choice.finish(happened)
        choices = [
            {
                "index": place,
                "message": self._message(choice),
                "logprobs": {"content": choice.logprobs, "refusal": None} if self._logprobs else None,
                "finish_reason": choice.finish_reason,
                **({"eft": {"tokens": choice.inspected}} if self._inspect else {}),
            }
            for place, choice in enumerate(self._choices)
        ]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": self._cost().plain(),
            "eft": self._figures(),
        }

    async def stream(self, events: AsyncIterator[tuple[int, Any]]) -> AsyncIterator[bytes]:
        """The server-sent events of a streamed one. An error after the first is an event as well."""
        for place in range(len(self._choices)):
            yield self._chunk(place, {"role": "assistant", "content": ""})
        try:
            async for place, happened in events:
                choice = self._choices[place]
                if isinstance(happened, Piece):
                    said, calls = choice.reader.push(happened.text)
                    if said or calls or happened.token or happened.inspected:
                        yield self._delta(place, said, calls, happened)
                elif isinstance(happened, Read):
                    yield event(
                        {
                            **self._head("chat.completion.chunk"),
                            "choices": [],
                            "eft": {"prompt": {"done": happened.done, "total": happened.total}},
                        }
                    )
                elif isinstance(happened, Done):
                    said, calls = choice.reader.flush()
                    if said or calls:
                        yield self._delta(place, said, calls)
                    choice.finish(happened)
                    yield self._chunk(place, {}, choice.finish_reason, eft=self._figures(choice))
        except ApiError as error:
            yield event(error.body())
        else:
            if self._usage:
                yield event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._cost().plain()})
        yield DONE

    def _take(self, choice: _Choice, said: str, calls: list[tools.ToolCall], piece: Piece | None = None) -> None:
        choice.text.append(said)
        choice.calls += calls
        if piece is not None and piece.token is not None:
            choice.logprobs.append(chat_logprob(piece))
        if piece is not None and piece.inspected is not None:
            choice.inspected.append({"text": piece.text, **piece.inspected})

    def _message(self, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": [call.plain() for call in choice.calls]}
        return message

    def _delta(self, place: int, said: str, calls: list[tools.ToolCall], piece: Piece | None = None) -> bytes:
        choice = self._choices[place]
        delta: dict[str, Any] = {"content": said} if said or not calls else {}
        if calls:
            first = len(choice.calls)
            delta["tool_calls"] = [{"index": first + i, **call.plain()} for i, call in enumerate(calls)]
            choice.calls += calls
        logprob = chat_logprob(piece) if piece is not None and piece.token is not None else None
        eft = {"tokens": [{"text": piece.text, **piece.inspected}]} if piece and piece.inspected else None
        return self._chunk(place, delta, logprob=logprob, eft=eft)

    def _chunk(
        self,
        place: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        *,
        logprob: dict[str, Any] | None = None,
        eft: dict[str, Any] | None = None,
    ) -> bytes:
        logprobs = None if logprob is None or not self._logprobs else {"content": [logprob], "refusal": None}
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk: dict[str, Any] = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._usage:
            chunk["usage"] = None
        if eft is not None:
            chunk["eft"] = eft
        return event(chunk)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self._model}

    def _figures(self, choice: _Choice | None = None) -> dict[str, Any]:
        """The dials in force at the end, the first seed, and what the replies cost."""
        blend = self.steerable.blend if self.steerable else self._blend
        timings = [found.timings for found in self._choices] if choice is None else [choice.timings]
        warnings = {"warnings": self._warnings} if self._warnings else {}
        return {"dials": plain_dials(blend, self._server.about), "seed": self._seed, "timings": timings, **warnings}

    def _cost(self) -> Usage:
        return Usage.of([choice.timings for choice in self._choices])
