"""Pre-training scale × fine-tuning scale: every base with the fine-tuning difference of every tuned/untuned pair.

Where base and pair are of one size the blend is the tuned model itself, so the diagonal holds the really tuned models.
Above it small pairs steer larger bases (up-scaling), below it large pairs steer smaller ones. The paper's claim is that
the rows and the columns of this table do different things: Mitchell et al., arXiv 2310.12962.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Blend
from eft_gguf.eft import EFT
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.evaluation.cases import Case
from eft_gguf.evaluation.marks import GOOD, mark
from eft_gguf.evaluation.questions import FOLDER, Item, read_rivals
from eft_gguf.evaluation.record import file_record
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.scoring import facts_right, helpful
from eft_gguf.models.family import Family, Trait
from eft_gguf.models.presets import NAME
from eft_gguf.models.references import Reference, resolve

MEASURES = ("facts", "helpful")
BUNDLED_SIZES = tuple(
    f"{size}={FOLDER}/base-{size.lower()}.gguf,{FOLDER}/helpful-{size.lower()}.gguf" for size in "SML"
)
EXAMPLE = "for example --size S=small.gguf,small-tuned.gguf --size L=large.gguf,large-tuned.gguf"
RESERVED = ("base", "untuned", "blend")


@dataclass(frozen=True, slots=True)
class Size:
    """A model before its tuning, and after it; without `tuned` it serves as a base only."""

    name: str
    untuned: Reference
    tuned: Reference | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A base, by its size's name, with the difference of a pair, by that of its size; the base alone without one."""

    base: str
    pair: str | None = None

    @property
    def kind(self) -> str:
        """base (alone), tuned (really) or blend."""
        return "base" if self.pair is None else "tuned" if self.pair == self.base else "blend"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what a reply to it is worth: by measure 0 or 1, without those that do not apply.

    score: takes the reply's text, and whether it ended by itself.  judged: a command has part in it, so that replies
    which a run kept are not scored again.
    """

    key: str
    messages: Sequence[Any]
    score: Callable[[str, bool], dict[str, float]]
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores by cell and measure, each of shape (questions,); NaN where a measure does not apply to a question."""

    sizes: Sequence[Size]
    scores: dict[Cell, dict[str, NDArray[np.float64]]]

    def of(self, measure: str, cell: Cell) -> NDArray[np.float64]:
        """The scores of the questions that a measure applies to; `both` is right and helpful at once."""
        row = self.scores[cell]
        values: NDArray[np.float64] = row["facts"] * row["helpful"] if measure == "both" else row[measure]
        return values[~np.isnan(values)]

    @property
    def bases(self) -> list[str]:
        """Names of all sizes, in their order."""
        return [size.name for size in self.sizes]

    @property
    def pairs(self) -> list[str]:
        """Names of the sizes that have a tuned model, in their order."""
        return [size.name for size in self.sizes if size.tuned]


def read_sizes(texts: Sequence[str]) -> list[Size]:
    """Sizes as `NAME=UNTUNED[,TUNED]`, smallest first. Raises OptionError, or what `resolve` raises."""
    sizes: list[Size] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        untuned, comma, tuned = rest.partition(",")
        if not (equals and untuned.strip()) or (comma and not tuned.strip()):
            raise OptionError(f"the size {text!r} is not NAME=UNTUNED[,TUNED]", hint=EXAMPLE)
        if not NAME.fullmatch(name) or name in RESERVED:
            raise OptionError(f"{name!r} cannot name a size", hint=f"use letters and digits; not {', '.join(RESERVED)}")
        if name in [size.name for size in sizes]:
            raise OptionError(f"two sizes are called {name!r}", hint="name them apart")
        reference = resolve(untuned.strip())
        if reference.adapter:
            raise OptionError(f"the untuned model of size {name} cannot be an adapter: {untuned}", hint="give a model")
        sizes.append(Size(name, reference, resolve(tuned.strip()) if comma else None))
    if len(sizes) < 2 or not any(size.tuned for size in sizes):
        raise OptionError("a matrix needs two sizes or more, and a tuned model of at least one", hint=EXAMPLE)
    return sizes


def sizes_record(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """The sizes with the hashes of their files."""
    return [
        {
            "name": size.name,
            "untuned": file_record(size.untuned.path),
            "tuned": {**file_record(size.tuned.path), "adapter": size.tuned.adapter, "scale": size.tuned.scale}
            if size.tuned
            else None,
        }
        for size in sizes
    ]


def bundled_questions(items: Sequence[Item]) -> list[Question]:
    """Questions of the bundled family's format, by its scorers."""
    rivals = read_rivals(items)

    def scorer(item: Item) -> Callable[[str, bool], dict[str, float]]:
        def score(text: str, finished: bool) -> dict[str, float]:
            found = {"helpful": float(helpful(item, text, finished))}
            return {"facts": float(facts_right(item, text, rivals)), **found} if item["answers"] else found

        return score

    return [Question(item["id"], item["messages"], scorer(item)) for item in items]


def own_questions(cases: Sequence[Case], *, timeout: float = 60.0) -> list[Question]:
    """The user's prompts as the gate reads them: facts is their accuracy, helpful the form they ask for."""

    def scorer(case: Case) -> Callable[[str, bool], dict[str, float]]:
        def score(text: str, finished: bool) -> dict[str, float]:
            marks = mark(case, text, finished, timeout=timeout)
            found = {} if marks.accuracy is None else {"facts": float(marks.accuracy >= GOOD)}
            return found if marks.form is None else {**found, "helpful": float(marks.form)}

        return score

    return [Question(str(case.line), case.messages, scorer(case), bool(case.judge)) for case in cases]


def family_of(base: Size, sizes: Sequence[Size]) -> Family:
    """A family by which one base meets every pair: each a trait, measured against the untuned model of its size."""
    traits = tuple(
        Trait(size.name, size.tuned, 0.0, None if size is base else size.untuned) for size in sizes if size.tuned
    )
    return Family(f"base {base.name}", base.untuned, base.untuned, traits)


def blends_of(base: Size, sizes: Sequence[Size]) -> dict[Cell, Blend]:
    """The cells of one base, with the dials that make them in its `family_of`."""
    blends = {Cell(base.name): Blend(1, 0)}
    for size in sizes:
        if size.tuned:
            # Base + tuned − base is tuned: knowledge 0 says so without decoding the base twice.
            blends[Cell(base.name, size.name)] = Blend(float(size is not base), 1, traits={size.name: 1.0})
    return blends


def ask(
    sizes: Sequence[Size],
    questions: Sequence[Question],
    run: Run,
    *,
    open_family: Callable[[Family], AbstractContextManager[EFT]],
    max_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Greedy replies of every cell to every question; what the run holds is not asked again.

    One base is loaded at a time, the largest first, so that the time left is not promised too short.
    progress: called with the questions done and to do, each counted once a base.

    Raises what `open_family` and `EFT.greedy_replies` raise.
    """
    # Adapters weigh little: what counts is the file that they sit on.
    order = sorted(sizes, key=lambda size: -size.untuned.path.stat().st_size)
    missing = {
        base.name: [question for question in questions if f"{base.name}/{question.key}" not in run.done]
        for base in order
    }
    total, count = sum(map(len, missing.values())), 0
    for base in order:
        if not missing[base.name]:
            continue
        blends = blends_of(base, sizes)
        with open_family(family_of(base, sizes)) as eft:
            for question in missing[base.name]:
                try:
                    replies = eft.greedy_replies(question.messages, list(blends.values()), max_tokens=max_tokens)
                except EFTError as error:
                    raise OptionError(f"question {question.key}: {error.message}", hint=error.hint) from None
                done = {}
                for cell, reply in zip(blends, replies, strict=True):
                    finished = reply.finish_reason == "stop"
                    marks = question.score(reply.text, finished)
                    done[cell.pair or ""] = {"text": reply.text, "finished": finished, **marks}
                run.add(f"{base.name}/{question.key}", done)
                count += 1
                progress(count, total)
    return Outcome(sizes, {cell: _scores(cell, questions, run) for base in sizes for cell in blends_of(base, sizes)})


def _scores(cell: Cell, questions: Sequence[Question], run: Run) -> dict[str, NDArray[np.float64]]:
    found = []
    for question in questions:
        reply = run.done[f"{cell.base}/{question.key}"][cell.pair or ""]
        # A run may have been kept before a scorer was mended.
        found.append(reply if question.judged else question.score(reply["text"], reply["finished"]))
    return {measure: np.array([marks.get(measure, np.nan) for marks in found], np.float64) for measure in MEASURES}
