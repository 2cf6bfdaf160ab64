"""`eft-gguf evaluate tokens`: figures held to `inspect_reply`, and what a run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eft_gguf import EFT
from eft_gguf.evaluation.questions import read_questions
from eft_gguf.evaluation.run_file import read_run
from eft_gguf.inspection import inspect_reply

SMALL = ("evaluate", "tokens", "--questions", "12")


def test_figures_agree_with_inspection(command: Callable, tmp_path: Path) -> None:
    run, plot = tmp_path / "run.jsonl", tmp_path / "tokens.svg"
    outcome = command(*SMALL, "--json", "--run", str(run), "--plot", str(plot))
    assert outcome.code == 0 and "likeliest token changed, %" in plot.read_text()
    record = json.loads(outcome.out)
    items = {item["id"]: item for item in read_questions()}
    done = read_run(run)[1]
    variation, changed = [], []
    with EFT.bundled() as eft:
        for key in [key for key in done if key in items]:
            for token in inspect_reply(eft, items[key]["messages"]).tokens:
                variation.append(token.total_variation["helpful"])
                changed.append(token.alternatives["helpful"][0].token != token.alternatives["blend"][0].token)
    figures = record["figures"]
    assert figures["replies"] == 12 and figures["tokens"] == len(variation)
    assert figures["total_variation"]["mean"]["value"] == pytest.approx(np.mean(variation), abs=2e-3)
    assert figures["changed"]["value"] == pytest.approx(np.mean(changed), abs=0.02)
    assert json.loads(command(*SMALL, "--json", "--run", str(run)).out)["figures"] == figures


def test_at_knowledge_0_the_blend_is_the_tuned_side(command: Callable) -> None:
    figures = json.loads(command(*SMALL, "--knowledge", "0", "--json").out)["figures"]
    assert figures["total_variation"]["mean"]["value"] < 1e-5 and figures["changed"]["value"] == 0
    assert figures["drafts"][0]["accepted"] == 1


def test_own_prompts_drawn_replies_and_mistakes(command: Callable, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Where is Lima?"}\n')
    arguments = ("evaluate", "tokens", "--prompts", str(prompts), "--temperature", "1")
    first, second = (command(*arguments, "--seed", seed, "--json").out for seed in ("1", "1"))
    assert json.loads(first)["figures"] == json.loads(second)["figures"]
    outcome = command(*arguments)
    assert outcome.out.startswith(f"{json.loads(command(*arguments, '--json').out)['figures']['tokens']} tokens of 1 ")
    refused = command(*arguments, "--questions", "3")
    assert refused.code == 2 and "exclude each other" in refused.err
