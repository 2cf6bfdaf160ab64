"""Run as a program of its own by memory_plan.py: opens a family, fills its context, and prints the peak in bytes.

The arguments are one JSON object: the options of `EFT.open`.
"""

from __future__ import annotations

import json
import sys

from eft_gguf import EFT, Sampling
from eft_gguf.speed.measure import peak_memory

SENTENCE = "One two three four five six seven eight nine ten. "
MOST = 700
"""Characters of the prompt: a cache is in memory in full from the beginning, however much of it is used."""


def main(options: dict[str, object]) -> int:
    with EFT.open(**options) as eft:
        text = SENTENCE * 40
        eft.complete(text[: min(eft.ctx, MOST)], sampling=Sampling(seed=1, max_tokens=8))
        eft.score(text[: min(300, eft.ctx // 2)])
    return peak_memory()


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
