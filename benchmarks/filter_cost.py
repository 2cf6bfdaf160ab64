"""What each filter costs at a real vocabulary's size, beside NumPy's reference and llama.cpp's own samplers.

    python benchmarks/filter_cost.py [--json | --docs]

A filter is to cost 1 % of a real step's time at most, on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import machine, report
from measure.sampling import TRIPLES, model_like_rows

from eft_gguf import Filter
from eft_gguf.blend import kernels
from eft_gguf.blend.drawing_kernels import likeliest_of
from eft_gguf.blend.equation import blend_logits, coefficients
from eft_gguf.blend.filter import filtered_logits
from eft_gguf.blend.filter_kernels import FilteredBlend
from eft_gguf.engine.chain import SamplerChain

VOCABULARY = 151_936
BOUND = 0.58e-3
"""1 % of the 58 ms that a step of the Qwen pair with its adapter takes on two cores."""
MEMBERS, FACTORS = [0, 1, 2], coefficients(1, 1, [1])
FILTERS = {
    "untuned_floor −7": Filter(untuned_floor=-7),
    "base_min_p 0.1": Filter(base_min_p=0.1),
    "base_top_p 0.95": Filter(base_top_p=0.95),
    "tuned_top_p 0.95": Filter(tuned_top_p=0.95),
    "all four": Filter(0.95, 0.95, 0.1, -7),
}
CHAINS: dict[str, Callable[[SamplerChain], None]] = {
    "top-k 40": lambda chain: chain.add_top_k(40),
    "top-p 0.95": lambda chain: chain.add_top_p(0.95),
    "min-p 0.1": lambda chain: chain.add_min_p(0.1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=400, help="calls to time of each filter")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    machine.warn_if_busy()
    about = machine.describe()
    rng = np.random.default_rng(0)
    triples = [model_like_rows(rng, VOCABULARY) for _ in range(TRIPLES)]
    with machine.one_core():
        ours, reference = measure_filters(triples, arguments.calls)
        chains = measure_chains(triples, arguments.calls)
    tables = [filter_table(ours, reference), chain_table(chains)]
    data: dict[str, Any] = {"vocabulary": VOCABULARY, "filters": ours, "numpy": reference, "llama_cpp": chains}
    report.publish("filter_cost", about, tables, data, as_json=arguments.json, docs=arguments.docs)
    return 0 if all(ours[name].median <= BOUND for name in FILTERS if name != "all four") else 1


def measure_filters(
    triples: list[kernels.Rows], calls: int
) -> tuple[dict[str, report.Spread], dict[str, report.Spread]]:
    """Seconds from rows to blended logits: compiled, and NumPy's reference in float64."""
    blended, filtered_blend = np.empty(VOCABULARY, np.float32), FilteredBlend(VOCABULARY)
    factors = np.array(FACTORS)
    ours = {"none": timed(lambda rows: kernels.blend_into(rows, factors, blended), triples, calls)}
    reference = {"none": timed(lambda rows: blend_logits(rows, FACTORS), triples, calls // 20)}
    for name, filter in FILTERS.items():
        ours[name] = timed(lambda rows, f=filter: filtered_blend(rows, MEMBERS, FACTORS, f), triples, calls)
        reference[name] = timed(lambda rows, f=filter: filtered_logits(rows, FACTORS, f), triples, calls // 20)
    return ours, reference


def measure_chains(triples: list[kernels.Rows], calls: int) -> dict[str, report.Spread]:
    """Seconds that llama.cpp takes for one of its own samplers and a greedy choice, on the base's logits."""
    candidates = np.zeros(VOCABULARY, kernels.CANDIDATE)
    spreads = {}
    for name, add in CHAINS.items():
        chain, seconds = SamplerChain(), []
        add(chain)
        for call in range(calls):
            # The chain reorders the candidates, so each call gets them anew, outside the time taken.
            kernels.blend_candidates(triples[call % TRIPLES][:1], np.ones(1), candidates)
            started = time.perf_counter()
            likeliest_of(chain.keep(candidates))
            seconds.append(time.perf_counter() - started)
        chain.close()
        spreads[name] = report.Spread.of(seconds)
    return spreads


def timed(work: Callable[[kernels.Rows], object], triples: list[kernels.Rows], calls: int) -> report.Spread:
    work(triples[0])  # compiles, or loads what was compiled
    seconds = []
    for call in range(calls):
        rows = triples[call % TRIPLES]
        started = time.perf_counter()
        work(rows)
        seconds.append(time.perf_counter() - started)
    return report.Spread.of(seconds)


def filter_table(ours: dict[str, report.Spread], reference: dict[str, report.Spread]) -> report.Table:
    return report.Table(
        f"Blend of three models under a filter, {VOCABULARY:,} tokens, one core",
        ("filter", "ms, median (quartiles)", "of a 58 ms step", "NumPy"),
        [
            (
                name,
                ours[name].text(3, scale=1e3),
                f"{ours[name].median / 58e-3:.2%}",
                reference[name].text(1, scale=1e3),
            )
            for name in ours
        ],
        "From rows of logits to blended logits, the blend itself included.",
    )


def chain_table(chains: dict[str, report.Spread]) -> report.Table:
    return report.Table(
        f"llama.cpp's own samplers on one row of {VOCABULARY:,} tokens",
        ("sampler", "ms, median (quartiles)"),
        [(name, spread.text(3, scale=1e3)) for name, spread in chains.items()],
        "One sampler and a greedy choice, the filling of the candidate array not counted.",
    )


if __name__ == "__main__":
    sys.exit(main())
