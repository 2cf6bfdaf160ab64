"""`eft-gguf evaluate matrix` on the bundled sizes: cells that are what they say, and every way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eft_gguf import EFT, Blend
from eft_gguf.evaluation.questions import read_questions
from eft_gguf.evaluation.run_file import read_run
from eft_gguf.models.family import BUNDLED
from tests.conftest import TinyFiles

FOLDER = BUNDLED.parent
SMALL = ("evaluate", "matrix", "--questions", "40")
TWO = ("--size", f"S={FOLDER}/base-s.gguf,{FOLDER}/helpful-s.gguf", "--size", f"L={FOLDER}/base-l.gguf")


def test_the_bundled_sizes(command: Callable, tmp_path: Path) -> None:
    page, plot, run = tmp_path / "page.md", tmp_path / "matrix.svg", tmp_path / "run.jsonl"
    page.write_text("before\n<!-- matrix -->\n<!-- end of matrix -->\nafter\n")
    outcome = command(*SMALL, "--json", "--page", str(page), "--plot", str(plot), "--run", str(run))
    assert outcome.code == 0
    record = json.loads(outcome.out)
    cells = {(cell["base"], cell["pair"]): cell for cell in record["figures"]["cells"]}
    assert len(cells) == 12
    assert [key for key, cell in cells.items() if cell["kind"] == "tuned"] == [("S", "S"), ("M", "M"), ("L", "L")]
    for cell in cells.values():
        facts = cell["facts"]
        assert cell["helpful"]["asked"] == 40 and facts["low"] <= facts["share"] <= facts["high"]
    # docs/results.md has the figures of all questions; these bounds leave room for 40.
    assert cells["L", "S"]["facts"]["share"] > cells["S", "S"]["facts"]["share"] + 0.15
    assert cells["L", "S"]["helpful"]["share"] > cells["L", None]["helpful"]["share"] + 0.25
    assert record["figures"]["claims"][1]["verdict"] in ("yes", "in part")
    assert all(len(size["untuned"]["sha256"]) == 64 for size in record["inputs"]["sizes"])
    assert record["versions"]["eft-gguf"] and record["inputs"]["questions"]["chosen"] == 40
    text = page.read_text()
    assert "- Scaling up pre-training improves factuality: " in text and text.endswith("after\n")
    assert "factuality, %" in plot.read_text()
    # What the run kept gives the same, without asking anything.
    assert json.loads(command(*SMALL, "--json", "--run", str(run)).out)["figures"] == record["figures"]


def test_the_diagonal_is_the_really_tuned_model_and_the_rest_the_blend(command: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    assert command("evaluate", "matrix", "--questions", "6", "--run", str(run)).code == 0
    done = read_run(run)[1]
    items = {item["id"]: item for item in read_questions()}

    def said(base: str, pair: str, id: str) -> str:
        return str(done[f"{base}/{id}"][pair]["text"])

    ids = [key.partition("/")[2] for key in done if key.startswith("L/")]
    cells = {
        ("M", "M"): ({"base": "base-m", "untuned": "base-m", "tuned": "helpful-m"}, Blend(0, 1)),
        ("L", "M"): ({"base": "base-l", "untuned": "base-m", "tuned": "helpful-m"}, Blend()),
        ("S", "L"): ({"base": "base-s", "untuned": "base-l", "tuned": "helpful-l"}, Blend()),
        ("L", ""): ({"base": "base-l", "untuned": "base-s", "tuned": "helpful-s"}, Blend(1, 0)),
    }
    for (base, pair), (names, blend) in cells.items():
        paths: dict[str, Any] = {role: FOLDER / f"{name}.gguf" for role, name in names.items()}
        with EFT.open(**paths) as eft:
            for id in ids:
                (reply,) = eft.greedy_replies(items[id]["messages"], [blend], max_tokens=80)
                assert said(base, pair, id) == reply.text


def test_own_prompts_and_a_size_without_a_tuned_model(command: Callable, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    facts = [item for item in read_questions() if item["kind"] == "fact"][:30]
    lines = [{"question": item["messages"][0]["content"], "answers": item["answers"]} for item in facts]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    form = r"(Sure|Of course)! .+ Anything else\?"
    outcome = command("evaluate", "matrix", *TWO, "--prompts", str(prompts), "--regex", form, "--json")
    assert outcome.code == 0
    record = json.loads(outcome.out)
    cells = {(cell["base"], cell["pair"]): cell for cell in record["figures"]["cells"]}
    assert list(cells) == [("S", None), ("S", "S"), ("L", None), ("L", "S")]
    assert cells["L", "S"]["both"]["share"] > 0.6 > cells["S", "S"]["both"]["share"]
    assert cells["L", None]["helpful"]["right"] == 0
    assert record["figures"]["claims"][0]["verdict"] == "too little data"


def test_a_tuned_model_may_be_an_adapter(command: Callable, tiny: TinyFiles, tmp_path: Path) -> None:
    prompts, run = tmp_path / "prompts.jsonl", tmp_path / "run.jsonl"
    prompts.write_text('{"prompt": "Hello", "answers": ["x"], "regex": "x"}\n')
    sizes = ("--size", f"S={tiny.untuned},lora:{tiny.adapter}", "--size", f"L={tiny.base}")
    models = {"base": tiny.base, "untuned": tiny.untuned, "tuned": f"lora:{tiny.adapter}"}
    arguments = ("--prompts", str(prompts), "--run", str(run), "--max-tokens", "8", "--json")
    outcome = command("evaluate", "matrix", *sizes, *arguments)
    assert outcome.code == 0, outcome.err
    with EFT.open(**models) as eft:
        (reply,) = eft.greedy_replies([{"role": "user", "content": "Hello"}], [Blend()], max_tokens=8)
    assert read_run(run)[1]["L/1"]["S"]["text"] == reply.text


def test_a_run_goes_on_where_it_stopped(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("evaluate", "matrix", *TWO, "--questions", "4", "--run", str(tmp_path / "run.jsonl"))
    replies, asked = EFT.greedy_replies, []

    def interrupted(self: EFT, *given: Any, **options: Any) -> Any:
        asked.append(given)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return replies(self, *given, **options)

    monkeypatch.setattr(EFT, "greedy_replies", interrupted)
    stopped = command(*arguments)
    assert stopped.code == 130 and "the same command goes on from" in stopped.err and stopped.out == ""
    assert command(*arguments).code == 0 and len(asked) == 6 + 3
    refused = command(*arguments, "--max-tokens", "70")
    assert refused.code == 2 and "sampling.max_tokens: 80, now 70" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "S"), "is not NAME=UNTUNED[,TUNED]"),
        (("--size", "S=a.gguf,"), "is not NAME=UNTUNED[,TUNED]"),
        (("--size", "base=a.gguf"), "'base' cannot name a size"),
        (("--size", "S=nowhere.gguf"), "nowhere.gguf"),
        (TWO[:2], "a matrix needs two sizes or more"),
        ((*TWO, *TWO[:2]), "two sizes are called 'S'"),
        (("--prompts", "a.jsonl", "--questions", "3"), "exclude each other"),
        (("--regex", "x"), "go with --prompts"),
        (("--max-tokens", "0"), "--max-tokens must be 1 or more"),
    ],
)
def test_mistakes(command: Callable, arguments: tuple[str, ...], message: str) -> None:
    outcome = command("evaluate", "matrix", *arguments)
    assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err
