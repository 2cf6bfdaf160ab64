"""Are two defaults of the engine good ones? The batch of 128 tokens, and weights repacked for the processor.

    python benchmarks/defaults.py

Prompts go through the base model in batches of 64 to 512 tokens: small ones let Ctrl-C and other sequences in sooner,
large ones may be faster. Then decode and prefill with weights as llama.cpp repacks them for this processor
(`use_extra_bufts`), and as they are in the file. Variants take turns; medians count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import machine, models
from measure.report import Spread, Table, publish

from eft_gguf.engine.llama import Context, Model
from eft_gguf.engine.threads import usable_cores

BATCHES = (64, 128, 256, 512)
PROMPT = 512
CTX = 1024
VARIANTS = {"repacked": True, "as in the file": False}


@dataclass(frozen=True)
class Variant:
    """Seconds of a prompt and of a token; seconds that loading took."""

    prefill: Spread
    decode: Spread
    load: float


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="prompts to time for each variant")
    arguments = parser.parse_args()
    family = models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    threads = arguments.threads or usable_cores()
    paths = list(dict.fromkeys([family.base.path, family.untuned.path]))
    batches = measure_batches(family.base.path, threads, arguments.rounds)
    repacking = {path.name: measure_repacking(path, threads, arguments.rounds) for path in paths}
    tables = [batch_table(family.base.path, batches), *(repack_table(*item) for item in repacking.items())]
    data = {"batches": batches, "repacking": repacking}
    publish("defaults", about, tables, data, as_json=arguments.json, docs=arguments.docs)
    return 0


def measure_batches(path: Path, threads: int, rounds: int) -> dict[int, Spread]:
    """Seconds of a prompt of 512 tokens, by batch."""
    model = Model(path)
    contexts = {
        batch: Context(model, ctx=CTX, batch=batch, sequences=1, outputs=1, threads=threads) for batch in BATCHES
    }
    seconds = _in_turn({batch: lambda c=context: prefill(c) for batch, context in contexts.items()}, rounds)  # type: ignore[misc]
    for context in contexts.values():
        context.close()
    model.close()
    return {batch: Spread.of(values) for batch, values in seconds.items()}


def measure_repacking(path: Path, threads: int, rounds: int) -> dict[str, Variant]:
    """The variants, both loaded at once."""
    loaded: dict[str, tuple[Context, float]] = {}
    for name, repack in VARIANTS.items():
        started = time.perf_counter()
        model = Model(path, repack=repack)
        seconds = time.perf_counter() - started
        context = Context(model, ctx=CTX, batch=128, sequences=1, outputs=1, threads=threads)
        prefill(context)
        loaded[name] = context, seconds
    prompts = _in_turn({name: lambda c=context: prefill(c) for name, (context, *_) in loaded.items()}, rounds)  # type: ignore[misc]
    steps = {name: lambda c=context: decode(c) for name, (context, *_) in loaded.items()}  # type: ignore[misc]
    tokens = _in_turn(steps, 20 * rounds)
    for context, *_ in loaded.values():
        context.close()
        context.model.close()
    return {
        name: Variant(Spread.of(prompts[name]), Spread.of(tokens[name]), seconds)
        for name, (_, seconds) in loaded.items()
    }


def prefill(context: Context) -> float:
    """Seconds to decode a prompt of 512 tokens from an empty cache."""
    context.forget(0, 0)
    started = time.perf_counter()
    for position in range(0, PROMPT, context.batch.capacity):
        _decode(context, range(1000 + position, 1000 + position + context.batch.capacity), position)
    return time.perf_counter() - started


def decode(context: Context) -> float:
    """Seconds to decode one token after the prompt."""
    context.forget(0, PROMPT)
    started = time.perf_counter()
    _decode(context, [1234], PROMPT)
    return time.perf_counter() - started


def batch_table(path: Path, batches: dict[int, Spread]) -> Table:
    rows = [
        (str(batch), f"{PROMPT / spread.median:.0f}", f"{spread.median * batch / PROMPT:.2f}")
        for batch, spread in batches.items()
    ]
    return Table(f"Prefill of {PROMPT} tokens, {path.name}", ("batch", "tokens a second", "seconds a batch"), rows)


def repack_table(name: str, variants: dict[str, Variant]) -> Table:
    rows = [
        (
            variant,
            v.decode.text(2, scale=1e3),
            f"{PROMPT / v.prefill.median:.0f}",
            f"{v.load:.1f}",
        )
        for variant, v in variants.items()
    ]
    columns = ("weights", "ms a token, median (quartiles)", "prefill, tokens a second", "load, s")
    return Table(f"Repacking, {name}", columns, rows)


def _decode(context: Context, tokens: range | list[int], position: int) -> None:
    context.batch.clear()
    context.batch.add(tokens, position=position, sequence=0, outputs=1)
    context.decode()


def _in_turn(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            seconds[name].append(measure())
    return seconds


if __name__ == "__main__":
    sys.exit(main())
