"""All that `eft-gguf bench` measures, for the page: the real models by default.

    python benchmarks/speed.py [--family bundled] [--quick] [--json | --docs]

With --docs its tables and its picture (docs/speed.svg) are written too. Minutes with models of gigabytes.
"""

from __future__ import annotations

import sys

from measure import machine, models
from measure.report import DOCS, Table, publish

from eft_gguf.evaluation.plots import save
from eft_gguf.speed.measure import measure_speed
from eft_gguf.speed.plot import draw
from eft_gguf.speed.result import Speed


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="take fewer measurements")
    arguments = parser.parse_args()
    family = models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    speed = Speed()

    def tick(what: str, left: float) -> None:
        print(f"\rmeasuring {what}, {left:.0f} s left ", end="", file=sys.stderr)

    measure_speed({"family": family, "threads": arguments.threads}, speed, tick, quick=arguments.quick)
    print(file=sys.stderr)
    settings = Table("Settings", list(speed.settings), [[str(value) for value in speed.settings.values()]])
    section = models.section_of("speed", arguments)
    tables = [settings, *speed.tables()]
    publish(section, about, tables, {"speed": speed.as_dict()}, as_json=arguments.json, docs=arguments.docs)
    if arguments.docs:
        picture = DOCS.parent / f"{section.replace(' ', '-')}.svg"
        save(draw(speed), picture)
        print(f"written: {picture.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
