"""`eft-gguf evaluate report`: one page of every evaluation, that loads nothing and lets nobody in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.cli.evaluate.test_gate import PAPER, SHORT, write_prompts


def test_a_page_of_every_evaluation(command: Callable, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 8)
    gate, tokens = tmp_path / "gate.jsonl", tmp_path / "tokens.jsonl"
    matrix, frontier, page = tmp_path / "matrix.json", tmp_path / "frontier.json", tmp_path / "report.html"
    assert command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--run", str(gate)).code == 0
    assert command("evaluate", "tokens", "--questions", "3", "--run", str(tokens)).code == 0
    matrix.write_text(command("evaluate", "matrix", "--questions", "4", "--json").out)
    sweep = ("--steps", "2", "--behaviour", "1")
    frontier.write_text(command("evaluate", "frontier", "--questions", "4", *sweep, "--json").out)
    files = [str(path) for path in (gate, matrix, frontier, tokens)]
    outcome = command("evaluate", "report", *files, "--output", str(page))
    assert outcome.code == 0 and f"written: {page}" in outcome.err
    text = page.read_text("utf-8")
    assert text.count("<h1>") == text.count("<figure>") == 4
    for part in (
        "undecided: ",
        "Scaling up pre-training improves factuality",
        "Steps between neighbours",
        "base, asked",
    ):
        assert (part in text) == (part != "base, asked")
    assert "prefers-color-scheme: dark" in text and "currentColor" in text and "sha256" in text
    # Nothing is loaded: no address but the names of XML's own vocabularies.
    assert "default-src 'none'" in text and not re.search(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", text)
    alone = command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--json").out
    (tmp_path / "gate.json").write_text(alone)
    assert command("evaluate", "report", str(tmp_path / "gate.json"), "-o", str(page)).code == 0
    assert page.read_text("utf-8").count("<h1>Is blending worth it?</h1>") == 1


def test_what_models_and_users_wrote_is_escaped(command: Callable, tmp_path: Path) -> None:
    prompts, run, page = tmp_path / "prompts.jsonl", tmp_path / "run.jsonl", tmp_path / "report.html"
    prompts.write_text('{"prompt": "Hello", "regex": "<script>x</script>"}\n')
    assert command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--run", str(run)).code == 0
    lines = [json.loads(line) for line in run.read_text().splitlines()]
    for line in lines:
        if line.get("key", "").startswith("report/"):
            line["value"]["blend"]["text"] = "<script>alert(1)</script>"
    run.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command("evaluate", "report", str(run), "-o", str(page)).code == 0
    text = page.read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_mistakes(command: Callable, tmp_path: Path) -> None:
    other, half = tmp_path / "other.json", tmp_path / "half.jsonl"
    other.write_text('{"evaluation": "taste"}')
    half.write_text(
        '{"format": 1, "evaluation": "gate", "inputs": {}, "about": {}}\n{"key": "report/1", "value": {}}\n'
    )
    for path, message in (
        (other, "is no evaluation of gate, matrix, frontier, tokens"),
        (half, "is not at its end: 1 pieces are done"),
        (tmp_path / "nowhere", "cannot read"),
    ):
        outcome = command("evaluate", "report", str(path), "-o", str(tmp_path / "report.html"))
        assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err
    same = command("evaluate", "report", str(other), "-o", str(other))
    assert same.code == 2 and "is one of the files to read" in same.err
