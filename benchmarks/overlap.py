"""Do two models at once on half of the cores each decode faster than one after the other on all of them?

    python benchmarks/overlap.py [--json | --docs]

Base and untuned decode a token each: in turn with all threads, and side by side, each on a thread of its own with its
share of them. Both ways take turns; the ratio is by pair.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import machine, models
from measure.report import Spread, Table, publish

from eft_gguf.engine.llama import Context, Model
from eft_gguf.engine.threads import usable_cores

POSITION = 64


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=60, help="how often each way is timed")
    arguments = parser.parse_args()
    family = models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    threads = arguments.threads or usable_cores()
    in_turn, at_once = measure((family.base.path, family.untuned.path), threads, arguments.pairs)
    ratio = Spread.of([mine / other for mine, other in zip(at_once, in_turn, strict=True)])
    share = max(1, threads // 2)
    table = Table(
        f"A token of {family.base.path.name} and of {family.untuned.path.name}",
        ("", "median (quartiles)"),
        [
            (f"one after the other, {threads} threads each", Spread.of(in_turn).text(2, scale=1e3) + " ms"),
            (f"at once, {share} thread{'s' * (share > 1)} each", Spread.of(at_once).text(2, scale=1e3) + " ms"),
            ("at once ÷ one after the other, by pair", ratio.text(3)),
        ],
        f"{arguments.pairs} pairs.",
    )
    data = {"in_turn": Spread.of(in_turn), "at_once": Spread.of(at_once), "ratio": ratio, "threads": threads}
    publish("overlap", about, [table], data, as_json=arguments.json, docs=arguments.docs)
    return 0


def measure(paths: Sequence[Path], threads: int, pairs: int) -> tuple[list[float], list[float]]:
    """Seconds in turn and at once, pair by pair."""
    loaded = [Model(path) for path in paths]

    def contexts(share: int) -> list[Context]:
        return [Context(model, ctx=256, batch=128, sequences=1, outputs=1, threads=share) for model in loaded]

    whole, halves = contexts(threads), contexts(max(1, threads // len(paths)))
    for context in (*whole, *halves):
        decode(context, range(1000, 1000 + POSITION), 0)
    in_turn, at_once = [], []
    with ThreadPoolExecutor(len(paths)) as pool:
        for pair in range(pairs + 2):
            ways = [
                (in_turn, lambda: [decode(context, [1234], POSITION) for context in whole]),
                (at_once, lambda: list(pool.map(lambda context: decode(context, [1234], POSITION), halves))),
            ]
            for seconds, way in ways if pair % 2 else reversed(ways):
                started = time.perf_counter()
                way()
                seconds.append(time.perf_counter() - started)
    for context in (*whole, *halves):
        context.close()
    for model in loaded:
        model.close()
    return in_turn[2:], at_once[2:]


def decode(context: Context, tokens: range | list[int], position: int) -> None:
    context.forget(0, position)
    context.batch.clear()
    context.batch.add(tokens, position=position, sequence=0, outputs=1)
    context.decode()


if __name__ == "__main__":
    sys.exit(main())
