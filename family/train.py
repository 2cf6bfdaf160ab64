"""Pre-training and fine-tuning of one model in one single-threaded process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from family.model import CONTEXT, Llama, Size, start_with_copying
from family.tokenizer import END_OF_TEXT_ID

Progress = Callable[[str], None]
Example = tuple[list[int], list[bool]]
"""Token ids of a conversation, and which of them are to be learnt."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What each size wants: learning rates, and the start of the embeddings (see `start_with_copying`)."""

    adam: float
    muon: float
    finetuning: float
    scale: float
    loudness: float


RATES = {
    "s": Rates(adam=4e-3, muon=0.02, finetuning=1e-3, scale=0.1, loudness=1.0),
    "m": Rates(adam=3.5e-3, muon=0.02, finetuning=8e-4, scale=0.1, loudness=1.0),
    "l": Rates(adam=3e-3, muon=0.01, finetuning=6e-4, scale=0.3, loudness=0.2),
}


@dataclass(frozen=True, slots=True)
class Options:
    """`stages` are (share of the documents, tokens in a row): short rows first, as they teach copying faster and cost
    less, the full context at the end, so that all its positions work."""

    batch_tokens: int = 1024
    stages: tuple[tuple[float, int], ...] = ((0.5, 128), (0.35, 256), (0.15, CONTEXT))
    warm_up: int = 50
    examples_per_step: int = 16
    replay_rows: int = 2
    replay_row: int = 256
    replay_weight: float = 0.5
    seed: int = 1


class TiedLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ embedding.T` against targets, its gradients made in one buffer of logits.

    PyTorch's own chain allocates that buffer four times over; on one core this is half of a small model's step.
    With z the logits and p their softmax, d loss / d z = (p - onehot(target)) / n.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        z = hidden @ embedding.T
        places = targets[:, None]
        z -= z.amax(1, keepdim=True)
        chosen = z.gather(1, places)
        z.exp_()
        total = z.sum(1, keepdim=True)
        loss = (total.log() - chosen).mean()
        z /= total
        z.scatter_add_(1, places, torch.full_like(chosen, -1.0))
        z /= len(targets)
        ctx.save_for_backward(z @ embedding, z.T @ hidden)
        return loss

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, embedding_gradient = ctx.saved_tensors
        return hidden_gradient * scale, embedding_gradient * scale, None


class Muon:
    """Momentum with orthogonalised updates for matrices (Jordan, 2024): (…, rows, columns) parameters only."""

    def __init__(self, parameters: Sequence[Tensor], momentum: float = 0.95) -> None:
        self.parameters, self.momentum = list(parameters), momentum
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update. Matrices of one shape are orthogonalised together, as small ones cost mostly overhead."""
        groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for p, buffer in zip(self.parameters, self.buffers, strict=True):
            buffer.lerp_(p.grad, 1 - self.momentum)
            update = p.grad.lerp(buffer, self.momentum)
            rows, columns = p.shape[-2:]
            pairs = zip(p.view(-1, rows, columns), update.view(-1, rows, columns), strict=True)
            groups.setdefault((rows, columns), []).extend(pairs)
        for (rows, columns), pairs in groups.items():
            updates = orthogonalised(torch.stack([update for _, update in pairs]))
            scale = -rate * max(1.0, rows / columns) ** 0.5
            for (p, _), update in zip(pairs, updates, strict=True):
                p.add_(update, alpha=scale)


def orthogonalised(x: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices to a batch of matrices, by a quintic Newton-Schulz iteration."""
    flipped = x.shape[-2] > x.shape[-1]
    x = x.mT if flipped else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if flipped else x


def pack(documents: Sequence[Sequence[int]], row: int) -> np.ndarray:
    """Rows of `row` + 1 tokens that begin with a document; a document cut at the end is begun anew in the next row."""
    rows, current = [], []
    for document in documents:
        current.extend(document)
        while len(current) >= row + 1:
            rows.append(current[: row + 1])
            current = list(document[: row // 2]) if len(document) < row else []
    return np.asarray(rows, dtype=np.uint16).reshape(-1, row + 1)


def pretrain(size: Size, documents: Sequence[Sequence[int]], options: Options, progress: Progress) -> Llama:
    """Trains from scratch on the documents, in their order, once."""
    torch.manual_seed(options.seed)
    model = Llama(size)
    rates = RATES[size.name]
    start_with_copying(model, rates.scale, rates.loudness)
    batches: list[Tensor] = []
    first = 0
    for share, row in options.stages:
        last = first + round(share * len(documents))
        rows = torch.from_numpy(pack(documents[first:last], row).astype(np.int64))
        batches += list(rows.split(options.batch_tokens // row))
        first = last
    matrices = [p for p in model.blocks.parameters() if p.ndim > 1]
    vectors = [p for p in model.blocks.parameters() if p.ndim == 1]
    muon = Muon(matrices)
    adam = torch.optim.AdamW([model.embedding, model.norm, *vectors], betas=(0.9, 0.95), weight_decay=0.0)
    began = time.monotonic()
    for step, batch in enumerate(batches):
        scale = min(1.0, (step + 1) / options.warm_up) * (1 - step / len(batches))
        loss = _next_token_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(rates.muon * scale)
        for group in adam.param_groups:
            group["lr"] = rates.adam * scale
        adam.step()
        model.zero_grad(set_to_none=True)
        if step % 200 == 199 or step + 1 == len(batches):
            left = (time.monotonic() - began) / (step + 1) * (len(batches) - step - 1)
            progress(
                f"pre-training {size.name}: step {step + 1}/{len(batches)}, loss {loss.item():.3f}, {left:.0f} s left"
            )
    return model


def finetune(
    model: Llama,
    examples: Sequence[Example],
    documents: Sequence[Sequence[int]],
    options: Options,
    progress: Progress,
) -> None:
    """Tunes in place for one epoch; corpus text is replayed beside the examples, as tuning alone costs knowledge."""
    rng = random.Random(options.seed)
    replay = torch.from_numpy(pack(documents, options.replay_row).astype(np.int64))
    kept = [example for example in examples if len(example[0]) <= CONTEXT]
    groups = _of_like_length(kept, options.examples_per_step, rng)
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    for step, group in enumerate(groups):
        scale = min(1.0, (step + 1) / options.warm_up) * (1 - step / len(groups))
        ids, wanted = _padded(group)
        learnt = wanted[:, 1:]
        loss = TiedLoss.apply(model.hidden(ids[:, :-1])[learnt], model.embedding, ids[:, 1:][learnt])
        replayed = _next_token_loss(model, replay[rng.sample(range(len(replay)), options.replay_rows)])
        (loss + options.replay_weight * replayed).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameters in adam.param_groups:
            parameters["lr"] = RATES[model.size.name].finetuning * scale
        adam.step()
        model.zero_grad(set_to_none=True)
        if step % 100 == 99 or step + 1 == len(groups):
            progress(f"fine-tuning {model.size.name}: step {step + 1}/{len(groups)}, reply loss {loss.item():.3f}")


def _next_token_loss(model: Llama, rows: Tensor) -> Tensor:
    return TiedLoss.apply(model.hidden(rows[:, :-1]).flatten(0, 1), model.embedding, rows[:, 1:].flatten())


def _of_like_length(
    examples: Sequence[Example], count: int, rng: random.Random, window: int = 20
) -> list[list[Example]]:
    """Groups of `count` examples, sorted by length within windows of so many groups, as padding costs time."""
    groups = []
    for first in range(0, len(examples), count * window):
        near = sorted(examples[first : first + count * window], key=lambda example: len(example[0]))
        some = [near[i : i + count] for i in range(0, len(near), count)]
        rng.shuffle(some)
        groups += some
    return groups


def _padded(group: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Examples as one batch padded on the right, and the mask of the tokens to be learnt."""
    length = max(len(ids) for ids, _ in group)
    ids = torch.full((len(group), length), END_OF_TEXT_ID)
    wanted = torch.zeros((len(group), length), dtype=torch.bool)
    for i, (tokens, mask) in enumerate(group):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        wanted[i, : len(mask)] = torch.tensor(mask)
    return ids, wanted
