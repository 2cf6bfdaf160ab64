"""Greedy replies to one prompt under many blends at once. What several blends read alike is decoded once for all."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.compiled import kernels
from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.engine.engine import Engine


@dataclass(slots=True)
class GreedySequence:
    """A blend, by its factors and filter, and its reply so far: the end token included, if there is one."""

    factors: tuple[float, ...]
    filter: Filter
    generated: list[int] = field(default_factory=list)
    finish_reason: str | None = None


def greedy_sequences(
    engine: Engine, prompts: Seq[list[int]], sequences: Seq[GreedySequence], *, max_tokens: int | None
) -> None:
    """Bring all sequences to their end, each as `Engine.step` would with the most likely token every time.

    prompts: token ids per member, of which none is empty and none fills the context.

    The replies are a tree that is walked branch by branch: sequences which agree so far need the same logits, and
    where they part, the KV cache is cut back to that place for each branch. Only the members that a branch still
    needs are decoded. So the cost is that of the tree's nodes, not of the replies' tokens: settings of one family
    mostly differ by a few tokens.
    """
    branches = [list(sequences)] if sequences else []
    while branches:
        branch = branches.pop()
        said = branch[0].generated
        ids = {member: prompts[member] + said for member in _members(branch)}
        rows = dict(zip(ids, engine.logits_after(ids), strict=True))
        parted: dict[int, list[GreedySequence]] = {}
        for sequence in branch:
            parted.setdefault(_most_likely(engine, rows, sequence), []).append(sequence)
        full = max(map(len, prompts)) + len(said) + 1 >= engine.ensemble.ctx
        for token, together in parted.items():
            for sequence in together:
                sequence.generated.append(token)
                if token in engine.ensemble.end_tokens:
                    sequence.finish_reason = "stop"
                elif full or len(sequence.generated) == max_tokens:
                    sequence.finish_reason = "length"
            if together[0].finish_reason is None:
                branches.append(together)


def _members(branch: Seq[GreedySequence]) -> list[int]:
    return sorted({member for one in branch for member in members_needed(one.factors, one.filter)})


def _most_likely(engine: Engine, rows: dict[int, NDArray[np.float32]], sequence: GreedySequence) -> int:
    members = members_needed(sequence.factors, sequence.filter)
    own = [rows[member] for member in members]
    # What is never sampled is ruled out in a blend's first row. Other blends may need that row whole: for a filter
    # the sum of its probabilities counts.
    own[0] = own[0].copy()
    used, weights = engine.drawn_from(own, members, sequence.factors, sequence.filter)
    return int(kernels.blend_argmax(used, weights, engine.ensemble.n_vocab))
