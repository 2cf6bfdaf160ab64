"""POST /v1/completions: plain text continued, and scored (echo with logprobs), as evaluation tools ask for it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from eft_gguf.server.dials import blend_of, plain_dials, sampling_of, seeds
from eft_gguf.server.errors import ApiError, encode
from eft_gguf.server.logprobs import LegacyLogprobs
from eft_gguf.server.protocol import Begin, Done, Order, Piece, Score
from eft_gguf.server.schema import CompletionRequest
from eft_gguf.server.state import Server, Steerable
from eft_gguf.server.stream import DONE, GONE, Stream, event, unless_gone
from eft_gguf.server.usage import Usage

router = APIRouter()


@router.post("/v1/completions", summary="Continue plain text, or score it.")
async def completions(body: CompletionRequest, request: Request, server: Server) -> Response:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: the models continue text at its end", param="suffix")
    if body.best_of not in (None, body.n or 1):
        raise ApiError(400, "best_of other than n is not supported: ask for n and choose", param="best_of")
    model, preset = server.named(body.model)
    blend = blend_of(body.eft, preset, server.about)
    more = {"logprobs": body.logprobs, "max_tokens": body.max_tokens or None}
    sampling = sampling_of(body, server.settings.sampling, **more)
    if body.logprobs is None:
        sampling = replace(sampling, logprobs=None)
    scored = body.max_tokens == 0 or (bool(body.echo) and body.logprobs is not None)
    orders: list[Order] = []
    places: list[tuple[int, int | None]] = []  # of each order: the prompt, and the reply to it or None for its score
    for number, prompt in enumerate(body.prompts):
        if scored:
            orders.append(Score(prompt, blend, body.logprobs or 0))
            places.append((number, None))
        if body.max_tokens != 0:
            inspect = body.eft is not None and body.eft.inspect
            for reply, own in enumerate(seeds(sampling, body.n or 1)):
                orders.append(Begin(prompt, blend, own, inspect, whole=not body.stream))
                places.append((number, reply))
    ticket, _ = await server.begin(orders)
    reply_id = f"cmpl-{secrets.token_hex(12)}"
    head = {
        "id": reply_id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    server.steerable[reply_id] = steerable = Steerable(ticket, blend)
    answer = _Answer(body, head, places)

    def left() -> None:
        server.left(reply_id, ticket)

    def figures() -> dict[str, Any]:
        return {"dials": plain_dials(steerable.blend, server.about), "seed": sampling.seed}

    events = server.events(ticket)
    if body.stream:
        pieces = answer.stream(events, figures)
        return Stream(pieces, left, media_type="text/event-stream", patience=server.settings.patience)
    whole = await unless_gone(request, answer.whole(events), left)
    if whole is None:
        return Response(status_code=GONE)
    return Response(encode({**whole, "eft": figures()}), media_type="application/json")


@dataclass
class _Choice:
    """A reply to one of the prompts, as far as it came."""

    text: list[str] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    finish_reason: str | None = "length"
    timings: dict[str, Any] = field(default_factory=dict)


class _Answer:
    """The response, gathered. places: of each order, the prompt, and the reply to it or None for its score."""

    def __init__(self, body: CompletionRequest, head: dict[str, Any], places: list[tuple[int, int | None]]) -> None:
        self._body, self._head, self._places = body, head, places
        self._n = body.n or 1
        self._choices = [_Choice() for _ in range(self._n * len(body.prompts))]
        self._offsets = [0 for _ in self._choices]  # characters of log-probabilities sent so far
        self._scores: dict[int, list[Any]] = {}
        self._usage = bool(body.stream_options and body.stream_options.include_usage)

    async def whole(self, events: AsyncIterator[tuple[int, Any]]) -> dict[str, Any]:
        """The response of a request without streaming."""
        async for place, happened in events:
            self._take(place, happened)
        return {**self._head, "choices": [self._choice(i) for i in range(len(self._choices))], "usage": self._cost()}

    async def stream(self, events: AsyncIterator[tuple[int, Any]], figures: Any) -> AsyncIterator[bytes]:
        """The server-sent events of a streamed one; where a text is scored, each choice comes as a whole."""
        body = self._body
        scoring = any(reply is None for _, reply in self._places)
        try:
            if body.echo and not scoring:
                for index in range(len(self._choices)):
                    yield self._chunk(index, self._echo(index))
            async for place, happened in events:
                about = self._take(place, happened)
                if scoring or about is None:
                    continue
                if isinstance(happened, Piece) and (happened.text or happened.token or happened.inspected):
                    logprobs = LegacyLogprobs(self._offsets[about])
                    if happened.token is not None:
                        logprobs.add(happened.token, happened.likeliest)
                    self._offsets[about] = logprobs.offset
                    shown = logprobs.plain() if body.logprobs is not None else None
                    inspected = [{"text": happened.text, **happened.inspected}] if happened.inspected else None
                    yield self._chunk(about, happened.text, shown, eft={"tokens": inspected} if inspected else None)
                elif isinstance(happened, Done):
                    choice = self._choices[about]
                    eft = {**figures(), "timings": [choice.timings]}
                    yield self._chunk(about, "", finish_reason=choice.finish_reason, eft=eft)
            if scoring:
                for index in range(len(self._choices)):
                    yield event({**self._head, "choices": [self._choice(index)]})
        except ApiError as error:
            yield event(error.body())
        else:
            if self._usage:
                yield event({**self._head, "choices": [], "usage": self._cost()})
        yield DONE

    def _take(self, place: int, happened: Any) -> int | None:
        """Put an event on record. The number of the choice that it is about, None for a score."""
        prompt, reply = self._places[place]
        if reply is None:
            if isinstance(happened, Done):
                self._scores[prompt] = happened.result
            return None
        index = prompt * self._n + reply
        choice = self._choices[index]
        if isinstance(happened, Piece):
            choice.text.append(happened.text)
            if happened.token is not None:
                choice.pieces.append(happened)
        elif isinstance(happened, Done):
            choice.finish_reason, choice.timings = happened.finish_reason, happened.timings
        return index

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        text = (self._echo(index) if self._body.echo else "") + "".join(choice.text)
        found = {"index": index, "text": text, "finish_reason": choice.finish_reason, "logprobs": None}
        if self._body.logprobs is not None:
            logprobs = LegacyLogprobs(0)
            for token, likeliest in self._scores.get(index // self._n, []) if self._body.echo else []:
                logprobs.add(token, likeliest)
            for piece in choice.pieces:
                if piece.token is not None:
                    logprobs.add(piece.token, piece.likeliest)
            found["logprobs"] = logprobs.plain()
        return found

    def _echo(self, index: int) -> str:
        prompt = self._body.prompts[index // self._n]
        if isinstance(prompt, str):
            return prompt
        scored = self._scores.get(index // self._n, [])
        return b"".join(token.data for token, _ in scored).decode("utf-8", "replace")

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
        eft: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": logprobs}
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._usage:
            chunk["usage"] = None
        if eft:
            chunk["eft"] = eft
        return event(chunk)

    def _cost(self) -> dict[str, Any]:
        total = Usage(0, 0, 0)
        for prompt in range(len(self._body.prompts)):
            timings = [choice.timings for choice in self._choices[prompt * self._n : (prompt + 1) * self._n]]
            if any(timings):
                total += Usage.of(timings)
            else:
                total += Usage(len(self._scores.get(prompt, [])), 0, 0)
        return total.plain()
