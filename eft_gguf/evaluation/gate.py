"""The quality gate: is blending these models worth it, for the user's own prompts?

The prompts are parted in two. On one half the dials, the filter and whether to show examples are chosen, by most
successes; on the other half the blend with them is compared with each model alone, among them the base that is shown
the same examples, and the base that is asked for the form in words. `verdict` has the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from eft_gguf.blend.equation import Blend, Filter
from eft_gguf.eft import EFT
from eft_gguf.evaluation.cases import Case
from eft_gguf.evaluation.record import dials_record, examples_record
from eft_gguf.evaluation.replies import Figures, Reply, ask, key, marks_of, speeds, successes
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import gap_closed
from eft_gguf.evaluation.verdict import Verdict, decide
from eft_gguf.models.family import Family, Trait
from eft_gguf.models.references import resolve

PAPER = "blend (1, 1)"
CHOSEN = "blend"
ASKED = "base, asked"
SHOWN = "base, shown"
LARGE = "large tuned"
ALONE = {"untuned": Blend(0, 0), "base": Blend(1, 0), "tuned": Blend(0, 1)}
EXAMPLES = 2
"""Examples that are shown where neither caller nor family names others."""
_FLOOR = Filter(untuned_floor=-7)


@dataclass(frozen=True, slots=True)
class Setting:
    """Dials and filter, and whether base and untuned are shown the examples."""

    blend: Blend
    examples: bool = False

    @property
    def name(self) -> str:
        """As `(1, 0.75), examples`."""
        return setting_name(self.blend) + (", examples" if self.examples else "")


SETTINGS = (
    *map(
        Setting,
        (
            Blend(),
            Blend(filter=_FLOOR),
            Blend(behaviour=0.75),
            Blend(behaviour=0.75, filter=_FLOOR),
            Blend(behaviour=0.6),
            Blend(behaviour=0.5),
            Blend(knowledge=1.3),
            Blend(filter=Filter(tuned_top_p=0.95)),
            Blend(filter=Filter(base_min_p=0.01)),
        ),
    ),
    *(Setting(Blend(behaviour=behaviour), True) for behaviour in (1.0, 0.75, 0.6, 0.5)),
)
"""What is tried where no dials are given. Of settings that do equally well the first is chosen."""


_SHOWN = ", shown"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a gate does. settings: one is given and used, of several the best on `choosing` is.

    base_system: the message that asks base for the form, where that rival is wanted.  large_tuned: loads the tuned
    large model as the tuned one of a family, where there is one.
    """

    choosing: Sequence[Case]
    reporting: Sequence[Case]
    settings: Sequence[Setting] = SETTINGS
    base_system: str | None = None
    large_tuned: Callable[[], AbstractContextManager[EFT]] | None = None
    max_tokens: int = 256
    judge_timeout: float = 60.0

    def parts(self, shown: bool) -> dict[str, Sequence[Case]]:
        """The prompts of each part of the work. shown: whether there are examples."""
        choosing = self.choosing if len(self.settings) > 1 else ()
        parts = {"choose": choosing, "report": self.reporting}
        if shown:
            parts["choose" + _SHOWN] = choosing if any(setting.examples for setting in self.settings) else ()
            parts["report" + _SHOWN] = self.reporting
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
    chosen: Setting
    replies: dict[str, list[Reply]]
    tried: dict[str, Figures]
    speeds: dict[str, float | None]
    record: dict[str, Any]


def large_tuned_family(family: Family, reference: str) -> Family:
    """A family whose tuned model is the large one: a model, or `lora:` an adapter on base. Raises as `resolve`."""
    return Family("large tuned", family.base, family.base, (Trait("tuned", resolve(reference)),), family.ctx)


def settings_for(eft: EFT, settings: Sequence[Setting]) -> list[Setting]:
    """Those that can be tried: without examples only such as need none."""
    return [setting for setting in settings if eft.examples_tokens or not setting.examples]


def gate(eft: EFT, plan: Plan, run: Run, progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Ask all that the run does not hold yet, and decide. progress: called with prompts done and to do, of now.

    Raises EFTError, with the prompt's line, where a judge fails or a prompt does not fit.
    """
    parts = plan.parts(eft.examples_tokens > 0)
    missing = sum(key(part, case) not in run.done for part, cases in parts.items() for case in cases)
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        progress(count, missing)

    def asked(eft: EFT, part: str, blends: Mapping[str, Blend], **options: Any) -> dict[str, list[Reply]]:
        options |= {"max_tokens": plan.max_tokens, "timeout": plan.judge_timeout}
        return ask(eft, parts[part], blends, run=run, part=part, done=done, **options)

    def asked_both_ways(part: str, settings: Mapping[str, Setting]) -> dict[str, list[Reply]]:
        """Those without examples, then those with them, in the order of the settings."""
        ways = [{name: one.blend for name, one in settings.items() if one.examples is shown} for shown in (False, True)]
        replies = asked(eft, part, ways[0]) if ways[0] else {}
        if ways[1]:
            replies |= asked(eft, part + _SHOWN, ways[1], examples=True)
        return {name: replies[name] for name in settings}

    tried = {setting.name: setting for setting in plan.settings}
    figures = {name: Figures.of(replies) for name, replies in asked_both_ways("choose", tried).items() if replies}
    chosen = max(tried, key=lambda name: figures[name].success.right) if figures else plan.settings[0].name
    systems = {name: Setting(blend) for name, blend in ALONE.items()}
    if eft.examples_tokens:
        systems[SHOWN] = Setting(ALONE["base"], True)
    systems |= {PAPER: Setting(Blend()), CHOSEN: tried[chosen]}
    replies = asked_both_ways("report", systems)
    if plan.base_system is not None:
        replies |= asked(eft, ASKED, {ASKED: ALONE["base"]}, system=plan.base_system)
    if "speeds" not in run.done:
        found: dict[str, float | None] = {}
        for shown in (False, True):
            blends = {name: one.blend for name, one in systems.items() if one.examples is shown}
            found |= speeds(eft, plan.reporting, blends, max_tokens=plan.max_tokens, examples=shown)
        run.add("speeds", found)
    rates = dict(run.done["speeds"])
    if plan.large_tuned is not None:
        with plan.large_tuned() as large:
            replies |= asked(large, LARGE, {LARGE: ALONE["tuned"]})
            if "speed of large tuned" not in run.done:
                own = speeds(large, plan.reporting, {LARGE: ALONE["tuned"]}, max_tokens=plan.max_tokens)
                run.add("speed of large tuned", own)
            rates |= run.done["speed of large tuned"]
    rivals = {name: successes(replies[name]) for name in (*ALONE, SHOWN, ASKED) if name in replies}
    verdict, comparisons = decide(successes(replies[CHOSEN]), rivals)
    record = {
        "verdict": asdict(verdict),
        "chosen": {
            "name": chosen,
            "dials": dials_record(tried[chosen].blend, eft.family),
            "examples": examples_record(eft.family) if tried[chosen].examples else 0,
        },
        "prompts": {"choose": len(parts["choose"]), "report": len(plan.reporting)},
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
