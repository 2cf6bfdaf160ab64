"""What drafts bring: fixed lengths from 0 to 16 against `auto` and `off`, and the large model alone beside them.

    python benchmarks/speculation.py [--family bundled | --f16] [--temperature 0.8] [--docs]

All take turns on the same loaded models: in each round every one of them answers the same questions, in an order that
changes, so that a slow moment of the machine hits all. A ratio is by round. `--f16` takes the large model at F16, made
from the Q4_K_M file by llama.cpp's quantizer where it is not there yet: three gigabytes whose values are those of the
smaller file, for the time that they take. Times are of tokens after the first.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import machine, models, report
from measure.report import Spread, Table

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.engine.quantizer import quantize
from eft_gguf.engine.speculation import Speculation
from eft_gguf.models.family import BUNDLED, Family, family_from_references

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
AUTO, OFF, ALONE = "auto", "off", "base alone, off"
QUESTIONS = Path(__file__).parent / "questions.jsonl"
F16 = models.FOLDER / "qwen2.5-coder-1.5b-instruct-f16.gguf"
NEAR_BEST, NEAR_OFF = 1.05, 1.02
"""How much longer than the best fixed length, and than `off`, `auto` may take."""


@dataclass
class Way:
    """One way to reply, and what it took in each round."""

    speculation: Speculation | None
    blend: Blend = field(default_factory=Blend)
    seconds: list[float] = field(default_factory=list)
    rounds: int = 0
    drafted: int = 0
    checked: int = 0
    accepted: int = 0
    gains: list[float] = field(default_factory=list)

    def row(self, name: str, off: Way, best: Way) -> tuple[str, ...]:
        return (
            name,
            Spread.of(self.seconds).text(2, scale=1e3),
            _ratio(off, self).text(2),
            _ratio(best, self).text(2),
            f"{self.drafted / self.rounds:.2f}" if self.rounds else "",
            f"{self.accepted / self.checked:.2f}" if self.checked else "",
        )


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--f16", action="store_true", help="take the large model of the real triple at F16")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--rounds", type=int, default=6, help="how often each way answers the questions")
    parser.add_argument("--questions", type=int, default=4, help="questions in a round")
    parser.add_argument("--max-tokens", type=int, default=48, help="the longest reply")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="fixed lengths")
    arguments = parser.parse_args()
    family = f16_family() if arguments.f16 else models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    progress = lambda line: print(line, file=sys.stderr)  # noqa: E731
    with EFT(family, threads=arguments.threads, ctx=512, speculate="auto", progress=progress) as eft:
        costs = eft.speculation
        ways = ways_of(eft, arguments.lengths)
        run(eft, ways, questions_for(arguments), arguments)
    name = "Qwen2.5-Coder 1.5B at F16 + 0.5B + adapter" if arguments.f16 else models.family_name(arguments)
    kind = "greedy" if arguments.temperature == 0 else f"temperature {arguments.temperature:g}"
    section = "speculation f16" if arguments.f16 else models.section_of("speculation", arguments)
    section += "" if arguments.temperature == 0 else " drawn"
    tables = [table(ways, f"Drafts, {name}, {kind}", arguments), curve_table(costs)]
    data = {"ways": {name: way.seconds for name, way in ways.items()}, "costs": costs}
    report.publish(section, about, tables, data, as_json=arguments.json, docs=arguments.docs)
    return 0


def ways_of(eft: EFT, lengths: Sequence[int]) -> dict[str, Way]:
    """All ways, on the same models."""
    auto = eft._speculation
    assert auto is not None
    rolls_back = [name not in auto.cannot_roll_back for name in eft.members]
    fixed = {str(length): Way(Speculation(eft._ensemble, length=length, rolls_back=rolls_back)) for length in lengths}
    return {OFF: Way(None), **fixed, AUTO: Way(auto), ALONE: Way(None, Blend(1, 0))}


def run(eft: EFT, ways: dict[str, Way], questions: Sequence[str], arguments: object) -> None:
    """Every way, round by round."""
    rounds, each = arguments.rounds, arguments.questions  # type: ignore[attr-defined]
    names, started = list(ways), time.monotonic()
    for number in range(-1, rounds):  # the first is for warming up
        asked = [questions[(max(0, number) * each + i) % len(questions)] for i in range(1 if number < 0 else each)]
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            answer(eft, ways[name], asked, arguments, seed=number, counted=number >= 0)
        left = (time.monotonic() - started) / (number + 2) * (rounds - number - 1)
        print(f"\rround {number + 1} of {rounds}, {left:.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)


def answer(eft: EFT, way: Way, asked: Sequence[str], arguments: object, *, seed: int, counted: bool) -> None:
    eft._engine._speculation = way.speculation
    seconds, tokens = 0.0, 0
    for place, question in enumerate(asked):
        sampling = Sampling(
            temperature=arguments.temperature,  # type: ignore[attr-defined]
            max_tokens=arguments.max_tokens,  # type: ignore[attr-defined]
            seed=100 * (seed + 1) + place,
        )
        timings = eft.complete([{"role": "user", "content": question}], blend=way.blend, sampling=sampling).timings
        seconds += timings.decode_seconds
        tokens += timings.later_tokens
        if counted:
            way.rounds += timings.rounds
            way.drafted += timings.drafted
            way.checked += timings.checked
            way.accepted += timings.accepted
            way.gains += [timings.gain] if timings.gain else []
    if counted and tokens:
        way.seconds.append(seconds / tokens)


def table(ways: dict[str, Way], title: str, arguments: object) -> Table:
    off, fixed = ways[OFF], [way for name, way in ways.items() if name not in (AUTO, OFF, ALONE)]
    best = min([off, *fixed], key=lambda way: Spread.of(way.seconds).median)
    auto = ways[AUTO]
    near_best, near_off = _ratio(auto, best).median, _ratio(auto, off).median
    estimate = Spread.of(auto.gains).median if auto.gains else 0.0
    note = (
        f"{arguments.rounds} rounds of {arguments.questions} questions. "  # type: ignore[attr-defined]
        f"`auto` takes {near_best:.2f} times as long as the best fixed length (bound {NEAR_BEST}: "
        f"{report.verdict(near_best, NEAR_BEST)}), {near_off:.2f} times as long as `off` (bound {NEAR_OFF}: "
        f"{report.verdict(near_off, NEAR_OFF)}), and {_ratio(auto, ways[ALONE]).median:.2f} times as long as the large "
        f"model alone; `off` takes {_ratio(off, ways[ALONE]).median:.2f} times as long as that. "
        f"Its own estimate of its gain over `off`: {estimate:.2f}."
    )
    columns = ("drafts", "ms a token, median (quartiles)", "speed ÷ off", "speed ÷ best fixed", "mean length", "taken")
    return Table(title, columns, [way.row(name, off, best) for name, way in ways.items()], note)


def curve_table(costs: dict[str, object]) -> Table:
    curves = costs["decode_milliseconds"]
    assert isinstance(curves, dict)
    sizes = [size for size in (1, 2, 3, 4, 6, 8, 12, 17) if size <= len(next(iter(curves.values())))]
    rows = [(name, *(f"{curve[size - 1]:.2f}" for size in sizes)) for name, curve in curves.items()]
    besides = costs["step_milliseconds"], costs["sequence_milliseconds"], costs["draft_milliseconds"]
    note = "Besides decoding: {} ms a step, {} ms for each sequence, {} ms more for each draft.".format(*besides)
    return Table("What decodes cost, as `auto` measured it, ms", ("tokens", *map(str, sizes)), rows, note)


def questions_for(arguments: object) -> list[str]:
    if getattr(arguments, "family", None) == "bundled":
        lines = (BUNDLED.parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["messages"][-1]["content"] for line in lines[:: max(1, len(lines) // 200)]]
    return [json.loads(line)["question"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def f16_family() -> Family:
    """The real triple with its base at F16."""
    if models.real_family() is None:
        print(f"skipped: the models are not in {models.FOLDER}", file=sys.stderr)
        raise SystemExit(0)
    if not F16.exists():
        aside = F16.with_name(f".{F16.name}")
        print(f"making {F16.name}, 3 GB", file=sys.stderr)
        quantize(models.BASE, aside, "F16", requantize=True, progress=lambda what, share: None)
        aside.rename(F16)
    return family_from_references(F16, models.UNTUNED, f"lora:{models.ADAPTER}")


def _ratio(above: Way, below: Way) -> Spread:
    return Spread.of([a / b for a, b in zip(above.seconds, below.seconds, strict=True)])


if __name__ == "__main__":
    sys.exit(main())
