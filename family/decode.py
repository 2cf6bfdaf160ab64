"""Blended decoding in plain PyTorch: the reference by which the family is judged while it is built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from family.model import CONTEXT, Cache, Llama
from family.tokenizer import END_OF_TEXT_ID, TURN_END_ID


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, and whether it ended with the turn-end token."""

    text: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Options:
    """Temperature 0 takes the most probable token."""

    new_tokens: int = 90
    batch: int = 128
    temperature: float = 0.0
    seed: int = 5


def blend_weights(base: str, untuned: str, tuned: Mapping[str, float]) -> dict[str, float]:
    """Each model's share of the blended logits with both dials at 1; they sum to 1, unused models are left out.

    Emulated fine-tuning (Mitchell et al., arXiv 2310.12962): base + Σ weight · (tuned − untuned).
    """
    shares: dict[str, float] = defaultdict(float)
    shares[base] += 1.0
    for name, weight in tuned.items():
        shares[name] += weight
        shares[untuned] -= weight
    return {name: share for name, share in shares.items() if abs(share) > 1e-12}


@torch.inference_mode()
def replies(
    models: Mapping[str, Llama],
    shares: Mapping[str, float],
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    options: Options = Options(),
) -> list[Reply]:
    """One reply per prompt. Prompts of like length run together, padded on the left."""
    generator = torch.Generator().manual_seed(options.seed)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    done: list[Reply | None] = [None] * len(prompts)
    for first in range(0, len(order), options.batch):
        places = order[first : first + options.batch]
        rows = _generate(models, shares, [prompts[place] for place in places], options, generator)
        for place, tokens in zip(places, rows, strict=True):
            text = tokenizer.decode([t for t in tokens if t not in (TURN_END_ID, END_OF_TEXT_ID)])
            done[place] = Reply(text, tokens[-1:] == [TURN_END_ID])
    return [reply for reply in done if reply is not None]


def _generate(
    models: Mapping[str, Llama],
    shares: Mapping[str, float],
    prompts: Sequence[Sequence[int]],
    options: Options,
    generator: torch.Generator,
) -> list[list[int]]:
    """New tokens of each row, up to and including its first end token.

    Rotary positions are relative, so a row shifted by its padding gives the same logits. A padding position may look
    at itself only: one that may look nowhere would turn into NaN and spread.
    """
    length = max(map(len, prompts))
    pads = torch.tensor([length - len(prompt) for prompt in prompts])
    ids = torch.tensor([[END_OF_TEXT_ID] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.arange(length)[None] >= pads[:, None]
    mask = (torch.ones(length, length).tril().bool()[None] & real[:, None]) | torch.eye(length).bool()[None]
    mask = mask[:, None]
    caches = {name: [Cache() for _ in models[name].blocks] for name in shares}
    rows: list[list[int]] = [[] for _ in prompts]
    running, start = torch.arange(len(prompts)), 0
    for _ in range(min(options.new_tokens, CONTEXT - length)):
        blended = sum(
            share * models[name](ids, caches[name], start, mask)[:, -1].double() for name, share in shares.items()
        )
        if options.temperature == 0:
            token = blended.argmax(-1)
        else:
            token = torch.multinomial((blended / options.temperature).softmax(-1), 1, generator=generator)[:, 0]
        for place, new in zip(running.tolist(), token.tolist(), strict=True):
            rows[place].append(new)
        kept = (token != TURN_END_ID) & (token != END_OF_TEXT_ID)
        if not kept.any():
            break
        start += ids.shape[1]
        ids, running, real = token[kept, None], running[kept], real[kept]
        real = torch.cat((real, torch.ones(len(real), 1, dtype=torch.bool)), 1)
        mask = real[:, None, None]
        if not kept.all():
            for cache in (cache for layers in caches.values() for cache in layers):
                cache.keep(kept)
    return rows
