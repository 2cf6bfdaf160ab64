"""Run as a program of its own by memory_plan.py: opens a family, fills its context, and prints the peak in bytes.

The arguments are one JSON object: the options of `EFT.open`.
"""

from __future__ import annotations

import json
import sys

from eft_gguf import EFT, Sampling
from eft_gguf.speed.measure import peak_memory

SENTENCE = "One two three four five six seven eight nine ten. "
MOST = 300
"""Words of the prompt: the cache is there in full from the beginning, what fills it is not."""


def main(options: dict[str, object]) -> int:
    with EFT.open(**options) as eft:
        words = min(eft.ctx // 2, MOST)
        text = SENTENCE * (words // 10 + 1)
        eft.complete(text[: 5 * words], sampling=Sampling(seed=1, max_tokens=8))
        eft.score(text[: min(600, eft.ctx // 2)])
    return peak_memory()


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
