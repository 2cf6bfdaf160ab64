"""Does the tenth turn of a chat start as fast as the second?

    python benchmarks/turns.py [--json | --docs]

Two conversations are in the cache, one of a single turn and one of nine. The next turn of each, the same question, is
timed up to its first token, in turn and again and again; what it read is then dropped from the cache. Beside each, the
bare decodes of the same tokens in the same place, for attention to a longer text costs llama.cpp itself more. At last
the tenth turn with nothing in the cache.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from measure import machine, models
from measure.report import Spread, Table, publish
from measure.steps import used

from eft_gguf import EFT, Sampling
from eft_gguf.engine.ensemble import Part
from eft_gguf.engine.slots import Slot

EARLY, LATE = 2, 10
CTX = 1024
REPLY = 24
QUESTION = "And what is the largest town in the country to the north of that one?"
BOUND = 1.1
"""The tenth turn's start ÷ its bare decodes may be so many times the second's."""


@dataclass
class Start:
    """A turn's start: prompt tokens, those read anew, seconds of each try, and of the bare decodes beside it."""

    prompt: int
    read: int
    seconds: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def by_token(self) -> list[float]:
        return [seconds / self.read for seconds in self.seconds]

    def overhead(self) -> list[float]:
        return [seconds / bare for seconds, bare in zip(self.seconds, self.bare, strict=True)]


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=9, help="how often each turn is timed (default: 9)")
    arguments = parser.parse_args()
    family = models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    ctx = min(CTX, family.ctx or CTX) if arguments.family is None else None
    with models.open_family(arguments, ctx=ctx, sequences=3) as eft:
        starts = measure(eft, arguments.pairs)
    second, tenth = starts["second"], starts["tenth"]
    by_token = Spread.of([b / a for a, b in zip(second.by_token(), tenth.by_token(), strict=True)])
    ratio = Spread.of([b / a for a, b in zip(second.overhead(), tenth.overhead(), strict=True)])
    name = models.family_name(arguments)
    section = models.section_of("turns", arguments)
    data = {"starts": starts, "by_token": by_token, "ratio": ratio}
    publish(
        section, about, [turn_table(starts, by_token, ratio, name)], data, as_json=arguments.json, docs=arguments.docs
    )
    return 0 if ratio.median <= BOUND else 1


def measure(eft: EFT, pairs: int) -> dict[str, Start]:
    """The starts of both turns, in turn, and of the tenth with nothing in the cache."""
    short, long = conversation(eft, "Peru", EARLY - 1), conversation(eft, "Norway", LATE - 1)
    kept = {slot.index: [len(cached) for cached in slot.cached] for slot in eft._engine._slots}
    starts: dict[str, Start] = {}
    for number in range(pairs + 1):
        turns = [("second", short), ("tenth", long)]
        for name, messages in turns if number % 2 else turns[::-1]:
            begin(eft, name, messages, starts)
            for slot in eft._engine._slots:
                cut(eft, slot, kept[slot.index])
    for start in starts.values():
        del start.seconds[0], start.bare[0]
    for _ in range(max(1, pairs // 3)):
        for slot in eft._engine._slots:
            cut(eft, slot, [0] * len(slot.cached))
        begin(eft, "tenth, nothing cached", long, starts)
    return starts


def conversation(eft: EFT, country: str, turns: int) -> list[dict[str, str]]:
    """So many turns, and the question of the next."""
    messages = []
    for _ in range(turns):
        question = QUESTION if messages else f"What is the capital of {country}?"
        messages.append({"role": "user", "content": question})
        reply = eft.complete(messages, sampling=Sampling(temperature=0, max_tokens=REPLY))
        messages.append({"role": "assistant", "content": reply.text})
    return [*messages, {"role": "user", "content": QUESTION}]


def begin(eft: EFT, name: str, messages: list[dict[str, str]], starts: dict[str, Start]) -> None:
    """Time a turn's start, then the bare decodes of what it read."""
    started = time.perf_counter()
    timings = eft.complete(messages, sampling=Sampling(temperature=0, max_tokens=1)).timings
    seconds = time.perf_counter() - started
    slot = max(eft._engine._slots, key=lambda slot: slot.last_used)
    read = timings.prompt_tokens - timings.cached_tokens
    start = starts.setdefault(name, Start(timings.prompt_tokens, read))
    start.seconds.append(seconds)
    start.bare.append(0.0)
    for member in used(eft):
        tokens, batch = slot.cached[member], eft._ensemble.batch
        eft._ensemble.forget(member, slot.index, len(tokens) - read)
        for at in range(len(tokens) - read, len(tokens), batch):
            part = Part(slot.index, at, tokens[at : at + batch], outputs=1)
            start.bare[-1] += eft._ensemble.decode(member, [part])


def cut(eft: EFT, slot: Slot, lengths: list[int]) -> None:
    for member, length in enumerate(lengths):
        eft._engine._slots.cut(slot, member, min(length, len(slot.cached[member])))


def turn_table(starts: dict[str, Start], by_token: Spread, ratio: Spread, name: str) -> Table:
    rows = [
        (
            turn,
            f"{start.prompt:,}",
            f"{start.read:,}",
            Spread.of(start.seconds).text(1, scale=1e3),
            Spread.of(start.by_token()).text(2, scale=1e3),
            Spread.of(start.overhead()).text(3),
        )
        for turn, start in sorted(starts.items())
    ]
    verdict = "kept" if ratio.median <= BOUND else "MISSED"
    note = (
        f"{ratio.count} pairs. Tenth ÷ second, by pair: {by_token.text(2)} by token read; {ratio.text(3)} beyond what "
        f"their bare decodes cost; bound for that {BOUND}: {verdict}."
    )
    columns = ("turn", "prompt tokens", "read anew", "first token, ms", "ms a token read", "÷ its bare decodes")
    return Table(f"The start of a chat's turns, {name}", columns, rows, note)


if __name__ == "__main__":
    sys.exit(main())
