"""eft-gguf inspect and /why, on tiny models that run."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eft_gguf.cli.inspect_html import page
from eft_gguf.inspection import DECISIONS

FIGURES = ["token", "text", "decided_by", "probabilities", "alternatives", "total_variation", "kl"]


@pytest.fixture
def models(tiny) -> list[str]:
    names = ("--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned))
    return [*names, "--threads", "1", "--ctx", "200"]


class Page(HTMLParser):
    """Every element with its attributes, and the text in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts.append(data)


def test_text_fits_80_columns_and_has_no_colours_in_a_pipe(command: Callable, models) -> None:
    outcome = command("inspect", "Hello", "--max-tokens", "9", *models)
    assert outcome.code == 0 and outcome.err == ""
    assert "\x1b" not in outcome.out and max(map(len, outcome.out.splitlines())) <= 80
    for text in (*DECISIONS, "the most disputed tokens", "total variation to the blend", "KL(blend ‖ model), nats"):
        assert text in outcome.out


def test_json(command: Callable, models) -> None:
    outcome = command("inspect", "Hello", "--json", "--max-tokens", "9", "--knowledge", "0.5", *models)
    report = json.loads(outcome.out)
    assert list(report) == [
        *("prompt", "dials", "finish_reason", "seed", "text", "decisions", "voices", "summary", "tokens")
    ]
    assert report["prompt"] == "Hello" and report["dials"]["knowledge"] == 0.5
    assert report["voices"] == ["base", "tuned"]
    assert report["summary"]["tokens"] == len(report["tokens"]) <= 9
    assert "".join(token["text"] for token in report["tokens"]) == report["text"]
    for token in report["tokens"]:
        assert list(token) == FIGURES
        assert list(token["probabilities"]) == list(token["alternatives"]) == ["base", "untuned", "tuned", "blend"]
        assert list(token["total_variation"]) == list(token["kl"]) == ["base", "untuned", "tuned"]
        assert all(list(other) == ["token", "text", "probability"] for other in token["alternatives"]["blend"])
        assert token["decided_by"] in DECISIONS
    # A greedy reply is what run says.
    said = json.loads(command("run", "Hello", "--json", "--max-tokens", "9", "--temperature", "0", *models).out)
    again = json.loads(command("inspect", "Hello", "--json", "--max-tokens", "9", *models).out)
    assert again["text"].startswith(said["text"])


def test_a_given_text_is_inspected(command: Callable, models) -> None:
    for prompt in (["Hello"], ["Hello", "--raw"], ["Hello", "--system", "Be brief."]):
        report = json.loads(command("inspect", *prompt, "--text", "xyz", "--json", *models).out)
        assert report["text"] == "xyz" and report["seed"] is report["finish_reason"] is None


def test_html_needs_nothing_else_and_no_text_breaks_out_of_it(command: Callable, models, tmp_path: Path) -> None:
    path = tmp_path / "why.html"
    text = "</script><img src=http://example.org/x.png>"
    outcome = command("inspect", "<b>Hello", "--text", text, "--html", str(path), "--json", *models)
    assert outcome.code == 0 and list(tmp_path.glob("*.html")) == [path]
    content = path.read_text(encoding="utf-8")
    parsed = Page(content)
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"img", "link", "iframe", "b>Hello"})
    for _, attributes in parsed.elements:
        assert not attributes.keys() & {"src", "href", "srcset", "onclick"}
    assert "default-src 'none'" in content and "@import" not in content and "url(" not in content
    assert "prefers-color-scheme: dark" in content
    # Every token can be pointed at, and the keyboard comes to the first of them.
    tokens = [attributes for _, attributes in parsed.elements if "data-place" in attributes]
    assert len(tokens) == len(text) and [token["tabindex"] for token in tokens[:2]] == ["0", "-1"]
    assert json.loads(parsed.scripts[0]) == json.loads(outcome.out)


def test_html_shows_what_is_infinite() -> None:
    figures = {"base": None}
    token = {"token": 1, "text": "a", "decided_by": "base", "total_variation": figures, "kl": figures}
    summary = {"shares": dict.fromkeys(DECISIONS, 0.2), "mean_total_variation": {"base": 1.0}, "mean_kl": figures}
    dials = {"knowledge": 1.0, "behaviour": 1.0, "traits": {}, "filter": {}}
    assert "<td>∞</td>" in page({"prompt": "", "dials": dials, "summary": summary, "tokens": [token]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hello", "--raw", "--system", "x"], "--raw and --system exclude each other"),
        (["Hello", "--text", "x", "--top-k", "3"], "--text and --top-k exclude each other"),
        (["Hello", "--text", " "], "the reply is empty"),
        ([""], "the prompt is empty"),
        (["Hello", "--text", "x" * 300], "the text has"),
        (["Hello", "--max-tokens", "2", "--html", "/nowhere/at/all.html"], "cannot write /nowhere/at/all.html"),
    ],
)
def test_bad_input(arguments: list[str], message: str, command: Callable, models) -> None:
    outcome = command("inspect", *arguments, *models)
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and message in outcome.err.splitlines()[0]


def test_why(command: Callable, models, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    script = f"one\n/why\n/save {saved}\n/reset\n/load {saved}\n/why\ntwo\n"
    outcome = command("chat", "--max-tokens", "6", "--temperature", "0", *models, stdin=script)
    assert outcome.code == 0
    assert outcome.err.count("where, a sign for each token") == 2


def test_why_before_any_reply(command: Callable, models) -> None:
    outcome = command("chat", *models, stdin="/why\n")
    assert outcome.code == 2 and "there is no reply to look into" in outcome.err
