"""What `train_lora.py --for-base` needs: the large model's rows, and the loss of the blend.

The adapter is trained on the cross-entropy of softmax(base + behaviour · (tuned − untuned)), base and untuned frozen:
consistent proxy-tuning (He et al., arXiv 2407.01155). So it learns what the base lacks, and nothing that it knows.

The base's rows are computed once, by llama.cpp, from the GGUF that will be used. Of each row the likeliest tokens are
kept, the token to be learnt among them, and the probability of all others together. In the loss that is spread over
these others as the untuned model spreads its own: the blend's row stays whole, and only the base's order among unlikely
tokens is lost. tests/examples/test_blended_loss.py measures what that changes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

KEPT = 256
"""Tokens that are kept of each row of the base."""


@dataclass
class BaseRows:
    """The base's rows before each token of a reply. ids, logprobs: (tokens, KEPT); rest: (tokens,), logarithms."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    rest: torch.Tensor


def base_rows(
    gguf: Path, contexts: Sequence[list[int]], replies: Sequence[list[int]], texts: Sequence[str]
) -> list[BaseRows]:
    """The rows of a GGUF before each token of the replies. texts: what the contexts' ids were made of, for a check.

    Ends the program where the GGUF reads the texts as other ids.
    """
    from eft_gguf import EFTError
    from eft_gguf.engine.engine import Engine
    from eft_gguf.engine.ensemble import Ensemble
    from eft_gguf.engine.hardware import Hardware
    from eft_gguf.models.references import resolve

    longest = max(len(context) + len(reply) for context, reply in zip(contexts, replies, strict=True))
    try:
        base = Ensemble(
            {"base": resolve(gguf)},
            {},
            ctx=longest + 8,
            batch=128,
            sequences=1,
            hardware=Hardware(),
            progress=lambda line: print(line, file=sys.stderr),
        )
    except EFTError as error:
        sys.exit(f"error: {error}")
    try:
        for text, context in zip(texts, contexts, strict=True):
            if base.models[0].tokenize(text, special=True) != context:
                sys.exit(
                    f"error: {gguf} reads the chats as other tokens than the checkpoint does; give one of its series"
                )
        engine = Engine(base)
        asked = [([context], reply) for context, reply in zip(contexts, replies, strict=True)]
        kept: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in asked]
        started = time.monotonic()
        for number, (row,) in engine.replays(asked):
            kept[number].append(sparse(row, replies[number][len(kept[number])]))
            if len(kept[number]) == len(replies[number]):
                left = (time.monotonic() - started) / (number + 1) * (len(asked) - number - 1)
                print(f"\rbase: chat {number + 1} of {len(asked)}, {left:.0f} s left ", end="", file=sys.stderr)
        print(file=sys.stderr)
    finally:
        base.close()
    return [rows_of(own) for own in kept]


def sparse(row: np.ndarray, label: int, count: int = KEPT) -> tuple[np.ndarray, np.ndarray, float]:
    """The ids of a row's likeliest tokens and of `label`, their log-probabilities, and the logarithm of the rest."""
    wide = row.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    count = min(count, len(wide) - 1)
    ids = np.argpartition(wide, -count)[-count:]
    if label not in ids:
        ids[0] = label
    rest = 1 - np.exp(wide[ids]).sum()
    return ids, wide[ids].astype(np.float32), float(np.log(max(rest, 1e-12)))


def rows_of(kept: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> BaseRows:
    ids, logprobs, rest = zip(*kept, strict=True)
    return BaseRows(
        torch.from_numpy(np.stack(ids)).long(), torch.from_numpy(np.stack(logprobs)), torch.tensor(rest).float()
    )


def joined(rows: Sequence[Any]) -> BaseRows:
    """Those of several replies, one after the other."""
    return BaseRows(*(torch.cat([getattr(row, name) for row in rows]) for name in ("ids", "logprobs", "rest")))


def blended_loss(
    tuned: torch.Tensor, untuned: torch.Tensor, rows: BaseRows, labels: torch.Tensor, behaviour: float
) -> torch.Tensor:
    """Mean cross-entropy of the blend. tuned, untuned: logits, (tokens, vocabulary); labels: (tokens,)."""
    tuned, untuned = tuned.float().log_softmax(-1), untuned.float().log_softmax(-1)
    ids = rows.ids.to(tuned.device)
    others = untuned.scatter(-1, ids, float("-inf"))
    base = others - others.logsumexp(-1, keepdim=True) + rows.rest.to(tuned.device)[:, None]
    base = base.scatter(-1, ids, rows.logprobs.to(tuned.device))
    return torch.nn.functional.cross_entropy(base + behaviour * (tuned - untuned), labels)
