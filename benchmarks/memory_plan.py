"""The memory that is planned before loading against the peak that was reached: within 10 %, at three contexts each.

    python benchmarks/memory_plan.py

Each line is a process of its own that opens the family, reads a prompt, makes a reply and scores a text. Then what a
LoRA as tuned takes beside the small model: the peak with the adapter less the peak with tuned = untuned, which has the
same caches. Figures of memory, not of time: the machine need not be quiet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from measure import machine, models
from measure.report import Table, publish

from eft_gguf.models.family import family_from_references, load_family, read_family
from eft_gguf.models.fit import Plan

BOUND = 0.1
SMOLLM2 = models.FOLDER / "smollm2-135m-instruct-q4_1.gguf"
LORA_BOUND = 0.05
Options = dict[str, Any]


def main() -> int:
    parser = models.parser(__doc__)
    arguments = parser.parse_args()
    about = machine.describe()
    rows = [measured(name, options) for name, options in families()]
    tables = [plan_table(rows)]
    lora = measure_lora() if models.real_family() is not None else None
    if lora is not None:
        tables.append(lora_table(lora))
    publish("memory_plan", about, tables, {"plan": rows, "lora": lora}, as_json=arguments.json, docs=arguments.docs)
    worst = max(abs(row["planned"] / row["peak"] - 1) for row in rows)
    return 0 if worst <= BOUND and (lora is None or lora["adds"] <= LORA_BOUND * lora["small"]) else 1


def families() -> list[tuple[str, Options]]:
    """What is measured: by name, with the options of `EFT.open`."""
    found: list[tuple[str, Options]] = [("bundled", {"family": "bundled", "ctx": ctx}) for ctx in (64, 256, 512)]
    if models.real_family() is not None:
        pair = {"base": str(models.BASE), "untuned": str(models.UNTUNED), "tuned": f"lora:{models.ADAPTER}"}
        found += [("Qwen2.5-Coder pair", {**pair, "ctx": ctx}) for ctx in (1024, 4096, 8192)]
        found.append(("Qwen2.5-Coder pair, not repacked", {**pair, "ctx": 4096, "repack": False}))
        found.append(("Qwen2.5-Coder pair, q8_0 cache", {**pair, "ctx": 8192, "kv_type": "q8_0"}))
    if SMOLLM2.exists():
        same = dict.fromkeys(("base", "untuned", "tuned"), str(SMOLLM2))
        found += [("SmolLM2", {**same, "ctx": ctx}) for ctx in (1024, 4096, 8192)]
    return found


def measured(name: str, options: Options) -> dict[str, Any]:
    """The plan and the peak of one family with these options, in bytes."""
    found = {"name": name, "ctx": options["ctx"], "planned": planned(options), "peak": peak(options)}
    print(json.dumps(found), file=sys.stderr)
    return found


def planned(options: Options) -> int:
    spec = options.get("family")
    family = load_family(spec) if spec else family_from_references(*(options[n] for n in ("base", "untuned", "tuned")))
    base, untuned, others = read_family(family)
    chosen = {name: options[name] for name in ("kv_type",) if name in options}
    return Plan({"base": base, "untuned": untuned, **others}, family.untuned_of, **chosen).at(options["ctx"]).total


def peak(options: Options) -> int:
    script = Path(__file__).parent / "measure" / "peak.py"
    command = [sys.executable, str(script), json.dumps(options)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_lora() -> dict[str, int]:
    """Bytes: what the adapter adds to a family whose tuned model is its untuned one, and the small model itself."""
    # Without drafts: what measuring their cost takes is the same for both, and not always taken.
    pair = {"base": str(models.BASE), "untuned": str(models.UNTUNED), "ctx": 1024, "speculate": "off"}
    with_adapter = peak({**pair, "tuned": f"lora:{models.ADAPTER}"})
    without = peak({**pair, "tuned": str(models.UNTUNED)})
    return {"adds": with_adapter - without, "small": models.UNTUNED.stat().st_size}


def plan_table(rows: list[dict[str, Any]]) -> Table:
    lines = [
        (
            row["name"],
            f"{row['ctx']:,}",
            f"{row['planned'] / 1e6:,.0f}",
            f"{row['peak'] / 1e6:,.0f}",
            f"{100 * (row['planned'] / row['peak'] - 1):+.1f}",
            "kept" if abs(row["planned"] / row["peak"] - 1) <= BOUND else "MISSED",
        )
        for row in rows
    ]
    columns = ("family", "context", "planned, MB", "peak, MB", "difference, %", "within 10 %")
    return Table("Memory planned before loading, and the peak", columns, lines)


def lora_table(lora: dict[str, int]) -> Table:
    share = lora["adds"] / lora["small"]
    row = (
        f"{lora['adds'] / 1e6:,.1f}",
        f"{lora['small'] / 1e6:,.0f}",
        f"{share:.1%}",
        "kept" if share <= LORA_BOUND else "MISSED",
    )
    note = "Besides its cache and buffers, which every model of a blend has of its own."
    return Table("A LoRA as tuned", ("adds, MB", "small model, MB", "share", "below 5 %"), [row], note)


if __name__ == "__main__":
    sys.exit(main())
