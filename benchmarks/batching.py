"""Many replies at once: do they bring as many tokens a second as their decodes allow?

    python benchmarks/batching.py [--json | --docs]

Up to 16 replies to different prompts are under way at once. A step, which gives each of them a token, is timed as the
callers of `EFT.stream` see it; in turn with it the bare `llama_decode` calls of the same tokens at the same positions
in the same contexts, which are what the batch costs here. Eight replies are to bring 0.9 of what these calls allow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from dataclasses import dataclass

from measure import machine, models
from measure.report import Spread, Table, publish
from measure.steps import bare_decodes, forget

from eft_gguf import EFT, Chunk, Sampling
from eft_gguf.engine.sequence import Sequence

COUNTS = (1, 2, 4, 8, 16)
BOUND_AT, BOUND = 8, 0.9
CTX, WARM_UP = 256, 3
TEXT = "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs and"


@dataclass(frozen=True)
class Together:
    """Seconds of a step of so many replies, and of its bare decodes; share: tokens a second, of what these allow."""

    step: Spread
    bare: Spread
    share: Spread

    def rate(self, count: int) -> float:
        """Tokens a second of all."""
        return count / self.step.median


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=60, help="steps to time, each beside its bare decodes")
    arguments = parser.parse_args()
    models.chosen_family(arguments)  # ends here, with a word why, where there is none
    machine.warn_if_busy()
    about = machine.describe()
    with models.open_family(arguments, ctx=CTX, sequences=max(COUNTS)) as eft:
        outcomes = {count: measure(eft, count, arguments.pairs) for count in COUNTS}
    name = models.family_name(arguments)
    table = together_table(outcomes, name)
    section = models.section_of("batching", arguments)
    publish(section, about, [table], {"together": outcomes}, as_json=arguments.json, docs=arguments.docs)
    # A model of a few megabytes decodes in less than a millisecond; the bound is about models of use.
    return 0 if outcomes[BOUND_AT].share.median >= BOUND or arguments.family is not None else 1


def measure(eft: EFT, count: int, pairs: int) -> Together:
    """Steps of `count` replies, and the bare calls beside them; who goes first changes from pair to pair."""
    steps: list[float] = []
    bare: list[float] = []
    seed = 0
    while len(steps) < pairs + WARM_UP:
        options = [Sampling(seed=seed + number, max_tokens=100) for number in range(count)]
        replies = [eft.stream(f"{number} {TEXT}", sampling=option) for number, option in enumerate(options)]
        seed += count
        running = [slot.sequence for slot in eft._engine._slots if slot.sequence is not None]
        while not all(each.generated for each in running):
            eft._engine.step()
        for reply, each in zip(replies, running, strict=True):
            for _ in each.generated:
                next(reply)
        while all(each.finish_reason is None for each in running) and len(steps) < pairs + WARM_UP:
            # Length is that of what is decoded and the token that the step decodes next.
            tokens = [(each.ids[0][-1], each.length - 1, slot_of(each)) for each in running]
            if len(steps) % 2:
                bare.append(sum(bare_decodes(eft, tokens)))
                forget(eft, [(position, sequence) for _, position, sequence in tokens])
                steps.append(own_step(replies))
            else:
                steps.append(own_step(replies))
                forget(eft, [(position, sequence) for _, position, sequence in tokens])
                bare.append(sum(bare_decodes(eft, tokens)))
        for reply in replies:
            reply.close()
    steps, bare = steps[WARM_UP:], bare[WARM_UP:]
    share = [theirs / ours for ours, theirs in zip(steps, bare, strict=True)]
    return Together(Spread.of(steps), Spread.of(bare), Spread.of(share))


def own_step(replies: list[Generator[Chunk, None, None]]) -> float:
    """Seconds until each reply has its next chunk: the first that is asked lets all go on."""
    started = time.perf_counter()
    for reply in replies:
        next(reply)
    return time.perf_counter() - started


def slot_of(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def together_table(outcomes: dict[int, Together], name: str) -> Table:
    rows = []
    for count, together in outcomes.items():
        verdict = "kept" if together.share.median >= BOUND else "MISSED"
        rows.append(
            (
                str(count),
                together.step.text(1, scale=1e3),
                f"{together.rate(count):.1f}",
                f"{together.rate(count) / outcomes[1].rate(1):.2f}",
                f"{count / together.bare.median:.1f}",
                together.share.text(3),
                f"{BOUND} {verdict}" if count == BOUND_AT else "none",
            )
        )
    columns = ("replies", "ms a step", "tokens/s of all", "of one", "their decodes allow", "share, by pair", "bound")
    pairs = outcomes[1].step.count
    return Table(
        f"Replies at once, {name}", columns, rows, f"{pairs} pairs each, default sampling, medians (quartiles)."
    )


if __name__ == "__main__":
    sys.exit(main())
