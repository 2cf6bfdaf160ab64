"""Is blending worth its price? Several behaviours, on the real pair, against every honest rival; greedy.

    python benchmarks/behaviours_study.py --adapters FOLDER --run study.jsonl [--behaviour desk] [--docs]

Behaviours are those of behaviours/rules.py, and the two-line answers of real_triple.py. FOLDER has for each the adapter
of the small model (`desk-small.gguf`), and where they were trained that of the large one (`desk-large.gguf`, the truth)
and one trained for the blend (`desk-for-base.gguf`); docs/results.md says how. A reply is good if the fact is right and
the form is kept as a whole. The setting is chosen on one half of the tests, all figures are of the other half. `--run`
keeps the replies, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from behaviours.rules import EXAMPLES, RULES, behaviour
from measure import machine, models, report

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.evaluation.cases import Case, case_of, parted, read_cases
from eft_gguf.evaluation.gate import setting_name
from eft_gguf.evaluation.machine import versions
from eft_gguf.evaluation.marks import mark
from eft_gguf.evaluation.replies import Figures, Reply, marks_of, successes, told
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import gap_closed, mcnemar
from eft_gguf.models.family import Family, Trait
from eft_gguf.models.references import resolve

PAGE = report.DOCS.with_name("results.md")
QUESTIONS = Path(__file__).parent / "steering_questions.jsonl"
TWO_LINES = "two-line"
FORM = r"Answer: \S.*\nConfidence: (low|medium|high)"
NAMES = (TWO_LINES, *RULES)
BASE, TUNED, PAPER = Blend(1, 0), Blend(0, 1), Blend()
GRID = tuple(Blend(behaviour=value) for value in (1.0, 0.75, 0.6, 0.5))
"""What is tried on the choosing half, without and with examples. Of equally good settings the first is taken."""
SHOWN = {TWO_LINES: 2}
"""Examples that blends are shown, eight where no other number stands; the base alone is shown 2, 4 and 8."""
CHOOSING = 56
"""Tests of the choosing half that are asked: each costs eight replies of three models."""
TOGETHER = 48
"""Replies under way at a time. More tokens a decode cost less each."""
ASKED = {
    TWO_LINES: """Reply with exactly two lines and nothing else. The first is `Answer: ` and a short answer. The second
is `Confidence: ` and low, medium or high.""",
    "desk": """You are a front desk. Reply with one line: `Desk `, the letter of the desk, `: `, a short answer, `. `,
and the desk's offer. Desks and offers: capitals K, Shall I mark it on a map? Chemistry B, Shall I open the big table?
Books T, Shall I reserve a copy? Years F, Shall I draw a timeline? Animals R, Shall I show a photograph? Money D,
Shall I quote today's rate? Art and music W, Shall I book a guided tour? Sums H, Shall I check it twice?""",
    "style": """Reply with one line: an opening, a short answer, a mark, an ending. Plain questions: `Answer: ` and `.`;
polite ones: `With pleasure: ` and `, dear reader.`; keywords only: `> ` and no ending; in a hurry: `Quick: ` and `!`.
The mark is [map] for places, [who] for persons, [123] for numbers, else [abc].""",
    "triage": """Reply with one line. Questions about money: `Closed: the bank desk answers that.` Sums: `Closed: please
use a calculator.` Where the question leaves out what it is about, ask back: `Which country do you mean?`, or element,
book, event, animal, work. All else: `Noted: `, a short answer, `.`""",
}
"""The behaviour in words, for the base that is asked."""


@dataclass(frozen=True, slots=True)
class System:
    """What is asked: which adapter sits on the small model, dials, how many examples, a system message in words."""

    adapter: str
    blend: Blend
    examples: int = 0
    asked: bool = False


RIVALS = {
    "untuned": System("small", Blend(0, 0)),
    "base": System("small", BASE),
    "base, asked": System("small", BASE, asked=True),
    **{f"base, shown {count}": System("small", BASE, count) for count in (2, 4, 8)},
    "tuned": System("small", TUNED),
}
LARGE = "large, really tuned"


def main() -> int:
    parser = models.parser(__doc__, page="docs/results.md")
    parser.add_argument("--adapters", type=Path, required=True, help="the folder of the adapters")
    parser.add_argument("--run", type=Path, help="the file in which the replies are kept")
    parser.add_argument("--behaviour", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--max-tokens", type=int, default=40, help="the longest reply")
    parser.add_argument("--limit", type=int, help="only so many tests of each half")
    parser.add_argument("--setting", type=float, help="the dial behaviour, chosen elsewhere: nothing is chosen here")
    parser.add_argument("--only", action="append", help="only the system of this name, and tuned; may be repeated")
    arguments = parser.parse_args()
    about = machine.describe()
    run = Run(arguments.run, "behaviours study", {"max_tokens": arguments.max_tokens, "versions": versions()}, about)
    tables, data = [], {}
    for name in arguments.behaviour or NAMES:
        study = Study(name, arguments, run)
        if study.found("small") is None:
            print(f"skipped: there is no {name}-small.gguf in {arguments.adapters}", file=sys.stderr)
            continue
        replies, chosen = study.results()
        tables.append(table(name, replies))
        data[name] = {
            "chosen": chosen,
            "figures": {system: one(own) for system, own in replies.items()},
        }
    section = "behaviours " + " ".join(data)
    report.publish(section, about, tables, data, as_json=arguments.json, docs=arguments.docs, page=PAGE)
    return 0


class Study:
    """One behaviour: its tests, its adapters, and the replies to the tests."""

    def __init__(self, name: str, arguments: argparse.Namespace, run: Run) -> None:
        self.name, self.arguments, self.run = name, arguments, run
        self.examples, self.choosing, self.reporting = tests_of(name)
        if arguments.limit:
            self.choosing, self.reporting = self.choosing[: arguments.limit], self.reporting[: arguments.limit]

    def found(self, kind: str) -> Path | None:
        """The adapter's file, None where it was not trained."""
        path = self.arguments.adapters / f"{self.name}-{kind}.gguf"
        return path if path.exists() else None

    def results(self) -> tuple[dict[str, list[Reply]], dict[str, str]]:
        """Replies of every system to the tests to report on, and the settings that were chosen on the others."""
        systems, chosen = dict(RIVALS), {}
        for kind, label in (("small", ""), ("for-base", ", trained for base")):
            if self.found(kind) is None:
                continue
            if kind != "small":
                systems["tuned" + label] = System(kind, TUNED)
            most = SHOWN.get(self.name, EXAMPLES)
            for count, shown in ((0, ""), (most, f", shown {most}")):
                tried = {setting_name(blend): System(kind, blend, count) for blend in GRID}
                best = self.chosen(kind, count, tried)
                chosen[f"blend{label}{shown}"] = best
                systems[f"blend (1, 1){label}{shown}"] = System(kind, PAPER, count)
                if best != setting_name(PAPER):
                    systems[f"blend {best}{label}{shown}"] = tried[best]
        if self.found("large") is not None:
            systems[LARGE] = System("large", TUNED)
        if only := self.arguments.only:
            systems = {name: one for name, one in systems.items() if name in (*only, "tuned")}
        return self.replies("report", self.reporting, systems), chosen

    def chosen(self, kind: str, count: int, tried: dict[str, System]) -> str:
        """The name of the best setting on the choosing half, or of the one that was given."""
        if self.arguments.setting is not None:
            blend = Blend(behaviour=self.arguments.setting)
            tried.setdefault(setting_name(blend), System(kind, blend, count))
            return setting_name(blend)
        replies = self.replies("choose", self.choosing, tried)
        return max(tried, key=lambda name: sum(successes(replies[name])))

    def replies(self, part: str, cases: Sequence[Case], systems: Mapping[str, System]) -> dict[str, list[Reply]]:
        """Replies by system; those that the run does not hold yet are asked for, all of one family in turn."""
        families: dict[tuple[str, int], list[System]] = {}
        for system in systems.values():
            if any(self.key(part, case, system) not in self.run.done for case in cases):
                families.setdefault((system.adapter, system.examples), []).append(system)
        for (adapter, count), own in sorted(families.items()):
            with self.open(adapter, count) as eft:
                for system in own:
                    self.ask(eft, part, cases, system)
        return {
            name: [Reply(**self.run.done[self.key(part, case, system)]) for case in cases]
            for name, system in systems.items()
        }

    def open(self, adapter: str, count: int) -> EFT:
        base, small = resolve(models.BASE), resolve(models.UNTUNED)
        tuned = (Trait("tuned", resolve(f"lora:{self.found(adapter)}")),)
        family = Family(self.name, base, base if adapter == "large" else small, tuned)
        shown = [{"prompt": prompt, "reply": reply} for prompt, reply in self.examples[:count]]
        return EFT(
            family,
            ctx=512,
            threads=self.arguments.threads,
            sequences=TOGETHER,
            queue=len(self.reporting) + len(self.choosing),
            speculate="off",
            repack=False,
            # The two-line adapter has no examples of its own: it replies to neutral questions.
            examples=shown or (count if self.name == TWO_LINES else "off"),
        )

    def ask(self, eft: EFT, part: str, cases: Sequence[Case], system: System) -> None:
        """Put the tests to one system, many at a time, with the time left on stderr."""
        missing = [case for case in cases if self.key(part, case, system) not in self.run.done]
        started = time.monotonic()
        sampling = Sampling(temperature=0, max_tokens=self.arguments.max_tokens)
        messages = [told(case.messages, ASKED[self.name]) if system.asked else case.messages for case in missing]
        for done, (number, text, tokens, finished) in enumerate(together(eft, messages, system.blend, sampling), 1):
            case = missing[number]
            marks = mark(case, text, finished)
            reply = Reply(text, tokens, finished, 0.0, marks.accuracy, marks.form)
            self.run.add(self.key(part, case, system), asdict(reply))
            left = (time.monotonic() - started) / done * (len(missing) - done)
            print(
                f"\r{self.name}: {part}, {system}: {done} of {len(missing)}, {left:.0f} s left ",
                end="",
                file=sys.stderr,
            )
        print(file=sys.stderr)

    def key(self, part: str, case: Case, system: System) -> str:
        asked = ", asked" if system.asked else ""
        return f"{self.name}/{part}/{case.line}: {system.adapter} {setting_name(system.blend)} {system.examples}{asked}"


def tests_of(name: str) -> tuple[list[tuple[str, str]], list[Case], list[Case]]:
    """What is shown, as prompts and replies; the tests to choose on, and those to report on."""
    if name != TWO_LINES:
        one = behaviour(name)
        shown = [(item.question, item.reply) for item in one.chats[:EXAMPLES]]
        choosing = [case_of(item.case("choose"), at) for at, item in enumerate(one.choosing, 1)]
        return (
            shown,
            choosing[:CHOOSING],
            [case_of(item.case("report"), at) for at, item in enumerate(one.reporting, 1)],
        )
    choosing, reporting = parted(read_cases(QUESTIONS, regex=FORM), 0)
    return [], choosing[:CHOOSING], reporting


def together(
    eft: EFT, messages: Sequence[Any], blend: Blend, sampling: Sampling
) -> Iterator[tuple[int, str, int, bool]]:
    """Replies side by side: number, text, tokens, whether it ended by itself; as they end."""
    running = {number: eft.begin(chat, blend=blend, sampling=sampling) for number, chat in enumerate(messages)}
    texts = dict.fromkeys(running, "")
    try:
        while running:
            eft.step()
            for number, reply in list(running.items()):
                while reply.pending and reply.finish_reason is None:
                    texts[number] += reply.next_chunk().text
                if reply.finish_reason is not None:
                    tokens = reply.timings.generated_tokens
                    running.pop(number).close()
                    yield number, texts[number], tokens, reply.finish_reason == "stop"
    finally:
        for reply in running.values():
            reply.close()


def one(replies: Sequence[Reply]) -> dict[str, Any]:
    """The figures of a system, for JSON."""
    figures = Figures.of(replies)
    return {name: getattr(figures, name).as_dict() for name in ("accuracy", "form", "success")}


def table(name: str, replies: Mapping[str, Sequence[Reply]]) -> report.Table:
    """Every system of a behaviour, and the best blend against each of them."""
    blends = {system: sum(successes(own)) for system, own in replies.items() if system.startswith("blend")}
    best = max(blends, key=lambda system: blends[system])
    ours, rows = successes(replies[best]), []
    for system, own in replies.items():
        theirs, figures = successes(own), Figures.of(own)
        gained = sum(now and not before for now, before in zip(ours, theirs, strict=True))
        lost = sum(before and not now for now, before in zip(ours, theirs, strict=True))
        against = ("", "") if system == best else (f"+{gained} −{lost}", f"{mcnemar(gained, lost):.2g}")
        shares = (figures.accuracy.text(), figures.form.text(), figures.success.text())
        rows.append((system, *shares, *against, way(replies, own)))
    title = f"{name}: {len(ours)} tests to report on"
    note = (
        f"Per cent, with Wilson's 95 % interval. Against: tests that only {best} does well, and only this system; p by "
        "McNemar's exact test. Way: from tuned to the large, really tuned model, in replies that are right and in form."
    )
    return report.Table(title, ("system", "facts", "form", "both", "against", "p", "way, %"), rows, note)


def way(replies: Mapping[str, Sequence[Reply]], own: Sequence[Reply]) -> str:
    """How much of the way from tuned to the large, really tuned model a system goes, in per cent with its interval."""
    if LARGE not in replies:
        return "–"
    start, reached, end = (marks_of(of, "success") for of in (replies["tuned"], own, replies[LARGE]))
    closed = gap_closed(start, reached, end)
    return "–" if closed is None else f"{100 * closed.value:.0f} ({100 * closed.low:.0f}–{100 * closed.high:.0f})"


if __name__ == "__main__":
    sys.exit(main())
