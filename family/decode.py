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
    batch: int = 64
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
    """One reply per prompt. Prompts of equal length run together, so that nothing is padded."""
    by_length = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    generator = torch.Generator().manual_seed(options.seed)
    done: list[Reply | None] = [None] * len(prompts)
    for places in by_length.values():
        for first in range(0, len(places), options.batch):
            chosen = places[first : first + options.batch]
            ids = torch.tensor([prompts[place] for place in chosen])
            for place, tokens in zip(chosen, _generate(models, shares, ids, options, generator), strict=True):
                finished = tokens[-1:] == [TURN_END_ID]
                text = tokenizer.decode(
                    [t for t in tokens if t not in (TURN_END_ID, END_OF_TEXT_ID)], skip_special_tokens=False
                )
                done[place] = Reply(text, finished)
    return [reply for reply in done if reply is not None]


def _generate(
    models: Mapping[str, Llama],
    shares: Mapping[str, float],
    prompt: torch.Tensor,
    options: Options,
    generator: torch.Generator,
) -> list[list[int]]:
    """New tokens of each row, up to and including its first end token."""
    caches = {name: [Cache() for _ in models[name].blocks] for name in shares}
    ids, start, columns = prompt, 0, []
    ended = torch.zeros(len(prompt), dtype=torch.bool)
    for _ in range(min(options.new_tokens, CONTEXT - prompt.shape[1])):
        blended = sum(share * models[name](ids, caches[name], start)[:, -1].double() for name, share in shares.items())
        if options.temperature == 0:
            token = blended.argmax(-1)
        else:
            token = torch.multinomial((blended / options.temperature).softmax(-1), 1, generator=generator)[:, 0]
        start += ids.shape[1]
        ids = token[:, None]
        columns.append(token)
        ended |= (token == TURN_END_ID) | (token == END_OF_TEXT_ID)
        if ended.all():
            break
    rows = torch.stack(columns, 1).tolist()
    return [_until_end(row) for row in rows]


def _until_end(tokens: list[int]) -> list[int]:
    for i, token in enumerate(tokens):
        if token in (TURN_END_ID, END_OF_TEXT_ID):
            return tokens[: i + 1]
    return tokens
