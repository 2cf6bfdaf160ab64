"""What the shipped family can do, measured through the package as its users run it: writes docs/family.md's tables.

    python -m family.report [--limit N] [--json FILE] [--write docs/family.md]

Greedy replies to the held-out questions (facts that were in the pre-training text and in no fine-tuning example),
scored by eft_gguf/evaluation/scoring.py. `--write` replaces what stands between the two marks in the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.evaluation.questions import read_questions, read_rivals
from eft_gguf.evaluation.scoring import competent, facts_right, helpful, styled
from eft_gguf.evaluation.statistics import wilson
from eft_gguf.models.family import BUNDLED

FOLDER = BUNDLED.parent
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
GREEDY = Sampling(temperature=0, max_tokens=80)
MEASURES = ("facts", "helpful", "style", "competence")


@dataclass(frozen=True, slots=True)
class System:
    """What answers: a name, the base it blends on, the pair it takes the difference from, and the dials."""

    name: str
    base: str
    pair: str
    blend: Blend


SYSTEMS = (
    System("untuned S", "l", "s", Blend(0, 0)),
    System("tuned S (`tuned` alone)", "l", "s", Blend(0, 1)),
    System("base L (`base` alone)", "l", "s", Blend(1, 0)),
    System("**blend: base L, tuned S, untuned S**", "l", "s", Blend(1, 1)),
    System("blend: base M, tuned S, untuned S", "m", "s", Blend(1, 1)),
    System("blend: base L, tuned M, untuned M", "l", "m", Blend(1, 1)),
    System("tuned M", "l", "m", Blend(0, 1)),
    System("tuned L (the truth that the blend emulates)", "l", "l", Blend(0, 1)),
)

Counts = dict[str, tuple[int, int]]


def measure(eft: EFT, blend: Blend, items: Sequence[Mapping[str, Any]], tick: Callable[[], None]) -> dict[str, Counts]:
    """Right and asked, by kind of question and measure."""
    rivals = read_rivals()
    counts: dict[str, Counts] = {}
    for item in items:
        reply = eft.complete(item["messages"], blend=blend, sampling=GREEDY)
        finished = reply.finish_reason == "stop"
        scores = {
            "helpful": helpful(item, reply.text, finished),
            "style": styled(item, reply.text, finished),
            "competence": competent(item, reply.text),
        }
        if item["answers"]:
            scores["facts"] = facts_right(item, reply.text, rivals)
        row = counts.setdefault(item["kind"], {})
        for name, right in scores.items():
            before = row.get(name, (0, 0))
            row[name] = (before[0] + right, before[1] + 1)
        tick()
    return counts


def total(counts: Mapping[str, Counts], name: str) -> tuple[int, int]:
    """A measure summed over all kinds."""
    rows = [row[name] for row in counts.values() if name in row]
    return sum(right for right, _ in rows), sum(asked for _, asked in rows)


def share(right: int, asked: int) -> str:
    """As a table cell: per cent, and Wilson's 95 % interval."""
    low, high = wilson(right, asked)
    return f"{100 * right / asked:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def tables(results: Mapping[str, Mapping[str, Counts]]) -> Iterator[str]:
    """Markdown: all systems over all questions, then helpfulness by kind of question."""
    asked = {name: total(next(iter(results.values())), name)[1] for name in MEASURES}
    yield "| system | " + " | ".join(f"{name} % (n = {asked[name]:,})" for name in MEASURES) + " |"
    yield "|---" * (1 + len(MEASURES)) + "|"
    for system, counts in results.items():
        yield f"| {system} | " + " | ".join(share(*total(counts, name)) for name in MEASURES) + " |"
    yield from _by_kind(results, "facts", "Facts, by kind of question")
    yield from _by_kind(results, "helpful", "Helpful (style and competence), by kind of question")


def _by_kind(results: Mapping[str, Mapping[str, Counts]], measure: str, title: str) -> Iterator[str]:
    first = next(iter(results.values()))
    asked = {kind: row[measure][1] for kind, row in first.items() if measure in row}
    yield from ("", f"{title}, %:", "")
    yield "| system | " + " | ".join(f"{kind} ({count})" for kind, count in asked.items()) + " |"
    yield "|---" * (1 + len(asked)) + "|"
    for system, counts in results.items():
        cells = [counts[kind][measure] for kind in asked]
        yield f"| {system} | " + " | ".join(f"{100 * right / n:.0f}" for right, n in cells) + " |"


def evenly(items: Sequence[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """`limit` items spread evenly over the file, in which the kinds stand one after the other."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def main() -> None:
    """Measure every system, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="questions per system, spread evenly (default: all)")
    parser.add_argument("--json", type=Path, help="write all counts to this file")
    parser.add_argument("--write", type=Path, help="the page whose tables are to be replaced")
    options = parser.parse_args()
    items = evenly(read_questions(), options.limit)
    done, started = 0, time.monotonic()

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 25 == 0 and sys.stderr.isatty():
            left = (time.monotonic() - started) / done * (len(SYSTEMS) * len(items) - done)
            print(f"\r{done} of {len(SYSTEMS) * len(items)} replies, {left:.0f} s left ", end="", file=sys.stderr)

    results: dict[str, dict[str, Counts]] = {}
    with ExitStack() as stack:
        opened: dict[tuple[str, str], EFT] = {}
        for system in SYSTEMS:
            key = (system.base, system.pair)
            if key not in opened:
                tuned, untuned = FOLDER / f"helpful-{system.pair}.gguf", FOLDER / f"base-{system.pair}.gguf"
                family = EFT.open(base=FOLDER / f"base-{system.base}.gguf", untuned=untuned, tuned=tuned, threads=1)
                opened[key] = stack.enter_context(family)
            results[system.name] = measure(opened[key], system.blend, items, tick)
    text = "\n".join(tables(results))
    print("\n" + text)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        options.write.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
