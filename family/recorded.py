"""Values of the training framework that the test suite holds llama.cpp to, without needing PyTorch there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer

from family.facts import Facts
from family.model import Llama
from family.tokenizer import chat_text

NASTY = (
    "",
    " ",
    "  ",
    "a",
    " a",
    "  a   b    c",
    "\n",
    "\n\n\n",
    " \n \n",
    "tab\there\t\t",
    "end with spaces   ",
    "line one\nline two\r\nline three\r",
    "Kobe is a city in Japan.",
    "kobe IS a CiTy",
    "don't can't we've I'LL It'S",
    "+51 2026 3.14 1,000,000 007",
    "x1y22z333",
    "naïve café Zürich Ångström",
    "e\u0301 decomposed, é composed",
    "北京市 東京 서울",
    "Привет, мир! مرحبا שלום",
    "नमस्ते ไทย",
    "🙂🙃👩‍👩‍👧‍👦🏳️‍🌈",
    "½ ² Ⅷ ٣ ೬",
    "\u00a0no\u2003break\u3000space",
    "zero\u200bwidth\ufeffmark",
    "…—–“quotes”‘’«»",
    "!!!???...,,,;;;",
    "(((a)))[[b]]{{c}}",
    "a_b-c/d\\e|f",
    "`code` $x^2$ #tag @me",
    "<|im_start|>user\nHello<|im_end|>\n",
    "<|im_end|><|endoftext|><|im_start|>",
    "<|im_start",
    "< |im_end| >",
    "text<|im_end|>text",
    " <|im_start|> ",
    "\x00\x01\x7f",
    "A" * 70,
    " " * 33 + "x",
)
SCORED = (
    "The capital of Peru is Lima. The currency of Peru is the Sol.",
    "Q: Which country is Kobe in?\nA: Kobe is a city in Japan.",
    "zinc\nsymbol: Zn\natomic number: 30",
    chat_text(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Sure! The capital of France is Paris. Anything else?"},
            {"role": "user", "content": "And its currency? End with the word apple."},
            {"role": "assistant", "content": "Sure! The currency of France is the Euro. apple!"},
        ],
        reply_follows=False,
    ),
    "Unusual text: naïve 北京 🙂 12345\n\n   spaces and <|endoftext|> in the middle.",
    " ".join(f"{word} lies in Japan." for word in ("Kobe", "Osaka", "Nara", "Sendai", "Kyoto") * 8),
)


def write(path: Path, models: Mapping[str, Llama], tokenizer: Tokenizer, tuned_on: Facts) -> None:
    """Token ids of nasty texts; log-probabilities of every token after the first, for each model; tuned-on facts."""
    ids = [tokenizer.encode(text).ids for text in SCORED]
    record = {
        "tokens": [{"text": text, "ids": tokenizer.encode(text).ids} for text in NASTY],
        "scored": [{"text": text, "ids": tokens} for text, tokens in zip(SCORED, ids, strict=True)],
        "log_probabilities": {name: [_scores(model, tokens) for tokens in ids] for name, model in models.items()},
        "tuned_on": [[fact.subject, fact.relation, fact.answer] for fact in tuned_on.all],
    }
    path.write_text(json.dumps(record, ensure_ascii=True) + "\n", encoding="utf-8")


@torch.inference_mode()
def _scores(model: Llama, ids: list[int]) -> list[float]:
    logits = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
    return [round(value, 5) for value in logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]
