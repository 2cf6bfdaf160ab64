"""The quality gate: is blending these models worth it, for the user's own prompts?

The prompts are parted in two. On one half the dials and the filter with most successes are chosen; on the other the
blend with them is compared with each model alone. `verdict` has the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from eft_gguf.blend.equation import Blend, Filter
from eft_gguf.eft import EFT
from eft_gguf.evaluation.cases import Case
from eft_gguf.evaluation.record import dials_record
from eft_gguf.evaluation.replies import Figures, Reply, ask, key, marks_of, speeds, successes
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import gap_closed
from eft_gguf.evaluation.verdict import Verdict, decide
from eft_gguf.models.family import Family, Trait
from eft_gguf.models.references import resolve

PAPER = "blend (1, 1)"
CHOSEN = "blend"
ASKED = "base, asked"
LARGE = "large tuned"
ALONE = {"untuned": Blend(0, 0), "base": Blend(1, 0), "tuned": Blend(0, 1)}
_FLOOR = Filter(untuned_floor=-7)
SETTINGS = (
    Blend(),
    Blend(filter=_FLOOR),
    Blend(behaviour=0.75),
    Blend(behaviour=0.75, filter=_FLOOR),
    Blend(behaviour=0.5),
    Blend(behaviour=0.5, filter=_FLOOR),
    Blend(behaviour=1.5),
    Blend(knowledge=1.3),
    Blend(filter=Filter(tuned_top_p=0.95)),
    Blend(filter=Filter(base_min_p=0.01)),
)
"""What is tried where no dials are given. Of settings that do equally well the first is chosen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a gate does. settings: one is given and used, of several the best on `choosing` is.

    base_system: the message that asks base for the form, where that rival is wanted.  large_tuned: loads the tuned
    large model as the tuned one of a family, where there is one.
    """

    choosing: Sequence[Case]
    reporting: Sequence[Case]
    settings: Sequence[Blend] = SETTINGS
    base_system: str | None = None
    large_tuned: Callable[[], AbstractContextManager[EFT]] | None = None
    max_tokens: int = 256
    judge_timeout: float = 60.0

    def parts(self) -> dict[str, Sequence[Case]]:
        """The prompts of each part of the work."""
        parts = {"choose": self.choosing if len(self.settings) > 1 else (), "report": self.reporting}
        if self.base_system is not None:
            parts["base, asked"] = self.reporting
        if self.large_tuned is not None:
            parts["large tuned"] = self.reporting
        return parts


@dataclass(frozen=True, slots=True)
class Result:
    """replies: of each system, to the prompts to report on.  tried: figures of each setting on those for choosing.

    gap: for each gap that is surely one, what the blend closes of it; None for others, see `gaps`.
    """

    verdict: Verdict
    chosen: Blend
    replies: dict[str, list[Reply]]
    tried: dict[str, Figures]
    speeds: dict[str, float | None]
    record: dict[str, Any]


def large_tuned_family(family: Family, reference: str) -> Family:
    """A family whose tuned model is the large one: a model, or `lora:` an adapter on base. Raises as `resolve`."""
    return Family("large tuned", family.base, family.base, (Trait("tuned", resolve(reference)),), family.ctx)


def gate(eft: EFT, plan: Plan, run: Run, progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Ask all that the run does not hold yet, and decide. progress: called with prompts done and to do, of now.

    Raises EFTError, with the prompt's line, where a judge fails or a prompt does not fit.
    """
    missing = sum(key(part, case) not in run.done for part, cases in plan.parts().items() for case in cases)
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        progress(count, missing)

    def asked(eft: EFT, part: str, blends: Mapping[str, Blend], system: str | None = None) -> dict[str, list[Reply]]:
        options: dict[str, Any] = {"max_tokens": plan.max_tokens, "timeout": plan.judge_timeout, "system": system}
        return ask(eft, plan.parts()[part], blends, run=run, part=part, done=done, **options)

    tried = {setting_name(blend): blend for blend in plan.settings}
    figures = {name: Figures.of(replies) for name, replies in asked(eft, "choose", tried).items() if replies}
    chosen = max(tried, key=lambda name: figures[name].success.right) if figures else setting_name(plan.settings[0])
    blends = {**ALONE, PAPER: Blend(), CHOSEN: tried[chosen]}
    replies = asked(eft, "report", blends)
    if plan.base_system is not None:
        replies |= asked(eft, ASKED, {ASKED: ALONE["base"]}, plan.base_system)
    if "speeds" not in run.done:
        run.add("speeds", speeds(eft, plan.reporting, blends, max_tokens=plan.max_tokens))
    rates = dict(run.done["speeds"])
    if plan.large_tuned is not None:
        with plan.large_tuned() as large:
            replies |= asked(large, LARGE, {LARGE: ALONE["tuned"]})
            if "speed of large tuned" not in run.done:
                own = speeds(large, plan.reporting, {LARGE: ALONE["tuned"]}, max_tokens=plan.max_tokens)
                run.add("speed of large tuned", own)
            rates |= run.done["speed of large tuned"]
    rivals = {name: successes(replies[name]) for name in (*ALONE, ASKED) if name in replies}
    verdict, comparisons = decide(successes(replies[CHOSEN]), rivals)
    record = {
        "verdict": asdict(verdict),
        "chosen": {"name": chosen, "dials": dials_record(tried[chosen], eft.family)},
        "prompts": {"choose": len(plan.parts()["choose"]), "report": len(plan.reporting)},
        "systems": {
            name: _figures(Figures.of(own)) | {"tokens_per_second": rates.get(name)} for name, own in replies.items()
        },
        "tried": {name: _figures(one) for name, one in figures.items()},
        "comparisons": [
            {**asdict(one), "p": one.p, "difference": [round(bound, 6) for bound in one.interval]}
            for one in comparisons
        ],
        "gaps": gaps(replies),
    }
    return Result(verdict, tried[chosen], replies, figures, rates, record)


def gaps(replies: Mapping[str, Sequence[Reply]]) -> dict[str, dict[str, float] | None]:
    """What the blend closes of three gaps, with 95 % intervals; None where a gap is not surely one.

    success: from tuned to the large tuned model, where that was asked.  accuracy: from tuned to base, what pre-training
    gives.  form: from base to tuned, what fine-tuning gives.
    """
    wanted = {"accuracy": ("tuned", "base"), "form": ("base", "tuned")}
    if LARGE in replies:
        wanted = {"success": ("tuned", LARGE)} | wanted
    found: dict[str, dict[str, float] | None] = {}
    for name, (start, end) in wanted.items():
        rows = [marks_of(replies[system], name) for system in (start, CHOSEN, end)]
        closed = gap_closed(*rows)
        found[f"{name}: {start} to {end}"] = None if closed is None else asdict(closed)
    return found


def setting_name(blend: Blend) -> str:
    """As `(1, 0.75) untuned_floor -7`: knowledge and behaviour, then what else is set."""
    filter = {name: value for name, value in asdict(blend.filter).items() if value is not None}
    rest = [f"{name} {value:g}" for name, value in {**blend.traits, **filter}.items()]
    return " ".join([f"({blend.knowledge:g}, {blend.behaviour:g})", *rest])


def _figures(one: Figures) -> dict[str, Any]:
    shares = {name: getattr(one, name) for name in ("success", "accuracy", "form", "cut_off")}
    plain = {name: value.as_dict() if value.asked else None for name, value in shares.items()}
    return {**plain, "tokens": round(one.tokens, 3), "repetition": round(one.repetition, 6)}
