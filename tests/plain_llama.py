"""An independent way to the same answers: plain `llama_cpp.Llama` objects, one at a time, and float64 NumPy.

llama.cpp's kernels differ in their last digits between settings, and at four bits a weight that becomes tenths of a
logit: to compare exactly, the plain objects get the settings of ours — batch sizes and flash attention (which `Llama`
switches off).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.models.memory import OUTPUTS

BATCH = 32
ALONE = {"base": Blend(1, 0), "tuned": Blend(0, 1), "untuned": Blend(0, 0)}
"""The dials that give one model alone."""

# Herman Melville, Moby-Dick (1851), chapter 1.
TEXT = """Call me Ishmael. Some years ago—never mind how long precisely—having little or no money in my purse, and \
nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the \
world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find myself growing \
grim about the mouth; whenever it is a damp, drizzly November in my soul; whenever I find myself involuntarily \
pausing before coffin warehouses, and bringing up the rear of every funeral I meet; and especially whenever my hypos \
get such an upper hand of me, that it requires a strong moral principle to prevent me from deliberately stepping \
into the street, and methodically knocking people's hats off—then, I account it high time to get to sea as soon as \
I can. This is my substitute for pistol and ball. With a philosophical flourish Cato throws himself upon his sword; \
I quietly take to the ship. There is nothing surprising in this."""

PROMPTS = (
    TEXT[:240],  # longer than a batch
    "<|im_start|>user\nWhat is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWho wrote Faust, and in which language?<|im_end|>\n<|im_start|>assistant\n",
)


@dataclass(frozen=True)
class Members:
    """Files of a family; `tuned` is an adapter on `untuned` where `adapter` says so."""

    base: Path
    untuned: Path
    tuned: Path
    adapter: bool = False
    ctx: int = 512
    threads: int = 1

    def open(self, **options: int) -> EFT:
        tuned = f"lora:{self.tuned}" if self.adapter else self.tuned
        return EFT.open(
            base=self.base, untuned=self.untuned, tuned=tuned, ctx=self.ctx, threads=self.threads, **options
        )

    def plain(self, name: str, **options: Any) -> llama_cpp.Llama:
        """One of the models by itself."""
        path = {"base": self.base, "untuned": self.untuned, "tuned": self.tuned}[name]
        if name == "tuned" and self.adapter:
            path, options = self.untuned, options | {"lora_path": str(self.tuned)}
        options |= {"n_ctx": self.ctx, "n_threads": self.threads, "n_threads_batch": self.threads}
        return llama_cpp.Llama(str(path), flash_attn=True, verbose=False, **options)


def tokenize(llama: llama_cpp.Llama, text: str) -> list[int]:
    add_bos = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(llama.model))
    return list(llama.tokenize(text.encode(), add_bos=add_bos, special=True))


def greedy_alone(llama: llama_cpp.Llama, prompt: str, ends: frozenset[int], count: int) -> list[int]:
    """What a model says by itself: `count` tokens at most, up to an end token."""
    llama.reset()
    tokens: list[int] = []
    for token in islice(llama.generate(tokenize(llama, prompt), temp=0.0), count):
        tokens.append(token)
        if token in ends:
            break
    return tokens


def greedy_blend(eft: EFT, prompt: str, blend: Blend, count: int) -> list[int]:
    """What the blend says, with nothing of the prompt in the cache: a shorter batch would have other logits."""
    eft.complete("#", sampling=Sampling(temperature=0, max_tokens=1))
    reply = eft.complete(prompt, blend=blend, sampling=Sampling(temperature=0, max_tokens=count))
    assert reply.timings.cached_tokens == 0
    return reply.tokens


def assert_alone(members: Members, name: str, *, count: int) -> None:
    """With its dials at their ends the blend says token for token what one of its models says alone."""
    with members.open(batch=BATCH) as eft:
        ends = eft._ensemble.end_tokens
        blended = [greedy_blend(eft, prompt, ALONE[name], count) for prompt in PROMPTS]
    with closing(members.plain(name, n_batch=BATCH)) as llama:
        assert blended == [greedy_alone(llama, prompt, ends, count) for prompt in PROMPTS]


def assert_base_whatever_behaviour_is(members: Members, *, count: int) -> None:
    """With tuned = untuned, `behaviour` changes nothing: the blend says what the base says alone."""
    with members.open(batch=BATCH) as eft:
        ends = eft._ensemble.end_tokens
        blended = [[greedy_blend(eft, prompt, Blend(1, b), count) for prompt in PROMPTS] for b in (0.5, 1, 3.7, -2)]
    with closing(members.plain("base", n_batch=BATCH)) as llama:
        alone = [greedy_alone(llama, prompt, ends, count) for prompt in PROMPTS]
    assert blended == [alone] * len(blended)


def assert_oracle(members: Members, blends: Sequence[Blend]) -> None:
    """`EFT.score` gives what three plain models give, combined in float64."""
    with members.open() as eft:
        scores = [eft.score(TEXT, blend=blend) for blend in blends]
    ids = scores[0].tokens
    assert len(ids) > 200
    logits = {name: _all_logits(members, name, ids) for name in ("base", "untuned", "tuned")}
    for name, alone in logits.items():
        np.testing.assert_allclose(scores[0].members[name][1:], _log_probabilities(alone, ids), rtol=0, atol=1e-4)
    base, untuned, tuned = logits.values()
    for blend, score in zip(blends, scores, strict=True):
        combined = untuned + blend.knowledge * (base - untuned) + blend.behaviour * (tuned - untuned)
        np.testing.assert_allclose(score.blend[1:], _log_probabilities(combined, ids), rtol=0, atol=1e-4)


def _all_logits(members: Members, name: str, ids: list[int]) -> NDArray[np.float64]:
    """The logits after each token but the last, decoded in batches of the size that `score` uses."""
    with closing(members.plain(name, n_batch=OUTPUTS, logits_all=True)) as llama:
        assert tokenize(llama, TEXT) == ids
        llama.eval(ids[:-1])  # which the last batch's size must agree in too, where weights are repacked
        return llama.scores[: len(ids) - 1].astype(np.float64)


def _log_probabilities(logits: NDArray[np.float64], ids: list[int]) -> NDArray[np.float64]:
    """Natural log-probabilities of ids[1:]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(normalised[np.arange(len(ids) - 1), ids[1:]])
