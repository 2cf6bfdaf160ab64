"""The settings of steering_study.py on the bundled family: all its held-out questions, greedy.

    python benchmarks/steering_bundled.py [--limit 200] [--docs]

A few minutes on two cores. Facts and manner are what `eft-gguf evaluate frontier` scores; docs/evaluate.md has how.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from measure import machine, models, report
from numpy.typing import NDArray
from steering_study import ALONE, BY_BASE, PAGE, PLAIN, SETTINGS

from eft_gguf import EFT
from eft_gguf.evaluation.asking import Scored, ask, drawn
from eft_gguf.evaluation.gate import setting_name
from eft_gguf.evaluation.questions import read_questions
from eft_gguf.evaluation.statistics import mcnemar

COLUMNS = ("facts", "single facts", "helpful")


def main() -> int:
    parser = models.parser(__doc__, page="docs/steering.md")
    parser.add_argument("--limit", type=int, help="ask only so many questions, drawn by a seed")
    arguments = parser.parse_args()
    about = machine.describe()
    blends = {**ALONE, **{setting_name(blend): blend for blend in (*SETTINGS, *BY_BASE)}}
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        print(f"\r{done:,} of {total:,} questions, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    with EFT.bundled(threads=arguments.threads) as eft:
        scored = ask(eft, drawn(read_questions(), arguments.limit, 0), list(blends.values()), progress=progress)
    print(file=sys.stderr)
    if scored.interrupted:
        return 130
    data = {"settings": {name: scored.as_dict(number) for number, name in enumerate(blends)}}
    tables = [table(list(blends), scored)]
    report.publish("bundled study", about, tables, data, as_json=arguments.json, docs=arguments.docs, page=PAGE)
    return 0


def table(names: Sequence[str], scored: Scored) -> report.Table:
    single = scored.scores["single facts"]
    plain = single[names.index(PLAIN)]
    rows = [
        (name, *(scored.share(number, measure).text() for measure in COLUMNS), *_against(single[number], plain))
        for number, name in enumerate(names)
    ]
    return report.Table(
        f"The bundled family, {len(scored.items):,} questions",
        ("knowledge, behaviour, filter", *COLUMNS, f"single facts against {PLAIN}", "p"),
        rows,
        "Per cent, with Wilson's 95 % interval; then single facts right here only, and there only, and p of McNemar's "
        "exact test.",
    )


def _against(own: NDArray[np.float64], plain: NDArray[np.float64]) -> tuple[str, str]:
    gained, lost = int((own > plain).sum()), int((own < plain).sum())
    return f"+{gained} −{lost}", f"{mcnemar(gained, lost):.2g}"


if __name__ == "__main__":
    sys.exit(main())
