"""What EFT costs beyond llama.cpp: time of a step, time to blend and sample, memory. Each against its bound.

    python benchmarks/step_overhead.py                      the Qwen pair with its adapter
    python benchmarks/step_overhead.py --family bundled     any other family

A step is to cost 1.02 times the bare llama_decode calls at most, 1.03 times with all four filters on, blend and sample
at 152k tokens 0.3 ms, and peak memory the model files, the KV caches and 200 MB. Exit code 1 where a bound is missed.
"""

from __future__ import annotations

import sys

from measure import machine, models, report
from measure.memory import measure_memory
from measure.sampling import BOUND as SAMPLING_BOUND
from measure.sampling import BOUNDED, measure_sampling
from measure.steps import ALL_FILTERS, measure_steps

VOCABULARY = 151_936
PARTS = ("steps", "filtered", "sampling", "memory")


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=200, help="steps to time, each beside its bare decodes")
    parser.add_argument("--calls", type=int, default=400, help="calls to time for blend and sample")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this; may be repeated")
    arguments = parser.parse_args()
    chosen = arguments.only or PARTS
    family = models.chosen_family(arguments)
    name = models.family_name(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    tables, data, kept = [], {}, []
    for part, title, filter in (
        ("steps", f"A blended step, {name}", None),
        ("filtered", f"A blended step with all four filters on, {name}", ALL_FILTERS),
    ):
        if part in chosen:
            with models.open_family(arguments) as eft:
                steps = measure_steps(eft, arguments.pairs, filter)
            tables.append(steps.table(title))
            data[part] = steps
            # A model of a few megabytes decodes in less than a millisecond; the bound is about models of use.
            kept.append(steps.kept or arguments.family is not None)
    if "sampling" in chosen:
        sampling = measure_sampling(VOCABULARY, arguments.calls)
        tables.append(sampling.table())
        data["sampling"] = sampling
        kept.extend(sampling.ours[case].median <= SAMPLING_BOUND for case in BOUNDED)
    if "memory" in chosen:
        memory = measure_memory(family, arguments.threads)
        tables.append(memory.table(name))
        if "now" in memory.stages["Python"]:
            tables.append(memory.parts())
        data["memory"] = memory
        kept.append(memory.peak <= memory.bound)
    section = models.section_of("step_overhead", arguments)
    report.publish(section, about, tables, data, as_json=arguments.json, docs=arguments.docs)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
