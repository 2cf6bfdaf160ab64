"""Goes on with wrong model files for as long as it is let: `make fuzz`, or python -m tests.hostile.fuzz --help.

Cheap trials read a file and plan its use in this process; full ones give it to a command in a process of its own. With
--docs the counts are written into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.hostile.mutants import mutants
from tests.hostile.paths import Ended, Sound, cheap, command

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- files: written by tests/hostile/fuzz.py --docs -->\n", "<!-- files: end -->\n"
SLOW = 20.0
COMMANDS = ("run", "run", "run", "doctor", "inspect", "quantize", "align", "delta")


def arguments(name: str, sound: Sound, wrong: str, folder: Path) -> list[str]:
    """A command line that loads the wrong file."""
    models = ["--base", str(sound.base), "--untuned", str(sound.untuned), "--tuned", wrong, "--speculate", "off"]
    made = str(folder / "made.gguf")
    if name == "run":
        return ["run", "Hi", "--max-tokens", "3", *models]
    if name == "doctor":
        return ["doctor", "--quick", *models]
    if name == "inspect":
        return ["inspect", "Hi", "--max-tokens", "3", *models]
    if name == "align":
        return ["convert", "align", str(folder / "aligned"), *models[:6], "--force", "--yes"]
    if name == "delta":
        return ["convert", "delta", str(sound.untuned), wrong.removeprefix("lora:"), made, "--rank", "2", "--force"]
    return ["convert", "quantize", wrong.removeprefix("lora:"), made, "Q8_0", "--force"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cheap", type=int, default=1000, help="cheap trials")
    parser.add_argument("--full", type=int, default=100, help="full trials")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed makes the same files")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="folder for files that did harm")
    parser.add_argument("--docs", action="store_true", help="write the counts into docs/reliability.md")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    counts: dict[str, Counter[str]] = {"cheap": Counter(), "full": Counter()}
    most = {"cheap": 0.0, "full": 0.0}
    peak = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sound = Sound.write(folder)
        sources = [(sound.untuned.read_bytes(), False)] * 3 + [(sound.adapter.read_bytes(), True)]
        streams = [(mutants(source, given.seed + number), adapter) for number, (source, adapter) in enumerate(sources)]
        wrong = folder / "wrong.gguf"
        for kind, number in (("cheap", given.cheap), ("full", given.full)):
            for (stream, adapter), place in zip(itertools.cycle(streams), range(number), strict=False):
                if time.monotonic() > until:
                    break
                name, data = next(stream)
                wrong.write_bytes(data)
                if kind == "cheap":
                    verdict, seconds, told = _cheap(sound, wrong, adapter)
                else:
                    call = COMMANDS[place // len(streams) % len(COMMANDS)]
                    ended = _full(call, sound, ("lora:" if adapter else "") + str(wrong), folder)
                    verdict, seconds, told = ended.verdict, ended.seconds, f"{call}: {ended.output}"
                    peak = max(peak, ended.megabytes)
                if seconds > SLOW:
                    verdict = "hang"
                counts[kind][verdict] += 1
                most[kind] = max(most[kind], seconds)
                if verdict not in ("taken", "refused"):
                    given.keep.mkdir(exist_ok=True)
                    kept = given.keep / f"{given.seed}-{name.split(':')[0]}-{verdict}.gguf"
                    shutil.copy(wrong, kept)
                    print(f"{verdict}: {name}: {kept}\n{told[-1500:]}", file=sys.stderr, flush=True)
    peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"seed": given.seed, **counts, "slowest": most, "megabytes": round(peak)}))
    if given.docs:
        _write(counts, most, peak, given.seed)
    return int(any(counts[kind][verdict] for kind in counts for verdict in ("crash", "hang", "traceback")))


def _cheap(sound: Sound, wrong: Path, adapter: bool) -> tuple[str, float, str]:
    started = time.process_time()
    try:
        verdict, told = cheap(sound, wrong, adapter=adapter), ""
    except Exception:  # what is looked for
        verdict, told = "traceback", traceback.format_exc()
    return verdict, time.process_time() - started, told


def _full(name: str, sound: Sound, wrong: str, folder: Path) -> Ended:
    return command(arguments(name, sound, wrong, folder), folder)


def _write(counts: dict[str, Counter[str]], most: dict[str, float], peak: float, seed: int) -> None:
    rows = ["| trials | number | taken | refused in one line | tracebacks | crashes | over 20 s | slowest |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    names = {"cheap": "read and planned, in one process", "full": "given to a command"}
    for kind, name in names.items():
        found = counts[kind]
        figures = [sum(found.values()), *(found[v] for v in ("taken", "refused", "traceback", "crash", "hang"))]
        rows.append(f"| {name} | {' | '.join(f'{figure:,}' for figure in figures)} | {most[kind]:.1f} s |")
    text = "\n".join(
        [
            *rows,
            "",
            f"Seed {seed}; seconds are the processor's; the most memory that a process took: {peak:,.0f} MB.",
            "",
        ]
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
