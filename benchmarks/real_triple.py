"""What the blend of real models knows, and how it says it, beside each model alone: 60 questions, greedy.

    python benchmarks/real_triple.py [--limit 10]

The base is Qwen2.5-Coder 1.5B, untuned the 0.5B, tuned the same 0.5B with an adapter that teaches one behaviour: reply
with exactly two lines, `Answer: …` and `Confidence: low|medium|high`. Each system is the same opened family with other
dials. A fact is right if an accepted answer stands in the reply as a word; the format is kept if the reply is these two
lines and nothing else.
"""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import machine, models, report

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.evaluation.statistics import wilson

QUESTIONS = Path(__file__).parent / "questions.jsonl"
SYSTEMS = {
    "base alone": Blend(1, 0),
    "untuned alone": Blend(0, 0),
    "tuned alone": Blend(0, 1),
    "blend (1, 1)": Blend(1, 1),
}
TWO_LINES = re.compile(r"Answer: \S.*\nConfidence: (low|medium|high)")


@dataclass
class Result:
    """What a system said to each question, and how long a token took after the first."""

    right: list[bool] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @property
    def milliseconds_per_token(self) -> float:
        return 1000 * self.seconds / self.tokens if self.tokens else 0.0


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--limit", type=int, help="ask only the first so many questions")
    parser.add_argument("--max-tokens", type=int, default=64, help="the longest reply")
    parser.add_argument("--show", action="store_true", help="print what the blend got wrong")
    arguments = parser.parse_args()
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()][: arguments.limit]
    machine.warn_if_busy()
    about = machine.describe()
    with models.open_family(arguments) as eft:
        results = ask(eft, questions, Sampling(temperature=0, max_tokens=arguments.max_tokens))
    table = report.Table(
        f"{len(questions)} questions to the real triple, greedy",
        ("system", "facts right", "format kept", "ms a token"),
        [
            (name, share(result.right), share(result.kept), f"{result.milliseconds_per_token:.1f}")
            for name, result in results.items()
        ],
        "Counts, per cent, and Wilson's 95 % intervals. Milliseconds per token after the first.",
    )
    report.publish("real_triple", about, [table], {"systems": results}, as_json=arguments.json, docs=arguments.docs)
    if arguments.show:
        for question, reply, right, kept in zip(questions, *_blend(results), strict=True):
            if not (right and kept):
                print(f"\n{question['question']}  accepted: {', '.join(question['answers'])}\n{reply}")
    return 0


def ask(eft: EFT, questions: Sequence[dict[str, list[str]]], sampling: Sampling) -> dict[str, Result]:
    """Every question to every system, with the time left on stderr."""
    results = {name: Result() for name in SYSTEMS}
    started = time.monotonic()
    for number, entry in enumerate(questions):
        for name, blend in SYSTEMS.items():
            reply = eft.complete([{"role": "user", "content": str(entry["question"])}], blend=blend, sampling=sampling)
            result = results[name]
            result.right.append(is_right(reply.text, entry["answers"]))
            result.kept.append(TWO_LINES.fullmatch(reply.text) is not None)
            result.replies.append(reply.text)
            result.seconds += reply.timings.decode_seconds
            result.tokens += reply.timings.later_tokens
        left = (time.monotonic() - started) / (number + 1) * (len(questions) - number - 1)
        print(f"\r{number + 1} of {len(questions)} questions, {left:.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the reply as a word of its own, accents and capitals aside."""
    said = _plain(reply)
    return any(re.search(rf"(?<!\w){re.escape(_plain(answer))}(?!\w)", said) for answer in answers)


def share(outcomes: Sequence[bool]) -> str:
    """As `51 of 60 = 85.0 % (74 – 92)`."""
    right, asked = sum(outcomes), len(outcomes)
    low, high = (100 * bound for bound in wilson(right, asked))
    return f"{right} of {asked} = {100 * right / asked:.1f} % ({low:.0f} – {high:.0f})"


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _blend(results: dict[str, Result]) -> tuple[list[str], list[bool], list[bool]]:
    result = results["blend (1, 1)"]
    return result.replies, result.right, result.kept


if __name__ == "__main__":
    sys.exit(main())
