"""The bodies of requests, typed: OpenAI's, with the object `eft` for the dials and the engine's sampling options.

Types are strict: "1" is no number. Fields that are not known are let pass where clients send their own, in the body
itself, and refused in `eft`, where one would be a slip of the pen.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

LARGE = 2**31 - 1
MOST_KEYS, MOST_MESSAGES, MOST_VALUES = 4096, 2048, 400_000
"""Keys of one object, messages of a chat, and values in a whole request, at most: more is no use, and takes long."""


def _whole(value: Any) -> Any:
    """5.0 is a whole number: JavaScript and some JSON writers know no other kind."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= LARGE else value


def _bound(value: Any) -> Any:
    """-1 is no bound, as LM Studio and llama.cpp have it."""
    return None if _whole(value) == -1 and not isinstance(value, bool) else _whole(value)


def _all(value: Any) -> Any:
    """-1 keeps all, as 0 does."""
    return 0 if _whole(value) == -1 and not isinstance(value, bool) else _whole(value)


def _drawn(value: Any) -> Any:
    """A negative seed is one to be drawn."""
    value = _whole(value)
    return None if type(value) is int and value < 0 else value


def _least(value: Any) -> Any:
    """A top_p of 0 keeps the likeliest token, as in llama.cpp."""
    return 1e-9 if type(value) in (int, float) and value == 0 else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=LARGE)]
Bound = Annotated[Annotated[int, Field(ge=1, le=LARGE)] | None, BeforeValidator(_bound)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


def _writable(value: Any) -> Any:
    """Refuse what cannot be written as JSON in UTF-8: half characters, and numbers that are none."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("this is not JSON that can be written again") from None
    return value


Json = Annotated[dict[str, Any], AfterValidator(_writable)]


class Body(BaseModel):
    """A part of a request that may hold more than is known here."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Request(Body):
    """A whole request. Half characters, which JSON can name but UTF-8 cannot write, are refused wherever they stand."""

    @model_validator(mode="before")
    @classmethod
    def _utf8(cls, value: Any) -> Any:
        _require_small(value)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise ValueError("a text in it is no Unicode: it holds half a character") from None
        return value


def _require_small(value: Any) -> None:
    """Refuse what would take long to look at, before it is looked at."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)):
            if isinstance(one, dict) and len(one) > MOST_KEYS:
                raise ValueError(f"an object has {len(one):,} keys, and {MOST_KEYS:,} are the most")
            count += len(one)
            if count > MOST_VALUES:
                raise ValueError(f"the request has more than {MOST_VALUES:,} values")
            waiting += one.values() if isinstance(one, dict) else one


class Exact(BaseModel):
    """A part of a request that holds what is known here and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


# ---- the dials


class FilterFields(Exact):
    """What keeps tokens from winning by noise; null switches one off that is on by default."""

    tuned_top_p: float | None = None
    base_top_p: float | None = None
    base_min_p: float | None = None
    untuned_floor: float | None = None


class Dials(Exact):
    """The dials; what is not named stays as it is."""

    knowledge: float | None = None
    behaviour: float | None = None
    traits: dict[str, float] | None = None
    filter: FilterFields | None = None


class RequestDials(Dials):
    """The dials of a request. examples: whether base and untuned are shown the family's; where it does not say, for the
    blend and not for a model alone."""

    examples: bool | None = None


class EftFields(RequestDials):
    """As `RequestDials`. inspect: tell with each token who decided it."""

    inspect: bool = False


# ---- what all requests for text have


class StructuredOutputs(Body):
    """What a reply must follow, as vLLM's clients say it. grammar: Lark, or GBNF where it has `::=`."""

    json_: Json | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=10_000)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class SamplingFields(Request):
    """OpenAI's sampling options, and the engine's own beyond them."""

    temperature: float | None = None
    top_p: Annotated[float | None, BeforeValidator(_least)] = None
    top_k: Annotated[Annotated[int, Field(ge=0, le=LARGE)] | None, BeforeValidator(_all)] = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_window: Count | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Count | None = None
    grammar: Annotated[str, Field(max_length=100_000)] | None = None
    seed: Annotated[int | None, BeforeValidator(_drawn)] = None
    json_schema: Json | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"{key!r} is no token id")
        return value


class StreamOptions(Body):
    """include_usage: end the stream with what it cost."""

    include_usage: bool | None = None


HARMLESS = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
"""Fields of OpenAI's clients that change no reply."""


class TextRequest(SamplingFields):
    """What both kinds of completion share."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    eft: EftFields | None = None

    @property
    def warnings(self) -> list[str]:
        """What of the request has no effect here, in words."""
        given = {name for name, value in (self.model_extra or {}).items() if value is not None} - HARMLESS
        return [f"{name:.64} is not known here and has no effect" for name in sorted(given)[:20]]


# ---- chat


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str = ""

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value not in ("text", "refusal"):
            raise ValueError(f"the models read text only, not {value!r}")
        return value


class CalledFunction(Body):
    """A function that a model called. arguments: the text of a JSON object."""

    name: str
    arguments: str | None = "{}"


class Call(Body):
    """A call in an assistant's message."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    """What was said. An assistant's message may be calls alone."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _said(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as templates read it."""
        parts = self.content if isinstance(self.content, list) else []
        text = "".join(part.text for part in parts) if parts else self.content or ""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        optional = {"name": self.name, "tool_call_id": self.tool_call_id}
        return {**message, **{key: value for key, value in optional.items() if value is not None}}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class Function(Body):
    """A function that the model may call. parameters: a JSON schema."""

    name: Name
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool on offer."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Body):
    """Its name."""

    name: str


class ToolChoice(Body):
    """The one function that is to be called."""

    type: Literal["function"]
    function: ChosenFunction


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Some JSON object, or one by a schema, as llama-cpp-python's users ask for it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    type: Literal["json_object"]
    schema_: Json | None = Field(default=None, alias="schema")


class JsonSchema(Body):
    """A schema and its name."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    name: str = ""
    description: str | None = None
    strict: bool | None = None
    schema_: Json | None = Field(default=None, alias="schema")


class JsonSchemaFormat(Body):
    """JSON by a schema, which stands in `json_schema` or, as some clients write it, beside `type`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Json | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _some(self) -> JsonSchemaFormat:
        if self.json_schema is None and self.schema_ is None:
            raise ValueError("the schema belongs in json_schema.schema")
        return self


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(TextRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Bound = None
    max_completion_tokens: Bound = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    modalities: list[str] | None = None
    chat_template_kwargs: Json | None = None
    enable_thinking: bool | None = None

    @property
    def variables(self) -> dict[str, Any] | None:
        """Of the chat template."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**(self.chat_template_kwargs or {}), **thinking} or None

    @field_validator("modalities")
    @classmethod
    def _text(cls, value: list[str] | None) -> list[str] | None:
        if value not in (None, ["text"]):
            raise ValueError("the models write text only")
        return value


# ---- plain completions


Ids = Annotated[list[Annotated[int, Field(ge=0, le=LARGE)]], Field(min_length=1, fail_fast=True)]


class CompletionRequest(TextRequest):
    """POST /v1/completions. A prompt is a text, token ids, or several of either."""

    prompt: (
        Annotated[str, Field(min_length=0)]
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=128, fail_fast=True)]
    )
    max_tokens: Annotated[Annotated[int, Field(ge=0, le=LARGE)] | None, BeforeValidator(_bound)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """All prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        several: list[Any] = self.prompt
        return [several] if isinstance(several[0], int) else several


# ---- the rest


class InspectRequest(Request):
    """POST /v1/inspect: who decided what. Of messages or a prompt, and a reply; one is made greedily unless given."""

    model: str = ""
    messages: Messages | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    reply: str | None = None
    max_tokens: Count | None = None
    eft: RequestDials | None = None
