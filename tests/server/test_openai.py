"""OpenAI's own client, as it is published, against every feature: plain, streaming, and asynchronous."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from tests.server.conftest import PERU, Served  # noqa: E402

LIMA = "Sure! The capital of Peru is Lima. Anything else?"
MODEL = "bundled"


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=0) as client:
        yield client


def chat(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": PERU, "temperature": 0, **options})


def complete(client: Any, **options: Any) -> Any:
    given = {"model": MODEL, "prompt": "The capital of Peru is", "temperature": 0, "max_tokens": 4, **options}
    return client.completions.create(**given)


def test_models(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["bundled", "bundled:base", "bundled:untuned", "bundled:helpful", "bundled:cautious"]
    assert client.models.retrieve("bundled:base").owned_by == "eft-gguf"
    with pytest.raises(openai.NotFoundError, match="there is no model nope"):
        client.models.retrieve("nope")


def test_a_reply(client: Any) -> None:
    reply = chat(client)
    assert reply.choices[0].message.content == LIMA
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == MODEL and reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    assert reply.usage.prompt_tokens == 15
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.cached_tokens < 15


def test_streaming_gives_the_same(client: Any) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == LIMA
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == 14
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 10


def test_the_clients_stream_helper(client: Any) -> None:
    with client.chat.completions.stream(model=MODEL, messages=PERU, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == LIMA


def test_asynchronous(server: Served) -> None:
    async def several() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="none", max_retries=0) as client:

            async def streamed() -> str:
                stream = await client.chat.completions.create(model=MODEL, messages=PERU, temperature=0, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def whole() -> str:
                reply = await client.chat.completions.create(model=MODEL, messages=PERU, temperature=0)
                return str(reply.choices[0].message.content)

            return await asyncio.gather(*(make() for make in (streamed, whole) * 4))

    assert set(asyncio.run(several())) == {LIMA}


def test_an_unknown_model_gets_the_blend_and_is_told(client: Any) -> None:
    assert chat(client, model="gpt-4o").model == MODEL
    with pytest.raises(openai.NotFoundError, match="bundled:cautious"):
        chat(client, model="bundled:nope")


def test_corners_by_name_are_the_dials_that_they_name(client: Any) -> None:
    corners = {
        "bundled:base": {"knowledge": 1, "behaviour": 0},
        "bundled:untuned": {"knowledge": 0, "behaviour": 0},
        "bundled:helpful": {"knowledge": 0, "behaviour": 1},
    }
    texts = set()
    for name, dials in corners.items():
        by_name = chat(client, model=name, max_tokens=30)
        by_dials = chat(client, extra_body={"eft": dials}, max_tokens=30)
        assert by_name.choices[0].message.content == by_dials.choices[0].message.content
        assert by_name.eft["dials"] == by_dials.eft["dials"]
        texts.add(by_name.choices[0].message.content)
    assert len(texts) == 3


def test_the_eft_object(client: Any) -> None:
    eft = {"knowledge": 0.9, "behaviour": 1.1, "traits": {"cautious": 1, "helpful": 0}, "filter": {"tuned_top_p": 0.95}}
    reply = chat(client, extra_body={"eft": eft}, max_tokens=20)
    assert reply.eft["dials"] == {**eft, "traits": {"helpful": 0.0, "cautious": 1.0}}
    assert reply.choices[0].message.content != LIMA
    assert reply.eft["timings"][0]["generated_tokens"] == reply.usage.completion_tokens


@pytest.mark.parametrize(
    ("eft", "message"),
    [
        ({"knowlege": 1}, "eft.knowlege: there is no such field; knowledge, behaviour,"),
        ({"knowledge": "1"}, "eft.knowledge: Input should be a valid number"),
        ({"traits": {"grumpy": 1}}, "unknown trait 'grumpy': this family has helpful, cautious"),
        ({"traits": {"helpful": -1}}, "must be 0 or more"),
        ({"filter": {"tuned_top_p": 2}}, "tuned_top_p must be above 0 and at most 1, not 2"),
    ],
)
def test_wrong_dials_are_named(client: Any, eft: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, extra_body={"eft": eft})
    assert message in caught.value.message and caught.value.type == "invalid_request_error"


def test_who_decided(client: Any) -> None:
    whole = chat(client, extra_body={"eft": {"inspect": True}})
    tokens = whole.choices[0].eft["tokens"]
    assert "".join(token["text"] for token in tokens) == LIMA
    assert tokens[0]["decided_by"] == "tuned" and {"base", "untuned", "helpful", "blend"} <= set(
        tokens[0]["probabilities"]
    )
    streamed = list(chat(client, stream=True, extra_body={"eft": {"inspect": True}}))
    found = [token for c in streamed for token in (c.model_extra.get("eft") or {}).get("tokens", [])]
    assert [token["decided_by"] for token in found] == [token["decided_by"] for token in tokens]
    alone = chat(client, model="bundled:base", max_tokens=5, extra_body={"eft": {"inspect": True}})
    assert {token["decided_by"] for token in alone.choices[0].eft["tokens"]} == {"base"}


def test_n_and_seed(client: Any) -> None:
    three = chat(client, n=3, seed=7, temperature=1, max_tokens=12)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in three.choices]
    alone = [chat(client, seed=7 + i, temperature=1, max_tokens=12).choices[0].message.content for i in range(3)]
    assert texts == alone and len(set(texts)) > 1
    assert three.usage.completion_tokens == sum(t["generated_tokens"] for t in three.eft["timings"])
    streamed: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in chat(client, n=3, seed=7, temperature=1, max_tokens=12, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == texts


def test_more_replies_than_run_at_a_time(client: Any) -> None:
    many = chat(client, n=9, max_tokens=6)
    assert len({choice.message.content for choice in many.choices}) == 1 and len(many.choices) == 9


def test_a_seed_is_told_where_none_was_given(client: Any) -> None:
    drawn = chat(client, temperature=1, max_tokens=10)
    again = chat(client, temperature=1, max_tokens=10, seed=drawn.eft["seed"])
    assert again.choices[0].message.content == drawn.choices[0].message.content


@pytest.mark.parametrize("stop", [" Lima", ["!!", " Lima"]])
def test_stop(client: Any, stop: Any) -> None:
    reply = chat(client, stop=stop)
    assert reply.choices[0].message.content == "Sure! The capital of Peru is"
    assert reply.choices[0].finish_reason == "stop"


def test_length(client: Any) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = chat(client, **{name: 3})
        assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3


def test_logit_bias(client: Any) -> None:
    first = chat(client, logprobs=True, max_tokens=1).choices[0]
    scored = complete(client, prompt=first.message.content, max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].text == "Sure"
    from eft_gguf import EFT

    with EFT.bundled() as eft:
        (token,) = eft.token_ids("Sure")
    reply = chat(client, logit_bias={str(token): -100}, max_tokens=1)
    assert reply.choices[0].message.content != first.message.content
    with pytest.raises(openai.BadRequestError, match="logit_bias names token 999999, the vocabulary has"):
        chat(client, logit_bias={"999999": 1})


def test_logprobs(client: Any) -> None:
    content = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert "".join(entry.token for entry in content).startswith(LIMA)
    for entry in content:
        assert bytes(entry.bytes).decode() == entry.token and len(entry.top_logprobs) == 3
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True) and entry.logprob == values[0]
        assert math.fsum(math.exp(value) for value in values) <= 1.001
    streamed = [
        entry
        for chunk in chat(client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]
    assert chat(client, logprobs=True, max_tokens=2).choices[0].logprobs.content[0].top_logprobs == []


def test_json_object(client: Any) -> None:
    reply = chat(client, response_format={"type": "json_object"}, max_tokens=200, seed=1, temperature=0.7)
    text = reply.choices[0].message.content
    assert text.lstrip().startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_json_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"known": {"type": "boolean"}, "kind": {"enum": ["city", "country"]}},
        "required": ["known", "kind"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for stream in (False, True):
        reply = chat(client, response_format=format, stream=stream, max_tokens=100)
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
        else:
            text = reply.choices[0].message.content
        found = json.loads(text)
        assert isinstance(found["known"], bool) and found["kind"] in ("city", "country") and len(found) == 2
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "https://example.org/x.json"}}}
    with pytest.raises(openai.BadRequestError, match="json_schema"):
        chat(client, response_format=broken)


def test_plain_completion(client: Any) -> None:
    reply = complete(client)
    assert reply.choices[0].text.startswith(" Lima") and reply.object == "text_completion"
    streamed = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == reply.choices[0].text
    assert streamed[-1].usage.completion_tokens == reply.usage.completion_tokens == 4
    echoed = complete(client, echo=True)
    assert echoed.choices[0].text == "The capital of Peru is" + reply.choices[0].text
    assert "".join(c.choices[0].text for c in complete(client, echo=True, stream=True)) == echoed.choices[0].text


def test_several_prompts_and_token_ids(client: Any) -> None:
    from eft_gguf import EFT

    prompts = ["The capital of Peru is", "The capital of France is"]
    with EFT.bundled() as eft:
        ids = [eft.token_ids(prompt) for prompt in prompts]
    as_text = complete(client, prompt=prompts, n=2)
    as_ids = complete(client, prompt=ids, n=2)
    assert [choice.text for choice in as_text.choices] == [choice.text for choice in as_ids.choices]
    assert [choice.index for choice in as_text.choices] == [0, 1, 2, 3]
    assert as_text.choices[0].text.startswith(" Lima") and as_text.choices[2].text.startswith(" Paris")
    assert complete(client, prompt=ids[0]).choices[0].text == as_text.choices[0].text
    assert complete(client, prompt=ids[0], echo=True, max_tokens=0).choices[0].text == prompts[0]


def test_echo_with_logprobs_scores_as_the_library_does(client: Any) -> None:
    from eft_gguf import EFT, Blend

    text, blend = "The capital of Peru is Lima.", Blend(0.5, 1.5)
    with EFT.bundled() as eft:
        wanted = eft.score(text, blend=blend)
    eft_object = {"knowledge": 0.5, "behaviour": 1.5}
    reply = complete(client, prompt=text, max_tokens=0, echo=True, logprobs=2, extra_body={"eft": eft_object})
    found = reply.choices[0].logprobs
    assert reply.choices[0].text == text and "".join(found.tokens) == text
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(list(wanted.blend[1:]), abs=2e-3)
    assert all(len(top) == 2 for top in found.top_logprobs[1:])
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(len(found.tokens))]
    # As lm-evaluation-harness asks: the text's own tokens, and one that is generated.
    one = complete(client, prompt=text, max_tokens=1, echo=True, logprobs=1)
    assert len(one.choices[0].logprobs.tokens) == len(found.tokens) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"top_p": -1}, "top_p must be above 0"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": 100}, "100 replies were asked for, and 16 have a place here at most"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0: content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "the models read text only, not 'image_url'",
        ),
        ({"messages": [{"role": "user", "content": "long " * 600}]}, "the context holds 512"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"stop": [""]}, "stop must hold texts that are not empty"),
        ({"extra_body": {"grammar": "root ::= ("}}, "grammar does not parse"),
    ],
)
def test_mistakes_are_named(client: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **options)
    assert message in caught.value.message
    assert caught.value.type == "invalid_request_error" and caught.value.status_code == 400
    with pytest.raises(openai.BadRequestError):
        list(chat(client, **options, stream=True))


def test_what_is_not_offered_is_refused_clearly(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="a blend of models has no embeddings"):
        client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.BadRequestError, match="suffix is not supported"):
        complete(client, suffix="x")
    with pytest.raises(openai.BadRequestError, match="best_of"):
        complete(client, best_of=5)
    with pytest.raises(openai.BadRequestError, match="chat template has no place for tools"):
        chat(client, tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required")


def test_parts_and_developer_messages(client: Any) -> None:
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of Peru?"}]
    assert chat(client, messages=[{"role": "user", "content": parts}]).choices[0].message.content == LIMA
    system, developer = (
        chat(client, messages=[{"role": role, "content": "Be brief."}, *PERU], max_tokens=10)
        for role in ("system", "developer")
    )
    assert system.choices[0].message.content == developer.choices[0].message.content
