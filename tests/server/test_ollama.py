"""Ollama's API: what its clients send, and what they read."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import PERU

LIMA = "Sure! The capital of Peru is Lima. Anything else?"
GREEDY = {"temperature": 0}


def lines(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = http.post(path, json={"model": "bundled", "options": GREEDY, **body})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_tags_show_and_version(http: httpx.Client) -> None:
    names = [model["name"] for model in http.get("/api/tags").json()["models"]]
    assert names[:2] == ["bundled", "bundled:base"]
    assert http.get("/api/version").json()["version"]
    shown = http.post("/api/show", json={"model": "bundled:latest"}).json()
    assert shown["name"] == "bundled" and shown["capabilities"] == ["completion"]
    assert shown["model_info"]["eft.context_length"] == 512


def test_chat(http: httpx.Client) -> None:
    *said, last = lines(http, "/api/chat", messages=PERU)
    assert "".join(part["message"]["content"] for part in said) == LIMA and len(said) > 5
    assert last["done"] and last["done_reason"] == "stop" and last["eval_count"] == 14
    assert last["prompt_eval_count"] == 15 and last["total_duration"] > last["eval_duration"] > 0
    assert last["message"]["content"] == "" and not any(part["done"] for part in said)
    (whole,) = lines(http, "/api/chat", messages=PERU, stream=False)
    assert whole["message"] == {"role": "assistant", "content": LIMA} and whole["done"]


def test_generate(http: httpx.Client) -> None:
    question = PERU[0]["content"]
    *said, last = lines(http, "/api/generate", prompt=question)
    assert "".join(part["response"] for part in said) == LIMA and last["done"]
    (raw,) = lines(
        http,
        "/api/generate",
        prompt="The capital of Peru is",
        raw=True,
        stream=False,
        options={**GREEDY, "num_predict": 4, "stop": ["."]},
    )
    assert raw["response"].startswith(" Lima") and raw["eval_count"] <= 4
    assert lines(http, "/api/generate")[0]["done_reason"] == "load"
    schema = {"type": "object", "properties": {"known": {"type": "boolean"}}, "required": ["known"]}
    (formed,) = lines(http, "/api/generate", prompt=question, format=schema, stream=False)
    assert isinstance(json.loads(formed["response"])["known"], bool)


def test_dials_and_corners(http: httpx.Client) -> None:
    (by_name,) = lines(http, "/api/chat", messages=PERU, model="bundled:base", stream=False)
    dials = {"knowledge": 1, "behaviour": 0}
    (by_dials,) = lines(http, "/api/chat", messages=PERU, eft=dials, stream=False)
    assert by_name["message"] == by_dials["message"] and by_name["message"]["content"] != LIMA


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", {"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]}, "text only"),
        ("/api/chat", {"messages": PERU, "options": {"temperature": "hot"}}, "options.temperature"),
        ("/api/generate", {"prompt": "x", "options": {"top_p": 3}}, "top_p must be"),
        ("/api/generate", {"prompt": "word " * 600}, "the context holds 512"),
        ("/api/chat", {"messages": PERU, "model": "bundled:nope"}, "there is no model"),
    ],
)
def test_errors_are_texts(http: httpx.Client, path: str, body: dict[str, Any], message: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code in (400, 404) and message in answer.json()["error"]
