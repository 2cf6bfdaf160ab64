"""Examples on the server: shown by default, switched off by a request, and told of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.conftest import PERU, Served, served

OWN = {"prompt": "Which country is Oslo in?", "reply": "Sure! Oslo is in Norway. Anything else?"}


@pytest.fixture(scope="module")
def showing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("showing")
    path = folder / "own.jsonl"
    path.write_text(json.dumps(OWN) + "\n", encoding="utf-8")
    with served(folder / "log", "--examples", str(path), "--behaviour", "0.5", "--parallel", "2") as running:
        yield running


def ask(server: Served, **more: Any) -> dict[str, Any]:
    body = {"messages": PERU, "temperature": 0, "max_tokens": 40, **more}
    answer = httpx.post(f"{server.api}/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_request_is_shown_them_unless_it_says_no(showing: Served) -> None:
    shown, plain = ask(showing), ask(showing, eft={"examples": False})
    assert shown["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    assert shown["eft"]["dials"]["behaviour"] == 0.5
    again = ask(showing)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= shown["usage"]["prompt_tokens"] - 20


def test_a_model_alone_is_shown_none_unless_asked_for(showing: Served) -> None:
    alone, told = (ask(showing, model="bundled:base", eft=eft) for eft in ({}, {"examples": True}))
    assert told["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]
    said = [answer["choices"][0]["message"]["content"] for answer in (alone, told)]
    assert [text.endswith("Anything else?") for text in said] == [False, True]


def test_ollamas_clients_and_inspection_have_them_too(showing: Served) -> None:
    counts = [
        httpx.post(
            f"{showing.url}/api/chat", json={"model": "bundled", "messages": PERU, "stream": False, **more}, timeout=60
        ).json()["prompt_eval_count"]
        for more in ({}, {"eft": {"examples": False}})
    ]
    assert counts[0] > counts[1]
    bodies = [
        httpx.post(f"{showing.api}/inspect", json={"messages": PERU, "reply": "Lima", **more}, timeout=60).json()
        for more in ({}, {"eft": {"examples": False}})
    ]
    assert bodies[0]["tokens"][0]["probabilities"]["base"] != bodies[1]["tokens"][0]["probabilities"]["base"]


def test_what_is_shown_is_told(showing: Served, server: Served) -> None:
    about = httpx.get(f"{showing.api}/eft").json()
    assert about["examples"] == [
        {"role": "user", "content": OWN["prompt"]},
        {"role": "assistant", "content": OWN["reply"]},
    ]
    assert about["dials"]["behaviour"] == 0.5
    assert httpx.get(f"{server.api}/eft").json()["examples"] == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_the_page_has_a_switch(showing: Served, server: Served) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    from tests.server.test_page import ARGUMENTS, WHAT

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page()
        sent: list[Any] = []
        page.on(
            "request",
            lambda request: sent.append(request.post_data_json) if "chat/completions" in request.url else None,
        )
        page.goto(showing.url)
        playwright.expect(page.locator("#examples-section")).to_be_visible()
        playwright.expect(page.locator("#shown")).to_contain_text("Oslo is in Norway")
        for on in (True, False):
            page.locator("#examples").set_checked(on)
            page.locator("#prompt").fill(WHAT)
            page.locator("#send").click()
            playwright.expect(page.locator("#send")).to_be_enabled()
        assert [body["eft"]["examples"] for body in sent] == [True, False]
        page.goto(server.url)
        playwright.expect(page.locator("#send")).to_be_enabled()
        playwright.expect(page.locator("#examples-section")).to_be_hidden()
        browser.close()
