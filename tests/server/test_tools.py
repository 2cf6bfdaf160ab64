"""Tool calls: read from what a model says, forced by a grammar, and through a server whose template knows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

from eft_gguf.engine.constraint import constraint_of, follows  # noqa: E402
from eft_gguf.engine.llama import Model  # noqa: E402
from eft_gguf.engine.sampling import Sampling  # noqa: E402
from eft_gguf.errors import OptionError  # noqa: E402
from eft_gguf.models.chat import render  # noqa: E402
from eft_gguf.server.schema import Tool  # noqa: E402
from eft_gguf.server.tools import CallReader, forcing, form_of  # noqa: E402
from tests import tiny_models  # noqa: E402
from tests.server.conftest import Served, served  # noqa: E402

QWEN = (
    "{% if tools %}{{ '<|im_start|>system\nTools: ' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    '{{ \' Call with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n\' }}{% endif %}'
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls %}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "boolean"}},
            "required": ["unit", "days"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "Hi"}]


def reader(template: str = QWEN) -> CallReader:
    return CallReader(form_of(template), [Tool.model_validate(WEATHER)])


def fed(text: str, size: int, template: str = QWEN) -> tuple[str, list[tuple[str, str]]]:
    """What a reader makes of a text that comes in pieces."""
    reading = reader(template)
    parts = [reading.push(text[i : i + size]) for i in range(0, len(text), size)] + [reading.flush()]
    calls = [(call.name, call.arguments) for _, found in parts for call in found]
    return "".join(said for said, _ in parts), calls


@pytest.mark.parametrize("end", ["", "\n", "\n</tool_response>", "\n</tool_ca"])
def test_a_last_call_may_be_closed_wrongly(end: str) -> None:
    text, calls = fed('Well. <tool_call>\n{"name": "weather", "arguments": {"unit": "C"}}' + end, 5)
    assert text.strip() == "Well." and calls == [("weather", '{"unit": "C"}')]
    text, calls = fed('<tool_call>\n{"name": "weather", "argu' + end, 5)
    assert text.startswith("<tool_call>") and calls == []


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_found_however_the_text_is_cut(size: int) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"unit": "C"}}\n</tool_call>'
    found = ("weather", '{"unit": "C"}')
    assert fed(call, size) == ("", [found])
    assert fed(f"Let me look. {call}\n{call}", size) == ("Let me look. ", [found, found])
    assert fed("a < b <tool> <tool_ca", size) == ("a < b <tool> <tool_ca", [])
    assert fed(call.removesuffix("\n</tool_call>"), size) == ("", [found])


@pytest.mark.parametrize("body", ["no json", '{"name": "unknown", "arguments": {}}', "[1]"])
def test_what_is_no_call_stays_text(body: str) -> None:
    text = f"<tool_call>{body}</tool_call> after"
    assert fed(text, 4) == (text, [])


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_form_of_llama(size: int) -> None:
    template = 'tools {"name": ..., "parameters": ...}, as in "parameters"'
    call = '{"name": "weather", "parameters": {"unit": "C"}}'
    assert fed(call, size, template) == ("", [("weather", '{"unit": "C"}')])
    assert fed("It is {cold}.", size, template) == ("It is {cold}.", [])
    assert fed("{cold}", size, template) == ("{cold}", [])


def test_templates_that_are_not_known_are_refused() -> None:
    with pytest.raises(OptionError, match="no place for tools"):
        form_of(tiny_models.TEMPLATE)
    with pytest.raises(OptionError, match="is not known here"):
        form_of("{{ tools }}[TOOL_CALLS]")
    with pytest.raises(OptionError, match="no place for tools"):
        render(ASK, template=tiny_models.TEMPLATE, bos="", eos="", tools=[WEATHER])


def test_the_template_hears_of_tools_and_of_earlier_calls() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"unit": "C"}'}}
    messages = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "21"}]
    text = render(messages, template=QWEN, bos="", eos="", tools=[WEATHER])
    assert "The weather in a city." in text and '"arguments": {"unit": "C"}' in text and "tool\n21" in text


def book(name: str, value: str) -> dict[str, Any]:
    """A tool whose parameters refer to definitions of their own."""
    person = {"type": "object", "properties": {"name": {"const": value}}, "required": ["name"]}
    parameters = {
        "type": "object",
        "properties": {"who": {"$ref": "#/$defs/P"}},
        "required": ["who"],
        "additionalProperties": False,
        "$defs": {"P": person},
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_the_grammar_that_forces_a_call(tiny: Any) -> None:
    tools = [book("book", "Ann"), book("cancel", "Bo"), OTHER]
    lark = forcing(form_of(QWEN), [Tool.model_validate(tool).function for tool in tools])
    model = Model(tiny.base, vocab_only=True)

    def allowed(name: str, arguments: str) -> bool:
        text = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        constraint = constraint_of(Sampling(lark=lark), model, model.n_vocab)
        assert constraint is not None
        return follows(constraint, model, text)

    assert allowed("book", '{"who": {"name": "Ann"}}') and allowed("cancel", '{"who":{"name":"Bo"}}')
    # Definitions of one name stay each tool's own.
    assert not allowed("book", '{"who": {"name": "Bo"}}') and not allowed("cancel", "{}")
    assert allowed("other", "{}") and not allowed("another", "{}")
    model.close()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_mark_within_an_argument_is_text(size: int) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"q": "the </tool_call> tag"}}\n</tool_call>'
    assert fed(call, size) == ("", [("weather", '{"q": "the </tool_call> tag"}')])


@pytest.mark.parametrize(
    "body",
    [
        '{"name": ["weather"], "arguments": {}}',
        '{"name": {}, "arguments": {}}',
        '{"name": "weather", "arguments": "text"}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": 3}',
        "[" * 5000,
    ],
)
def test_whatever_a_model_writes_is_read(body: str) -> None:
    text = f"<tool_call>{body}</tool_call>"
    assert fed(text, 1000) == (text, [])


@pytest.mark.parametrize("arguments", ["null", '""', '"{}"', "{}"])
def test_arguments_that_are_left_out_are_an_empty_object(arguments: str) -> None:
    call = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
    assert fed(call, 1000) == ("", [("weather", "{}")])


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_earlier_calls_without_arguments_reach_the_template_as_an_object(arguments: str | None) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    text = render([*ASK, {"role": "assistant", "content": "", "tool_calls": [call]}], template=QWEN, bos="", eos="")
    assert '"arguments": {}' in text


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Random models whose template knows tools: what they say means nothing, what they are forced to does."""
    folder = tmp_path_factory.mktemp("calling")
    for seed, name in enumerate(("base", "untuned", "tuned")):
        tiny_models.write_tiny_model(folder / f"{name}.gguf", seed=seed, ctx=1024, template=QWEN)
    models = [part for name in ("base", "untuned", "tuned") for part in (f"--{name}", str(folder / f"{name}.gguf"))]
    with served(folder / "log", *models, "--temperature", "0.7") as running:
        yield running


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call(calling: Served, choice: Any) -> None:
    ask: dict[str, Any] = {"model": "x", "messages": ASK, "tools": [WEATHER], "tool_choice": choice, "seed": 1}
    with openai.OpenAI(base_url=calling.api, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**ask)
        (call,) = whole.choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and whole.choices[0].finish_reason == "tool_calls"
        assert arguments["unit"] in ("C", "F") and isinstance(arguments["days"], bool)
        chunks = list(client.chat.completions.create(**ask, stream=True))
    (streamed,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function.arguments == call.function.arguments and streamed.index == 0 and streamed.id
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_forced_call_whose_schema_has_definitions(calling: Served) -> None:
    with openai.OpenAI(base_url=calling.api, api_key="none", max_retries=0) as client:
        ask: dict[str, Any] = {"model": "x", "messages": ASK, "tools": [book("book", "Ann")], "tool_choice": "required"}
        choice = client.chat.completions.create(**ask, seed=1).choices[0]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"who": {"name": "Ann"}}
    assert choice.finish_reason == "tool_calls"


CITY = {
    "type": "object",
    "properties": {"city": {"const": "Lima"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object", "schema": CITY}},
        {"response_format": {"type": "json_schema", "schema": CITY}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}},
        {"json_schema": CITY},
        {"guided_json": CITY},
        {"guided_regex": '\\{"city":"Lima"\\}'},
        {"guided_grammar": 'root ::= "{\\"city\\":\\"Lima\\"}"'},
        {"structured_outputs": {"json": CITY}},
        {"structured_outputs": {"choice": ['{"city":"Lima"}']}},
    ],
)
def test_formats_of_all_kinds_of_clients(calling: Served, fields: dict[str, Any]) -> None:
    with openai.OpenAI(base_url=calling.api, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model="x", messages=ASK, extra_body={"seed": 1, **fields})
    assert json.loads(reply.choices[0].message.content) == {"city": "Lima"}


def test_two_constraints_at_once_are_refused(calling: Served) -> None:
    both = {"json_schema": CITY, "guided_regex": "a"}
    with (
        openai.OpenAI(base_url=calling.api, api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="one constraint"),
    ):
        client.chat.completions.create(model="x", messages=ASK, extra_body=both)


def test_calls_that_may_come_and_those_that_may_not(calling: Served) -> None:
    ask: dict[str, Any] = {"model": "x", "messages": ASK, "tools": [WEATHER], "max_tokens": 5}
    with openai.OpenAI(base_url=calling.api, api_key="none", max_retries=0) as client:
        free = client.chat.completions.create(**ask)
        none = client.chat.completions.create(**ask, tool_choice="none")
        assert free.usage.prompt_tokens > none.usage.prompt_tokens + 50
        wrong = {"type": "function", "function": {"name": "nope"}}
        with pytest.raises(openai.BadRequestError, match="'nope', which is no tool"):
            client.chat.completions.create(**ask, tool_choice=wrong)
        with pytest.raises(openai.BadRequestError, match="there are no tools"):
            client.chat.completions.create(model="x", messages=ASK, tool_choice="required")


def test_a_family_by_references_has_a_name(calling: Served, tmp_path: Path) -> None:
    with openai.OpenAI(base_url=calling.api, api_key="none") as client:
        assert next(model.id for model in client.models.list()) == "from-references"
