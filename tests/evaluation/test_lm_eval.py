"""lm-evaluation-harness on a blend: its figures are llama.cpp's, and its command line runs tasks from local files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'eft-gguf[evaluation]'")

from eft_gguf import Blend, OptionError, Sampling
from eft_gguf.evaluation.lm_eval import BlendLM
from eft_gguf.evaluation.questions import read_questions
from eft_gguf.models.family import BUNDLED
from tests.plain_llama import TEXT, Members

FOLDER = BUNDLED.parent
MEMBERS = Members(FOLDER / "base-l.gguf", FOLDER / "base-s.gguf", FOLDER / "helpful-s.gguf")
FACTORS = {"base": 0.8, "untuned": -0.3, "tuned": 0.5}
DIALS = {"knowledge": 0.8, "behaviour": 0.5}


@pytest.fixture(scope="module")
def lm() -> Any:
    lm = BlendLM("bundled", threads=1, ctx=256, **DIALS)
    yield lm
    lm.eft.close()


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=given) for given in arguments]


def plain_logits(texts: list[tuple[list[int], list[int]]]) -> list[np.ndarray]:
    """The logits before each token of each continuation, blended in float64, from one plain `Llama` at a time.

    Batches are those of the engine, because llama.cpp's last digits depend on them: the context but its last token,
    then the rest by 16.
    """
    blended = [np.zeros(0)] * len(texts)
    for name, factor in FACTORS.items():
        with closing(MEMBERS.plain(name, n_batch=128, logits_all=True)) as llama:
            for number, (context, continuation) in enumerate(texts):
                llama.reset()
                llama.eval(context[:-1])
                rest = [context[-1], *continuation[:-1]]
                for start in range(0, len(rest), 16):
                    llama.eval(rest[start : start + 16])
                rows = llama.scores[len(context) - 1 : len(context) + len(continuation) - 1].astype(np.float64)
                blended[number] = blended[number] + factor * rows if blended[number].size else factor * rows
    return blended


def test_loglikelihood_is_what_plain_llama_cpp_gives() -> None:
    pairs = [
        ("The capital of Peru is", " Lima."),
        (TEXT[:200], TEXT[200:300]),
        ("Lima is a city in", " Peru"),
        ("Oslo is a city in ", "Norway"),  # the space goes over to the continuation
    ]
    texts, found = [], []
    for pair in pairs:
        # New for each, so that no beginning is taken over from the last one: it would make other batches.
        lm = BlendLM("bundled", threads=1, ctx=256, **DIALS)
        texts.append(lm._encode_pair(*pair))
        found += lm.loglikelihood(requests(pair), disable_tqdm=True)
        lm.eft.close()
    for (_, continuation), logits, (value, greedy) in zip(texts, plain_logits(texts), found, strict=True):
        shifted = logits - logits.max(axis=1, keepdims=True)
        normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        expected = normalised[np.arange(len(continuation)), continuation].sum()
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == (logits.argmax(axis=1) == continuation).all()
    assert {greedy for _, greedy in found} == {True, False}


def test_rolling_windows_add_up_to_the_whole_text(lm: Any) -> None:
    ids = lm.tok_encode(TEXT, add_special_tokens=False)
    assert len(ids) > lm.max_length
    (total,) = lm.loglikelihood_rolling(requests((TEXT,)), disable_tqdm=True)
    size, start = lm.max_length - 1, lm.prefix_token_id
    # By hand: a first window from nothing, then the rest with as much before it as the context holds.
    windows = [([start], ids[:size]), (ids[len(ids) - 1 - size : size], ids[size:])]
    expected = sum(values.sum() for values, _ in lm.eft.likelihoods(windows, blend=lm.blend))
    assert total == pytest.approx(expected, rel=1e-6)
    short = ids[:20]
    text = b"".join(map(lm.eft.bytes_of, short)).decode()
    ((value, _),) = lm.loglikelihood(requests(("", text)), disable_tqdm=True)
    assert lm.loglikelihood_rolling(requests((text,)), disable_tqdm=True)[0] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_replies_come_in_order_and_end_at_stop_texts(batch_size: int) -> None:
    prompts = [f"{city} is a city in" for city in ("Oslo", "Lima", "Quito", "Paris", "Cairo")]
    options = {"until": ["."], "max_gen_toks": 12}
    lm = BlendLM("bundled", batch_size=batch_size, threads=1)
    try:
        replies = lm.generate_until(requests(*((prompt, options) for prompt in prompts)), disable_tqdm=True)
        sampling = Sampling(temperature=0, max_tokens=12, stop=(".",))
        assert replies == [lm.eft.complete(prompt, sampling=sampling).text for prompt in prompts]
        assert any("Peru" in reply for reply in replies) and not any("." in reply for reply in replies)
        drawn = requests((prompts[0], {**options, "do_sample": True, "temperature": 3.0, "seed": 5, "top_k": 0}))
        assert lm.generate_until(drawn, disable_tqdm=True) == lm.generate_until(drawn, disable_tqdm=True) != replies[:1]
    finally:
        lm.eft.close()


def test_a_context_that_is_too_long_is_cut_at_its_beginning(lm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ((value, _),) = lm.loglikelihood(requests((TEXT * 2, " whale")), disable_tqdm=True)
    assert -50 < value < 0 and "cut at the left" in capsys.readouterr().err


def test_chat_template(lm: Any) -> None:
    text = lm.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert "Hello" in text and text == lm.eft.chat_text([{"role": "user", "content": "Hello"}])
    with pytest.raises(OptionError, match="gen_prefix"):
        lm.apply_chat_template([], add_generation_prompt=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knowlegde": 1}, "the model argument 'knowlegde' is unknown"),
        ({"traits": "helpful=1"}, "traits is 'helpful=1'"),
        ({"traits": "rude:1"}, "unknown trait 'rude'"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"base_min_p": 2}, "base_min_p must be between 0 and 1"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        BlendLM("bundled", **arguments)


def test_dials_traits_and_filter_from_model_args() -> None:
    lm = BlendLM("bundled", knowledge=0.5, traits="helpful:0.7;cautious:0.3", untuned_floor=-7, threads=1)
    lm.eft.close()
    assert lm.blend.knowledge == 0.5 and lm.blend.traits == {"helpful": 0.7, "cautious": 0.3}
    assert lm.blend.filter.untuned_floor == -7 and lm.blend.behaviour == Blend().behaviour


CHOICE = """\
task: countries_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{subject}} is a city in"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAID = """\
task: countries_said
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{subject}} is a city in"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
filter_list: [{name: said, filter: [{function: remove_whitespace}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "eft_gguf.evaluation.lm_eval", *arguments]
    return subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, cwd=folder, timeout=300)


def test_the_harness_runs_a_choice_and_a_generation_task_from_local_files(tmp_path: Path) -> None:
    asked = [item for item in read_questions() if item["kind"] == "fact"]
    asked = [item for item in asked if item["rule"]["parts"][0]["relation"] == "country"][:16]
    countries = [item["answers"][0][0] for item in asked]
    lines = []
    for number, (item, answer) in enumerate(zip(asked, countries, strict=True)):
        others = [country for country in dict.fromkeys(countries[number:] + countries) if country != answer][:3]
        label = number % 4
        choices = [*others[:label], answer, *others[label:]]
        lines.append(
            {"subject": item["rule"]["parts"][0]["subject"], "choices": choices, "label": label, "answer": answer}
        )
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in (("choice", CHOICE), ("said", SAID)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(tmp_path / "data.jsonl")))
    tasks = ("--tasks", "countries_choice,countries_said", "--include_path", str(tmp_path), "--batch_size", "4")
    done = run(tmp_path, "--model_args", "family=bundled,threads=1", *tasks, "--output_path", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    figures = json.loads(results.read_text())["results"]
    # The blend's base knows 96 % of such facts; four choices by chance are 25 %.
    assert figures["countries_choice"]["acc,none"] >= 0.8
    assert figures["countries_said"]["exact_match,said"] >= 0.6
    assert "countries_choice" in done.stdout


def test_a_mistake_in_model_args_ends_in_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"subject": "Oslo", "answer": "Norway"}))
    (tmp_path / "said.yaml").write_text(SAID.replace("DATA", str(tmp_path / "data.jsonl")))
    done = run(
        tmp_path, "--model_args", "family=none.toml", "--tasks", "countries_said", "--include_path", str(tmp_path)
    )
    assert done.returncode == 2 and "error: there is no family file none.toml" in done.stderr
    assert "Traceback" not in done.stderr
