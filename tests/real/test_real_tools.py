"""Tools with models that were trained on them: Qwen2.5-Coder 1.5B and 0.5B behind the server, and the openai client.

Run with `pytest -m real_models`. EFT_GGUF_MODELS names the folder of the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

from tests.real.test_real_models import MEMBERS, pytestmark  # noqa: E402, F401
from tests.server.conftest import served  # noqa: E402

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOLS = [WEATHER, CLOCK]
ASKED = [{"role": "user", "content": "What is the weather in Lima, in celsius?"}]
GREEDY: dict[str, Any] = {"model": "any", "temperature": 0, "max_tokens": 120}


@pytest.fixture(scope="module", params=["tuned as untuned", "tuned by the adapter"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tuned = str(MEMBERS.untuned) if request.param == "tuned as untuned" else f"lora:{MEMBERS.tuned}"
    models = ["--base", str(MEMBERS.base), "--untuned", str(MEMBERS.untuned), "--tuned", tuned]
    with served(tmp_path_factory.mktemp("tools") / "log", *models, "--ctx", "2048", "--threads", "2") as server:
        yield openai.OpenAI(base_url=server.api, api_key="none", timeout=300)


def arguments(call: Any, name: str) -> dict[str, Any]:
    """Of a call of this tool."""
    assert call.function.name == name
    found: dict[str, Any] = json.loads(call.function.arguments)
    return found


def test_a_named_tool_is_called_by_its_schema(client: Any) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    found = client.chat.completions.create(messages=ASKED, tools=TOOLS, tool_choice=choice, **GREEDY).choices[0]
    assert found.finish_reason == "tool_calls"
    (call,) = found.message.tool_calls
    given = arguments(call, "get_weather")
    assert given.keys() == {"city", "unit"} and "Lima" in given["city"] and given["unit"] == "celsius"


def test_a_required_call_chooses_its_tool(client: Any) -> None:
    asked = [{"role": "user", "content": "What time is it in Oslo?"}]
    found = client.chat.completions.create(messages=asked, tools=TOOLS, tool_choice="required", **GREEDY).choices[0]
    assert found.finish_reason == "tool_calls"
    assert "Oslo" in arguments(found.message.tool_calls[0], "get_time")["city"]


def test_a_streamed_call_comes_whole(client: Any) -> None:
    stream = client.chat.completions.create(messages=ASKED, tools=TOOLS, tool_choice="required", stream=True, **GREEDY)
    calls, text, reason = [], "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            calls += choice.delta.tool_calls or []
            reason = choice.finish_reason or reason
    assert reason == "tool_calls" and not text.strip()
    assert "Lima" in arguments(calls[0], "get_weather")["city"]


def test_a_tools_answer_is_read(client: Any) -> None:
    """These models are poor at it: the large one calls once more, and the adapter's form leaves the temperature out."""
    made = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Lima", "unit": "celsius"}'},
    }
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 19, "sky": "cloudy"}'},
    ]
    found = client.chat.completions.create(messages=messages, tools=TOOLS, **GREEDY).choices[0]
    if found.finish_reason == "tool_calls":
        assert "Lima" in arguments(found.message.tool_calls[0], "get_weather")["city"]
    else:
        assert found.finish_reason == "stop" and found.message.content and "<tool" not in found.message.content


def test_without_being_forced_a_call_or_a_text_comes_whole(client: Any) -> None:
    found = client.chat.completions.create(messages=ASKED, tools=TOOLS, **GREEDY).choices[0]
    if found.finish_reason == "tool_calls":
        assert "Lima" in arguments(found.message.tool_calls[0], "get_weather")["city"]
    else:
        assert found.message.content and "<tool_call>" not in found.message.content
