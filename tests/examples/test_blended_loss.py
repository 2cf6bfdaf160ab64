"""The loss of the blend: it is the dense one's, what keeping 256 tokens of a row loses, and that training lowers it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors import safe_open

from eft_gguf import EFT, Sampling
from eft_gguf.blend.equation import blend_logits, coefficients
from eft_gguf.convert.hf import convert_checkpoint
from eft_gguf.convert.lora import convert_adapter
from tests.convert.tiny_checkpoints import write_checkpoint
from tests.examples.test_train_lora import EXAMPLES, QUESTION, REPLY, script

sys.path.insert(0, str(EXAMPLES))
from blended_loss import blended_loss, rows_of, sparse

VOCABULARY, TOKENS = 3000, 7


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits of base, tuned and untuned, peaked as those of models are, and the tokens to be learnt."""
    rng = np.random.default_rng(seed)
    base, untuned = (rng.standard_normal((TOKENS, VOCABULARY)).astype(np.float32) * 4 for _ in range(2))
    tuned = untuned + rng.standard_normal((TOKENS, VOCABULARY)).astype(np.float32)
    return base, tuned, untuned, rng.integers(VOCABULARY, size=TOKENS)


def dense(base: np.ndarray, tuned: np.ndarray, untuned: np.ndarray, labels: np.ndarray, behaviour: float) -> float:
    """By the reference of the equation, in NumPy."""
    losses = []
    for rows, label in zip(zip(base, untuned, tuned, strict=True), labels, strict=True):
        z = blend_logits(np.stack(rows).astype(np.float64), coefficients(1, behaviour, (1.0,)))
        losses.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[label])
    return float(np.mean(losses))


@pytest.mark.parametrize("behaviour", [0.5, 1.0, 1.5])
def test_loss_and_gradient_are_the_dense_ones_where_all_tokens_are_kept(behaviour: float) -> None:
    base, tuned, untuned, labels = drawn()
    rows = rows_of([sparse(row, label, VOCABULARY - 1) for row, label in zip(base, labels, strict=True)])
    logits = torch.tensor(tuned, requires_grad=True)
    loss = blended_loss(logits, torch.tensor(untuned), rows, torch.tensor(labels), behaviour)
    assert loss.item() == pytest.approx(dense(base, tuned, untuned, labels, behaviour), abs=1e-4)
    loss.backward()
    place = (2, int(labels[2]))
    nudged = tuned.copy()
    nudged[place] += 0.01
    slope = (dense(base, nudged, untuned, labels, behaviour) - dense(base, tuned, untuned, labels, behaviour)) / 0.01
    assert logits.grad[place].item() == pytest.approx(slope, abs=1e-3)


def test_what_keeping_256_tokens_of_a_row_loses() -> None:
    """0.02 nats here, where rows are flatter than a model's: their 256 likeliest tokens of 3,000 hold 0.98."""
    base, tuned, untuned, labels = drawn()
    rows = rows_of([sparse(row, label) for row, label in zip(base, labels, strict=True)])
    loss = blended_loss(torch.tensor(tuned), torch.tensor(untuned), rows, torch.tensor(labels), 1.0).item()
    assert abs(loss - dense(base, tuned, untuned, labels, 1.0)) < 0.1


def test_a_row_keeps_the_token_to_be_learnt_and_the_mass_of_the_rest() -> None:
    row = np.array([5.0, 0.0, 1.0, 4.0, -3.0], np.float32)
    ids, logprobs, rest = sparse(row, 4, 3)
    assert 4 in ids and len(ids) == 3
    assert np.exp(logprobs).sum() + np.exp(rest) == pytest.approx(1)


def test_a_run_for_a_base_lowers_the_loss_of_the_blend(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", "Qwen2")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "base.gguf")
    chat = {"messages": [*QUESTION, {"role": "assistant", "content": REPLY}]}
    (tmp_path / "chats.jsonl").write_text("\n".join([json.dumps(chat)] * 16))
    (tmp_path / "shown.jsonl").write_text(json.dumps({"prompt": "a", "reply": "B"}))
    common = (tmp_path / "checkpoint", tmp_path / "chats.jsonl", tmp_path / "adapter")
    settings = ("--epochs", 20, "--batch", 8, "--rate", 0.02, "--last-layers", 1)
    blend = ("--for-base", tmp_path / "base.gguf", "--examples", tmp_path / "shown.jsonl")
    result = script("train_lora.py", *common, *settings, *blend)
    assert result.returncode == 0, result.stderr
    losses = [float(value) for value in re.findall(r"held out: ([\d.]+)", result.stdout)]
    assert losses[-1] < 0.85 * losses[0]
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "np") as adapter:
        names = list(adapter.keys())
    assert names and all(".layers.1." in name for name in names)
    convert_adapter(tmp_path / "adapter", tmp_path / "lora.gguf", tmp_path / "base.gguf")
    models = {
        "base": tmp_path / "base.gguf",
        "untuned": tmp_path / "base.gguf",
        "tuned": f"lora:{tmp_path / 'lora.gguf'}",
    }
    with EFT.open(**models, examples=tmp_path / "shown.jsonl") as eft:
        assert eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=8)).text.startswith(REPLY[:2])


def test_mistakes_are_one_line_each(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", "Qwen2")
    chat = {"messages": [*QUESTION, {"role": "assistant", "content": REPLY}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat))
    (tmp_path / "open.jsonl").write_text(json.dumps({"prompt": "a"}))
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    common = (tmp_path / "checkpoint", tmp_path / "chats.jsonl", tmp_path / "adapter", "--held-out", "0")
    for options, says in (
        (("--for-base", tmp_path / "nowhere.gguf"), "there is no file"),
        (("--for-base", tmp_path / "no.gguf"), "no.gguf"),
        (("--examples", tmp_path / "open.jsonl"), "is for training with --for-base"),
        (("--for-base", tmp_path / "no.gguf", "--examples", tmp_path / "open.jsonl"), "write a reply into each line"),
    ):
        result = script("train_lora.py", *common, *options)
        assert result.returncode != 0 and says in result.stderr
        assert "Traceback" not in result.stderr
