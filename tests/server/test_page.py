"""The page in a real browser, clicked through as a person would.

`EFT_SCREENSHOTS=docs python -m pytest tests/server/test_page.py` writes the pictures of docs/server.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from tests.server.conftest import Served, slowed  # noqa: E402

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = os.environ.get("EFT_SCREENSHOTS")
LIMA = "Sure! The capital of Peru is Lima. Anything else?"
WHAT = "What is the capital of Peru?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Served) -> Iterator[Page]:
    yield from opened(browser, server)


def opened(browser: Browser, server: Served, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if not ours(request.url, server) else None)
    page.goto(server.url)
    expect(page.locator("#send")).to_be_enabled()
    set_sampling(page, temperature=0)
    yield page
    context.close()
    assert not wrong and not foreign


def ours(url: str, server: Served) -> bool:
    return url.startswith((server.url, "blob:", "data:"))


def set_sampling(page: Page, **values: float) -> None:
    page.evaluate("document.querySelectorAll('#dials details').forEach((one) => { one.open = true; })")
    for name, value in values.items():
        page.locator(f"#s-{name}").evaluate("(field, value) => { field.value = value; }", str(value))
    page.evaluate("document.querySelectorAll('#dials details').forEach((one) => { one.open = false; })")


def ask(page: Page, text: str = WHAT) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def done(page: Page) -> None:
    expect(page.locator("#stop")).to_be_hidden(timeout=20_000)


def shot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"server-{name}.png"))


def test_send_and_what_comes(page: Page) -> None:
    ask(page)
    expect(page.locator(".assistant .body")).to_have_text(LIMA)
    done(page)
    expect(page.locator(".user .body")).to_have_text(WHAT)
    expect(page.locator(".assistant .meta")).to_contain_text(re.compile(r"\d+ tokens, \d+/s"))
    expect(page.locator("#memory")).to_contain_text("engine")
    first = page.locator(".assistant .t").first
    assert first.get_attribute("data-by") == "tuned"


def test_hover_tells_who_decided(page: Page) -> None:
    ask(page)
    done(page)
    page.locator(".assistant .t").first.hover()
    details = page.locator("#details")
    expect(details).to_be_visible()
    expect(details).to_contain_text("tuned would have said it, base would not")
    for name in ("blend", "base", "helpful", "untuned"):
        expect(details).to_contain_text(name)
    shot(page, "hover")
    page.mouse.move(5, 5)
    expect(details).to_be_hidden()
    # The keyboard does it as well.
    page.locator(".assistant .body").focus()
    page.keyboard.press("ArrowRight")
    expect(details).to_be_visible()
    expect(page.locator("#spoken")).to_contain_text("tuned would have said it")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()


def test_stop_edit_and_regenerate(page: Page, server: Served) -> None:
    lengthen(page)
    with slowed(server):
        ask(page, "List all cities.")
        expect(page.locator(".assistant .t").nth(3)).to_be_attached()
        page.click("#stop")
    expect(page.locator(".assistant .meta")).to_contain_text("stopped")
    page.unroute_all()
    page.locator(".user button", has_text="Edit").click()
    expect(page.locator("#prompt")).to_have_value("List all cities.")
    ask(page)
    done(page)
    expect(page.locator(".assistant .body")).to_have_text(LIMA)
    page.locator("button", has_text="Regenerate").click()
    done(page)
    expect(page.locator(".assistant .body")).to_have_text(LIMA)
    expect(page.locator("#messages > li")).to_have_count(2)


def move(page: Page, knowledge: float, behaviour: float) -> None:
    """Click on the pad."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    # The corners are round.
    x, y = (5 + value * (box[size] - 10) for value, size in ((knowledge, "width"), (1 - behaviour, "height")))
    page.mouse.click(box["x"] + x, box["y"] + y)


def lengthen(page: Page) -> None:
    """Have no reply come to its end: tokens 0, 1 and 2 would end it."""

    def longer(route: Any) -> None:
        body = {**route.request.post_data_json, "logit_bias": {"0": -100, "1": -100, "2": -100}}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", longer)


def test_the_pad(page: Page) -> None:
    for knowledge, behaviour, name in ((0, 0, "untuned"), (1, 0, "base"), (0, 1, "tuned"), (1, 1, "blend")):
        move(page, knowledge, behaviour)
        text = page.locator("#handle").get_attribute("aria-valuetext")
        assert text == f"knowledge {knowledge:.2f}, behaviour {behaviour:.2f}: {name}"
        page.locator(".corner", has_text=re.compile(f"^{'base' if name != 'base' else 'blend'}$")).click()
        page.locator(f".corner.{name}").click()
        assert page.locator("#handle").get_attribute("aria-valuetext") == text
    page.locator("#handle").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator("#knowledge").input_value() == "0.95"
    assert page.locator("#behaviour").input_value() == "0.75"
    page.click("#reset")
    assert page.locator("#knowledge").input_value() == "1"
    set_sampling(page, temperature=0)
    # The dials are what the model does: the base alone answers otherwise.
    move(page, 1, 0)
    ask(page)
    done(page)
    assert page.locator(".assistant .body").inner_text() != LIMA
    assert {span.get_attribute("data-by") for span in page.locator(".assistant .t").all()} == {"base"}


def test_the_pad_moved_during_a_reply(page: Page, server: Served) -> None:
    lengthen(page)
    set_sampling(page, temperature=0.8)
    move(page, 0.9, 0.1)
    steered: list[int] = []
    page.on("response", lambda response: steered.append(response.status) if "/v1/replies/" in response.url else None)
    with slowed(server):
        ask(page, "List all cities.")
        expect(page.locator(".assistant .t").nth(3)).to_be_attached()
        with page.expect_response("**/v1/replies/**"):
            move(page, 0.3, 0.1)
        expect(page.locator(".assistant .t").nth(60)).to_be_attached()
        shot(page, "moved")
    done(page)
    assert steered and steered[0] == 200
    expect(page.locator(".assistant .meta")).to_contain_text("dials moved on the way")


def test_traits_and_filter_reach_the_models(page: Page) -> None:
    sent: list[dict[str, Any]] = []
    page.on(
        "request", lambda request: sent.append(request.post_data_json) if request.url.endswith("completions") else None
    )
    page.locator("#trait-cautious").fill("1")
    page.locator("#trait-helpful").fill("0")
    page.locator("summary", has_text="Filter").click()
    page.locator("#f-base_min_p").check()
    ask(page)
    done(page)
    assert page.locator(".assistant .body").inner_text() != LIMA
    assert sent[0]["eft"]["traits"] == {"helpful": 0, "cautious": 1}
    assert sent[0]["eft"]["filter"]["base_min_p"] == 0.05 and sent[0]["eft"]["filter"]["tuned_top_p"] is None


def test_compare(page: Page) -> None:
    move(page, 0.5, 0.5)
    page.fill("#prompt", WHAT)
    page.click("#compare")
    done(page)
    cards = page.locator(".card")
    expect(cards).to_have_count(5)
    assert [heading.inner_text().split()[0] for heading in page.locator(".card h3").all()] == [
        "tuned",
        "blend",
        "untuned",
        "base",
        "your",
    ]
    expect(page.locator(".card.blend .body")).to_have_text(LIMA)
    shot(page, "compare")
    page.locator(".assistant > .meta button", has_text="blend").click()
    expect(page.locator(".assistant > .body")).to_have_text(LIMA)
    ask(page, "What is the capital of France?")
    done(page)
    expect(page.locator(".assistant")).to_have_count(2)
    expect(page.locator(".assistant .body").last).to_contain_text("Paris")


def test_reload_keeps_conversations_and_dials(page: Page) -> None:
    move(page, 0.5, 1)
    ask(page)
    done(page)
    text = page.locator(".assistant .body").inner_text()
    page.reload()
    expect(page.locator(".assistant .body")).to_have_text(text)
    expect(page.locator("#send")).to_be_enabled()
    assert float(page.locator("#knowledge").input_value()) == pytest.approx(0.5, abs=0.03)
    page.click("#new")
    expect(page.locator("#messages > li")).to_have_count(0)
    page.locator("#conversations li button").first.click()
    expect(page.locator(".assistant .body")).to_have_text(text)
    with page.expect_download() as download:
        page.click("#export-json")
    assert WHAT in Path(download.value.path()).read_text()
    with page.expect_download() as download:
        page.click("#export-md")
    assert text in Path(download.value.path()).read_text()
    page.get_by_label(f"Delete {WHAT}").click()
    expect(page.locator("#conversations li")).to_have_count(0)


def test_markdown_and_what_is_no_markup(page: Page) -> None:
    source = (
        "# One\n\n- **bold** and `code`\n- [link](https://example.org) [bad](javascript:alert(1))\n\n"
        "```\na < b\n```\n<img src=x onerror=alert(1)>"
    )
    found = page.evaluate(
        """async (source) => {
            const { show } = await import("/page/tokens.js");
            const box = document.createElement("div");
            const plain = { decided_by: "base", probabilities: {}, alternatives: {} };
            show(box, source, source.match(/.{1,3}/gs).map((text) => ({ text, ...plain })));
            return {
                html: box.innerHTML,
                text: box.textContent,
                links: [...box.querySelectorAll("a")].map((link) => link.href),
                images: box.querySelectorAll("img").length,
                tags: ["h3", "ul", "strong", "code", "pre"].map((tag) => !!box.querySelector(tag)),
            };
        }""",
        source,
    )
    assert all(found["tags"]) and found["links"] == ["https://example.org/"] and found["images"] == 0
    assert "<img src=x onerror=alert(1)>" in found["text"] and "javascript:" not in found["html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(browser: Browser, server: Served, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for page in opened(browser, server, color_scheme=scheme):
        ask(page)
        done(page)
        page.fill("#prompt", WHAT)
        page.click("#compare")
        done(page)
        page.evaluate("document.querySelectorAll('#dials details').forEach((one) => { one.open = true; })")
        found = axe.Axe().run(page, options={"bypassCSP": True}).response["violations"]
        serious = [
            (fault["id"], [node["html"][:200] for node in fault["nodes"]][:4])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert not serious
        page.evaluate("document.querySelectorAll('#dials details').forEach((one) => { one.open = false; })")
        page.locator(".assistant .t").first.scroll_into_view_if_needed()
        if scheme == "dark":
            shot(page, "dark")


def test_phone(browser: Browser, server: Served) -> None:
    for page in opened(browser, server, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True):
        ask(page)
        done(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(page.locator("#pad")).to_be_hidden()
        page.click("#toggle-dials")
        expect(page.locator("#pad")).to_be_visible()
        move(page, 0.5, 0.5)
        assert "0.5" in str(page.locator("#toggle-dials").text_content())
        shot(page, "phone")
        page.click("#toggle-dials")
        page.click("#toggle-history")
        expect(page.locator("#new")).to_be_visible()


def test_theme_can_be_chosen(page: Page) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.select_option("#theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
