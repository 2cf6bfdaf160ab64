"""Which filter, how much `behaviour`? 200 questions to the real triple under many settings, greedy.

    python benchmarks/steering_study.py --run study.jsonl [--limit 20] [--docs]

The models are those of real_triple.py: the adapter teaches one behaviour, a reply of exactly two lines. None of the
questions is one of its 60. A reply is good if the fact is right and the form is kept: the two lines, nothing else, and
the turn ended. On one half of the questions a setting is chosen: most good replies, then most in the form, then the
first of SETTINGS. The other half tells what it is worth. `--run` keeps the replies, so that a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from measure import machine, models, report

from eft_gguf import EFT, Blend, Filter
from eft_gguf.evaluation.cases import PARTS, Case, parted, read_cases
from eft_gguf.evaluation.gate import setting_name
from eft_gguf.evaluation.machine import versions
from eft_gguf.evaluation.marks import mark
from eft_gguf.evaluation.record import family_record, file_record
from eft_gguf.evaluation.replies import Figures, Reply, marks_of, successes
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import Fraction, gap_closed, mcnemar
from eft_gguf.models.chat import PLAIN_TEMPLATE

QUESTIONS = Path(__file__).parent / "steering_questions.jsonl"
PAGE = report.DOCS.with_name("steering.md")
FORM = r"Answer: \S.*\nConfidence: (low|medium|high)"
BASE, TUNED = Blend(1, 0), Blend(0, 1)
ALONE = {"base alone": BASE, "untuned alone": Blend(0, 0), "tuned alone": TUNED}
PLAIN = setting_name(Blend())
SETTINGS = (
    Blend(),
    *(Blend(behaviour=behaviour) for behaviour in (0.5, 0.6, 0.75, 1.25, 1.5)),
    *(Blend(filter=Filter(untuned_floor=floor)) for floor in (-5.0, -7.0, -9.0)),
    Blend(filter=Filter(tuned_top_p=0.95)),
    *(Blend(behaviour=0.75, filter=Filter(untuned_floor=floor)) for floor in (-5.0, -7.0)),
    Blend(filter=Filter(tuned_top_p=0.95, untuned_floor=-7.0)),
)
"""From the plain to the particular."""
BY_BASE = (
    *(Blend(filter=Filter(base_min_p=p)) for p in (0.0001, 0.001, 0.01, 0.05)),
    Blend(filter=Filter(base_top_p=0.99)),
    Blend(filter=Filter(base_min_p=0.0001, untuned_floor=-7.0)),
)
"""What rules out by the base. Replies are long where the form is lost, so fewer questions must do for these."""
FEW = 24
TOLD = """<|im_start|>system
Reply with exactly two lines. The first is "Answer: " and a short answer. The second is "Confidence: " and low, medium \
or high.<|im_end|>
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant{{ '\n' }}"""
"""What base and untuned read instead of the tuned model's template: `bases_template` in a family file."""
PROMPTED = (BASE, Blend(), Blend(behaviour=0.75), Blend(filter=Filter(untuned_floor=-7.0)))
"""Settings tried with other prompts for base and untuned: TOLD on the second half, the plain one on FEW."""


def main() -> int:
    parser = models.parser(__doc__, page="docs/steering.md")
    parser.add_argument("--run", type=Path, help="the file in which the replies are kept")
    parser.add_argument("--limit", type=int, help="ask only so many questions, half of them for choosing")
    parser.add_argument("--max-tokens", type=int, default=24, help="the longest reply")
    arguments = parser.parse_args()
    about = machine.describe()
    blends = {**ALONE, **{setting_name(blend): blend for blend in SETTINGS}}
    by_base = {name: blends[name] for name in (*ALONE, PLAIN)} | {setting_name(blend): blend for blend in BY_BASE}
    told = {f"{setting_name(blend)}, bases told": blend for blend in PROMPTED}
    plain = {f"{setting_name(blend)}, bases plain": blend for blend in PROMPTED}
    inputs = {
        "questions": file_record(QUESTIONS),
        "family": family_record(models.chosen_family(arguments)),
        "max_tokens": arguments.max_tokens,
        "versions": versions(),
    }
    run = Run(arguments.run, "steering study", inputs, about)
    halves, few = halves_of(arguments.limit), [*itertools.chain(*halves_of(min(arguments.limit or FEW, FEW)).values())]
    everything = [*itertools.chain(*halves.values())]
    for cases, template, settings in (
        (everything, None, blends),
        (halves["report"], TOLD, told),
        (few, None, by_base),
        (few, PLAIN_TEMPLATE, plain),
    ):
        to_do = missing(cases, settings, run)
        if to_do:
            family = replace(models.chosen_family(arguments), bases_template=template)
            with EFT(family, ctx=512, threads=arguments.threads) as eft:
                ask(eft, to_do, settings, run, arguments.max_tokens)
    choosing, reporting = found(run, halves["choose"], blends), found(run, halves["report"], blends | told)
    best = max((name for name in blends if name not in ALONE), key=lambda name: good(choosing[name]))
    filtered = found(run, few, [*by_base, *plain])
    parts = {"choose": choosing, "report": reporting, "few": filtered}
    data = {
        "chosen": best,
        "figures": {part: {name: one(own) for name, own in of.items()} for part, of in parts.items()},
        "replies": {part: {name: [*map(asdict, own)] for name, own in of.items()} for part, of in parts.items()},
    }
    tables = [
        plain_table(f"{len(halves['choose'])} questions for choosing", choosing, best),
        reporting_table(reporting, best),
        plain_table(f"{len(few)} of both, and what rules out by the base, or gives it a plain prompt", filtered),
    ]
    report.publish("study", about, tables, data, as_json=arguments.json, docs=arguments.docs, page=PAGE)
    return 0


def halves_of(limit: int | None) -> dict[str, list[Case]]:
    """The questions of each half, of a smaller number those that are in every larger one."""
    return dict(zip(PARTS, parted(read_cases(QUESTIONS, regex=FORM), 0, limit), strict=True))


def found(run: Run, cases: Sequence[Case], names: Iterable[str]) -> dict[str, list[Reply]]:
    """The replies that a run holds, by setting."""
    return {name: [Reply(**run.done[_key(case, name)]) for case in cases] for name in names}


def missing(cases: Sequence[Case], settings: Iterable[str], run: Run) -> list[tuple[Case, list[str]]]:
    """What the run does not hold yet: cases with settings. Those that are added later cost themselves only."""
    to_do = [(case, [name for name in settings if _key(case, name) not in run.done]) for case in cases]
    return [(case, names) for case, names in to_do if names]


def ask(
    eft: EFT, to_do: Sequence[tuple[Case, list[str]]], settings: Mapping[str, Blend], run: Run, max_tokens: int
) -> None:
    """Put each case under its settings, with the time left on stderr."""
    started = time.monotonic()
    for done, (case, names) in enumerate(to_do, 1):
        completions = eft.greedy_replies(case.messages, [settings[name] for name in names], max_tokens=max_tokens)
        for name, completion in zip(names, completions, strict=True):
            finished = completion.finish_reason == "stop"
            marks = mark(case, completion.text, finished)
            reply = Reply(completion.text, len(completion.tokens), finished, 0.0, marks.accuracy, marks.form)
            run.add(_key(case, name), asdict(reply))
        left = (time.monotonic() - started) / done * (len(to_do) - done) / 60
        print(f"\r{done} of {len(to_do)} questions, {left:.0f} min left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _key(case: Case, setting: str) -> str:
    return f"line {case.line}: {setting}"


def good(replies: Sequence[Reply]) -> tuple[int, int]:
    """How many are right in both respects, then how many keep the form."""
    return sum(successes(replies)), sum(reply.form is True for reply in replies)


def one(replies: Sequence[Reply]) -> dict[str, object]:
    """The figures of a setting, for JSON."""
    figures = Figures.of(replies)
    return {name: getattr(figures, name).as_dict() for name in ("accuracy", "form", "success")}


def plain_table(title: str, replies: Mapping[str, Sequence[Reply]], best: str = "") -> report.Table:
    rows = [(_name(name, best), *_shares(own)) for name, own in replies.items()]
    columns = ("knowledge, behaviour, filter", "facts right", "form kept", "both")
    return report.Table(title, columns, rows, "Per cent, with Wilson's 95 % interval.")


def reporting_table(replies: Mapping[str, Sequence[Reply]], best: str) -> report.Table:
    plain = successes(replies[PLAIN])
    rows = []
    for name, own in replies.items():
        both = successes(own)
        gained = sum(now and not before for now, before in zip(both, plain, strict=True))
        lost = sum(before and not now for now, before in zip(both, plain, strict=True))
        closed = gap_closed(*(marks_of(of, "accuracy") for of in (replies["tuned alone"], own, replies["base alone"])))
        against = ("", "") if name == PLAIN else (f"+{gained} −{lost}", f"{mcnemar(gained, lost):.2g}")
        rows.append((_name(name, best), *_shares(own), _way(closed), *against))
    count = len(next(iter(replies.values())))
    return report.Table(
        f"{count} other questions",
        ("knowledge, behaviour, filter", "facts right", "form kept", "both", "of the way", f"against {PLAIN}", "p"),
        rows,
        "Of the way: how much of the facts that base alone has right and tuned alone has not is won, with the interval "
        f"of a bootstrap over the questions. Against {PLAIN}: replies that are good in both respects here only, and "
        "there only; p is that of McNemar's exact test.",
    )


def _shares(replies: Sequence[Reply]) -> tuple[str, str, str]:
    figures = Figures.of(replies)
    return figures.accuracy.text(), figures.form.text(), figures.success.text()


def _name(name: str, best: str) -> str:
    return f"{name}, the chosen one" if name == best else name


def _way(closed: Fraction | None) -> str:
    return "–" if closed is None else f"{100 * closed.value:.0f} ({100 * closed.low:.0f}–{100 * closed.high:.0f})"


if __name__ == "__main__":
    sys.exit(main())
