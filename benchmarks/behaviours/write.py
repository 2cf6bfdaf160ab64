"""Writes a behaviour's files: what `train_lora.py`, `--examples` and `evaluate gate` read.

    python benchmarks/behaviours/write.py desk FOLDER

FOLDER then holds chats.jsonl (300 to train on), examples.jsonl (eight of them, one of each subject) and tests.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from behaviours.rules import EXAMPLES, RULES, behaviour


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in RULES:
        print(f"usage: write.py {'|'.join(RULES)} FOLDER", file=sys.stderr)
        return 2
    one, folder = behaviour(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "chats.jsonl", (item.chat() for item in one.chats))
    write(folder / "examples.jsonl", (item.example() for item in one.chats[:EXAMPLES]))
    tests = [item.case(split) for split, own in (("choose", one.choosing), ("report", one.reporting)) for item in own]
    write(folder / "tests.jsonl", tests)
    return 0


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON lines."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
