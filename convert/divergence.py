"""How far one model's predictions are from another's, over a text."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.llama import Model
from eft_gguf.engine.probe import Trial, require_survival
from eft_gguf.errors import OptionError

from .check import logits
from .writing import Progress

MOST_TOKENS = 512
TEXT = """The lamp at the end of the pier had been out for three nights before anyone wrote to the harbour office. \
On the fourth, a clerk came down with a ladder and a box of tools, looked at the glass, and said that the part would \
have to be ordered. "How long will that take?" asked the woman who sold fish. He counted on his fingers. "Two weeks, \
perhaps three. Until then, please tell the boats to keep well to the left." So she painted an arrow on a board, with \
the words: KEEP LEFT, LAMP BROKEN. By Sunday every child in the town could say where the rocks were, how deep the \
water was over them at high tide (about 4.5 metres), and why a boat that comes home late should count to ten before \
it turns. When the lamp was mended nobody took the board away."""


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a comparison: a file, with an adapter on it or not."""

    path: Path
    adapter: Path | None = None


def rows(members: Iterable[Member], text: str, progress: Progress) -> Iterable[list[NDArray[np.float64]]]:
    """For each token of the text, the first 512 at most, each member's logits of the ids that all members know.

    Members that share a file share its weights. The text is cut by the first member's tokenizer.
    """
    members = list(members)
    require_survival(Trial(str(one.path), str(one.adapter) if one.adapter else None) for one in members)
    with ExitStack() as stack:
        models: dict[Path, Model] = {}
        for member in members:
            if member.path not in models:
                models[member.path] = stack.enter_context(closing(Model(member.path)))
        first = models[members[0].path]
        ids = first.begun(first.tokenize(text, special=True))
        ids = ids[: min(MOST_TOKENS, *(model.ctx_train or MOST_TOKENS for model in models.values()))]
        if len(ids) < 2:
            raise OptionError("the text has no tokens to compare on", hint="give a longer one: --text FILE")
        shared = min(model.n_vocab for model in models.values())
        runs = [logits(models[member.path], ids, adapter=member.adapter) for member in members]
        for number, row in enumerate(zip(*runs, strict=True)):
            progress("comparing on a text", number / len(ids))
            yield [values[:shared].astype(np.float64) for values in row]


def log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities of logits."""
    shifted = values - values.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def kl(true: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The Kullback-Leibler divergence of two rows of logits, in nats: of what is true from what another model says."""
    log_true = log_softmax(true)
    return float((np.exp(log_true) * (log_true - log_softmax(other))).sum())
