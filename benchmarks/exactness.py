"""Is what speculation says distributed as the blend is? 50,000 tokens of the bundled family for each of ten settings.

    python benchmarks/exactness.py [--tokens 50000]

Counts are compared with exact probabilities by a chi-square test; tests/engine/exactness.py has the method, and the
test suite does the same with fewer tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measure import machine, report
from measure.report import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.exactness import SETTINGS, Outcome, Setting, measure, opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=50_000, help="tokens for each setting")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    about = machine.describe()
    outcomes: dict[str, Outcome] = {}
    for name, setting in SETTINGS.items():
        print(name, file=sys.stderr, flush=True)
        with opened(setting) as eft:
            outcomes[name] = measure(eft, setting, arguments.tokens)
    rows = [row(name, SETTINGS[name], outcome) for name, outcome in outcomes.items()]
    columns = ("setting", "drafts a round", "tokens", "drafts", "taken", "degrees of freedom", "p-value")
    title = "Tokens drawn with speculation against exact probabilities, bundled family"
    note = "With these seeds. Of ten p-values the smallest is below 0.01 one time in ten by chance alone."
    data = {"outcomes": outcomes}
    table = Table(title, columns, rows, note)
    report.publish("exactness", about, [table], data, as_json=arguments.json, docs=arguments.docs)
    return 0


def row(name: str, setting: Setting, outcome: Outcome) -> tuple[str, ...]:
    length = "by sureness" if setting.drafts is None else str(setting.drafts)
    counts = (f"{outcome.tokens:,}", f"{outcome.drafted:,}", f"{outcome.acceptance:.2f}", str(outcome.cells))
    return name, length, *counts, f"{outcome.p_value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
