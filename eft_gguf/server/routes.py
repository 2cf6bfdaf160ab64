"""The smaller routes: models, embeddings (refused), health, metrics, inspection, and dials moved during a reply."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import OptionError
from eft_gguf.server.dials import blend_of, plain_dials, shown
from eft_gguf.server.errors import ApiError, encode, error_response
from eft_gguf.server.metrics import memory_in_use
from eft_gguf.server.protocol import Begin, Done, Inspect, Order, Piece
from eft_gguf.server.schema import Dials, InspectRequest
from eft_gguf.server.state import Server, State
from eft_gguf.server.stream import GONE, unless_gone

router = APIRouter()
STARTED = int(time.time())


@router.get("/v1/models", summary="The blend, and the models of its corners.")
async def models(server: Server) -> Response:
    return _json({"object": "list", "data": [_model(name, server) for name in server.names]})


@router.get("/v1/models/{model}", summary="One of them.")
async def model(model: str, server: Server) -> Response:
    if model not in server.names:
        message = f"there is no model {model}; there are {', '.join(server.names)}"
        raise ApiError(404, message, "not_found_error", "model", "model_not_found")
    return _json(_model(model, server))


def _model(name: str, server: State) -> dict[str, Any]:
    about = server.about
    eft = {"dials": plain_dials(server.names[name], about), "members": about.members, "ctx": about.ctx}
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "eft-gguf", "eft": eft}


@router.post("/v1/embeddings", summary="Refused: a blend has no embeddings.", status_code=400)
async def embeddings() -> Response:
    message = "a blend of models has no embeddings: there is nothing to add up. Use a model made for them, elsewhere"
    raise ApiError(400, message, code="embeddings_not_supported")


@router.get("/health", summary="200 once the models are loaded, 503 before.")
async def health(server: Server) -> Response:
    engine = server.engine
    status = "stopping" if engine.stopping else {"ready": "ok"}.get(engine.state, engine.state)
    # Whoever asks, without a key, is told no paths.
    progress = "the models could not be loaded; the server's log says why" if status == "failed" else engine.progress
    body = {"status": status, "progress": progress, "restarts": engine.restarts}
    return Response(encode(body), 200 if status == "ok" else 503, media_type="application/json")


@router.get("/metrics", summary="Figures for Prometheus.")
async def metrics(server: Server) -> Response:
    return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/eft", summary="The family, the dials that requests start from, and what goes on.")
async def about(server: Server) -> Response:
    engine, known = server.engine, server.about
    sampling = server.settings.sampling
    return _json(
        {
            "model": next(iter(server.names)),
            "family": known.name,
            "members": known.members,
            "ctx": known.ctx,
            "warnings": known.warnings,
            "dials": plain_dials(next(iter(server.names.values())), known),
            "examples": list(known.examples),
            "sampling": {
                name: getattr(sampling, name)
                for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed")
            },
            "parallel": server.settings.parallel,
            "running": engine.figures.running,
            "waiting": engine.figures.waiting,
            "memory": memory_in_use(engine),
        }
    )


@router.post("/v1/replies/{reply}/eft", summary="Move the dials of a reply under way; they count from the next token.")
async def steer(reply: str, body: Dials, server: Server) -> Response:
    found = server.steerable.get(reply)
    if found is None:
        raise ApiError(404, "no such reply is under way: it may have ended", "not_found_error", code="no_such_reply")
    found.blend = blend_of(body, found.blend, server.about)
    found.ticket.steer(found.blend)
    return _json({"id": reply, "eft": plain_dials(found.blend, server.about)})


@router.post("/v1/inspect", summary="Which model decided which token of a reply.")
async def inspect(body: InspectRequest, request: Request, server: Server) -> Response:
    if (body.messages is None) == (body.prompt is None):
        raise OptionError("give either messages or a prompt", hint="messages go through the chat template")
    name, preset = server.named(body.model)
    blend = blend_of(body.eft, preset, server.about)
    prompt: str | list[dict[str, Any]] = body.prompt or [message.plain() for message in body.messages or ()]
    # Greedy, with a bound where none is given: a model may never end its turn.
    sampling = replace(Sampling(temperature=0), max_tokens=body.max_tokens or 256)
    examples = shown(body.eft, name, server.names)
    reply = body.reply
    if reply is None:
        reply = await _carry_out(Begin(prompt, blend, sampling, whole=True, examples=examples), request, server)
        if reply is None:
            return Response(status_code=GONE)
    found = await _carry_out(Inspect(prompt, reply, blend, sampling, examples), request, server)
    if found is None:
        return Response(status_code=GONE)
    return _json({"object": "eft.inspection", "model": name, "dials": plain_dials(blend, server.about), **found})


async def _carry_out(order: Order, request: Request, server: State) -> Any:
    """The text of a reply, or the outcome of another order; None where the client has left."""
    ticket, _ = await server.begin([order])

    async def outcome() -> Any:
        text = ""
        async for _, happened in server.events(ticket):
            if isinstance(happened, Piece):
                text += happened.text
            elif isinstance(happened, Done) and happened.result is not None:
                return happened.result
        return text

    return await unless_gone(request, outcome(), ticket.cancel)


def _json(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")


__all__ = ["error_response", "router"]
