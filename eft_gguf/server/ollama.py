"""Ollama's API for clients that know no other: /api/chat, /api/generate, /api/tags, /api/version, /api/show."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from eft_gguf.server import schema, tools
from eft_gguf.server.dials import blend_of, sampling_of, shown
from eft_gguf.server.errors import ApiError, encode
from eft_gguf.server.protocol import Begin, Done, Piece
from eft_gguf.server.state import Server, State
from eft_gguf.server.stream import GONE, Stream, line, unless_gone

router = APIRouter()
SPOKEN = "0.12.6"
"""The version of Ollama whose API this is: clients ask for one that is new enough."""
NEVER = "2318-01-01T00:00:00Z"
STARTED = datetime.now(timezone.utc).isoformat()


class Options(schema.SamplingFields):
    """Sampling, by Ollama's names where those differ from the engine's."""

    num_predict: int | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=schema.LARGE)] | None = None


class OllamaRequest(schema.Request):
    """What both kinds of request share. options: sampling."""

    model: str = ""
    stream: bool | None = None
    format: Literal["", "json"] | schema.Json | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    eft: schema.RequestDials | None = None


class OllamaCalled(schema.Body):
    """A function that a model called; arguments as an object."""

    name: str
    arguments: schema.Json


class OllamaCall(schema.Body):
    """A call in an assistant's message."""

    function: OllamaCalled


class OllamaMessage(schema.Body):
    """What was said."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as templates read it."""
        if self.images:
            raise ApiError(400, "the models read text only, not images")
        calls = [{"type": "function", **call.model_dump()} for call in self.tool_calls or ()]
        return {"role": self.role, "content": self.content, **({"tool_calls": calls} if calls else {})}


class OllamaChat(OllamaRequest):
    """POST /api/chat."""

    messages: list[OllamaMessage] = Field(default_factory=list)
    tools: Annotated[list[schema.Tool], Field(max_length=128)] | None = None


class OllamaGenerate(OllamaRequest):
    """POST /api/generate. raw: continue the prompt as it stands, without the template."""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    images: list[str] | None = None


class OllamaShow(schema.Request):
    """POST /api/show."""

    model: str = ""


@router.get("/api/version", summary="The version, as Ollama tells it.")
async def version() -> Response:
    return _json({"version": SPOKEN})


@router.get("/api/ps", summary="The models that are loaded, as Ollama lists them.")
async def loaded(server: Server) -> Response:
    # They stay until the server ends; clients read a date.
    return _json({"models": [_model(name, server) | {"expires_at": NEVER, "size_vram": 0} for name in server.names]})


@router.get("/api/tags", summary="The models, as Ollama lists them.")
async def tags(server: Server) -> Response:
    return _json({"models": [_model(name, server) for name in server.names]})


@router.post("/api/show", summary="About one model, as Ollama tells it.")
async def show(body: OllamaShow, server: Server) -> Response:
    name, _ = server.named(_without_tag(body.model))
    about = server.about
    capabilities = ["completion", *(["tools"] if "tools" in about.template else [])]
    info = {"general.architecture": "eft", "eft.context_length": about.ctx}
    return _json({**_model(name, server), "template": about.template, "capabilities": capabilities, "model_info": info})


@router.post("/api/chat", summary="Answer messages, as Ollama does.")
async def chat(body: OllamaChat, request: Request, server: Server) -> Response:
    if not body.messages:
        return _loaded(body.model, server, {"message": {"role": "assistant", "content": ""}})
    form = tools.form_of(server.about.template) if body.tools and tools.has_place(server.about.template) else None
    offered = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if form else None
    reader = tools.CallReader(form, body.tools or []) if form else tools.PlainReader()
    prompt = [message.plain() for message in body.messages]
    return await _answer(body, request, server, prompt, offered, _Chat(reader))


@router.post("/api/generate", summary="Answer one prompt, as Ollama does.")
async def generate(body: OllamaGenerate, request: Request, server: Server) -> Response:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: the models continue text at its end")
    if body.images:
        raise ApiError(400, "the models read text only, not images")
    if not body.prompt:
        return _loaded(body.model, server, {"response": ""})
    prompt: str | list[dict[str, Any]] = body.prompt
    if not body.raw:
        system = [{"role": "system", "content": body.system}] if body.system else []
        prompt = [*system, {"role": "user", "content": body.prompt}]
    return await _answer(body, request, server, prompt, None, _Generate())


class _Generate:
    """Words what comes for /api/generate."""

    def said(self, text: str) -> dict[str, Any] | None:
        """What a piece of text adds."""
        return {"response": text} if text else None

    def flushed(self) -> dict[str, Any] | None:
        """What is left at the end."""
        return None

    def whole(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """All parts as one."""
        return {"response": "".join(part["response"] for part in parts)}


@dataclass
class _Chat:
    """Words what comes for /api/chat."""

    reader: tools.Reader
    calls: list[tools.ToolCall] = field(default_factory=list)

    def said(self, text: str) -> dict[str, Any] | None:
        """What a piece of text adds."""
        return self._part(*self.reader.push(text))

    def flushed(self) -> dict[str, Any] | None:
        """What is left at the end."""
        return self._part(*self.reader.flush())

    def whole(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """All parts as one."""
        content = "".join(part["message"]["content"] for part in parts)
        return self._part(content, self.calls, kept=True) or {"message": {"role": "assistant", "content": ""}}

    def _part(self, text: str, calls: list[tools.ToolCall], kept: bool = False) -> dict[str, Any] | None:
        if not text and not calls:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            self.calls += [] if kept else calls
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in calls
            ]
        return {"message": message}


async def _answer(
    body: OllamaRequest,
    request: Request,
    server: State,
    prompt: str | list[dict[str, Any]],
    offered: list[dict[str, Any]] | None,
    words: _Chat | _Generate,
) -> Response:
    name, preset = server.named(_without_tag(body.model))
    options = body.options or Options()
    more: dict[str, Any] = _penalties(options.repeat_last_n, server.about.ctx)
    if options.num_predict is not None and options.num_predict > 0:
        more["max_tokens"] = min(options.num_predict, schema.LARGE)
    if body.format:
        more["json_schema"] = {"type": "object"} if body.format == "json" else body.format
    blend = blend_of(body.eft, preset, server.about)
    sampling = sampling_of(options, server.settings.sampling, **more)
    started = time.monotonic()
    examples = shown(body.eft, name, server.names)
    variables = {"enable_thinking": body.think} if isinstance(body.think, bool) else None
    order = Begin(prompt, blend, sampling, False, offered, body.stream is False, examples, variables)
    ticket, _ = await server.begin([order])

    def head() -> dict[str, Any]:
        return {"model": name, "created_at": datetime.now(timezone.utc).isoformat()}

    async def parts() -> AsyncIterator[dict[str, Any]]:
        async for _, happened in server.events(ticket):
            if isinstance(happened, Piece):
                if part := words.said(happened.text):
                    yield {**part, "done": False}
            elif isinstance(happened, Done):
                if part := words.flushed():
                    yield {**part, "done": False}
                yield {"done": True, "done_reason": happened.finish_reason, **_figures(happened.timings, started)}

    async def streamed() -> AsyncIterator[bytes]:
        try:
            async for part in parts():
                yield line({**head(), **(words.whole([]) if part["done"] else {}), **part})
        except ApiError as error:
            yield line({"error": error.message})

    async def gathered() -> dict[str, Any]:
        *said, last = [part async for part in parts()]
        return {**head(), **words.whole(said), **last}

    # Ollama streams unless told not to.
    if body.stream is not False:
        pieces = streamed()
        return Stream(pieces, ticket.cancel, media_type="application/x-ndjson", patience=server.settings.patience)
    whole = await unless_gone(request, gathered(), ticket.cancel)
    return Response(status_code=GONE) if whole is None else _json(whole)


def _penalties(window: int | None, ctx: int) -> dict[str, Any]:
    """What Ollama's repeat_last_n says: −1 looks at the whole context, 0 at nothing."""
    if window == 0:
        return {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    return {"penalty_window": ctx if window == -1 else window}


def _figures(timings: dict[str, Any], started: float) -> dict[str, int]:
    """Counts, and durations in nanoseconds."""
    return {
        "total_duration": int(1e9 * (time.monotonic() - started)),
        "load_duration": 0,
        "prompt_eval_count": timings["prompt_tokens"],
        "prompt_eval_duration": int(1e9 * timings["prefill_seconds"]),
        "eval_count": timings["generated_tokens"],
        "eval_duration": int(1e9 * timings["decode_seconds"]),
    }


def _loaded(model: str, server: State, empty: dict[str, Any]) -> Response:
    """The answer to a request that only wants the models to be there."""
    name, _ = server.named(_without_tag(model))
    created = datetime.now(timezone.utc).isoformat()
    return _json({"model": name, "created_at": created, **empty, "done": True, "done_reason": "load"})


def _model(name: str, server: State) -> dict[str, Any]:
    details = {"format": "gguf", "family": "eft", "families": ["eft"], "parameter_size": "", "quantization_level": ""}
    about = server.about
    digest = hashlib.sha256(f"{name} {about.members} {about.bytes}".encode()).hexdigest()
    size = {"modified_at": STARTED, "size": about.bytes, "digest": digest}
    return {"name": name, "model": name, **size, "details": details}


def _without_tag(model: str) -> str:
    """Ollama's clients put :latest behind names without a tag."""
    return model.removesuffix(":latest")


def _json(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")
