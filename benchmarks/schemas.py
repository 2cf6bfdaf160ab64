"""How many real-world schemas are followed rightly: 500 with valid and invalid instances, where they are.

    python benchmarks/schemas.py [--data shared/data/schemas.jsonl] [--limit 100] [--docs]

A schema is right if every valid instance may be a reply and no invalid one may, refused if its error says so, and
else wrong. Instances are texts, as the data has them. The bundled family decides: which texts a schema allows does not
depend on the models' tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measure import machine, report

from eft_gguf import EFT, OptionError, Sampling

DATA = Path(__file__).parents[2] / "shared" / "data" / "schemas.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="schemas with instances, one JSON object a line")
    parser.add_argument("--limit", type=int, help="only so many")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(f"skipped: {arguments.data} is not there", file=sys.stderr)
        return 0
    entries = [json.loads(line) for line in arguments.data.read_text(encoding="utf-8").split("\n") if line]
    about, counts, seconds = machine.describe(), Counter[str](), []
    found: list[dict[str, Any]] = []
    with EFT.bundled(speculate="off") as eft:
        for number, entry in enumerate(entries[: arguments.limit], 1):
            started = time.perf_counter()
            verdict, why = decided(eft, entry)
            seconds.append(time.perf_counter() - started)
            counts[verdict] += 1
            found.append({"name": entry["name"], "verdict": verdict, "why": why})
            print(f"\r{number} of {len(entries)}: {dict(counts)} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    total = sum(counts.values())
    rows = [(name, str(counts[name]), f"{100 * counts[name] / total:.1f} %") for name in ("right", "refused", "wrong")]
    note = f"All instances of a schema took {1000 * sorted(seconds)[total // 2]:.0f} ms in the median."
    tables = [report.Table(f"{total} schemas of real programs", ("decided", "schemas", "share"), rows, note)]
    report.publish("schemas", about, tables, {"schemas": found}, as_json=arguments.json, docs=arguments.docs)
    return 1 if counts["wrong"] else 0


def decided(eft: EFT, entry: dict[str, Any]) -> tuple[str, str]:
    """ "right", "refused" or "wrong", and what was refused or decided wrongly."""
    sampling = Sampling(json_schema=json.dumps(entry["schema"]))
    try:
        for valid in entry["valid"]:
            if not eft.allows(valid, sampling):
                return "wrong", f"not allowed: {valid[:200]}"
        for invalid in entry["invalid"]:
            if eft.allows(invalid, sampling):
                return "wrong", f"allowed: {invalid[:200]}"
    except OptionError as error:
        return "refused", error.message
    return "right", ""


if __name__ == "__main__":
    sys.exit(main())
