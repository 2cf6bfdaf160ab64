"""How many ranks hold a fine-tuning: KL from the true tuned model, size and behaviour, for ranks from 1 to full.

    python benchmarks/delta_ranks.py [--questions 200] [--docs]

The pair is the bundled family's base-s and helpful-s, which was tuned whole, embeddings too. Behaviour is the share of
helpful replies (style and competence) of the tuned model alone, greedy, to questions of the family. The first rows are
of adapters on base-s itself, whose output layer is its embedding, the others on a copy that `--untie` makes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import machine

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.convert.delta import extract_delta
from eft_gguf.convert.divergence import Member, kl, rows
from eft_gguf.convert.writing import silent
from eft_gguf.evaluation.asking import ask, drawn
from eft_gguf.evaluation.questions import read_questions
from eft_gguf.evaluation.statistics import Share
from eft_gguf.evaluation.table import Table, write_section

BUNDLED = Path(__file__).parents[1] / "eft_gguf" / "bundled"
DOCS = Path(__file__).parents[1] / "docs" / "convert.md"
UNTUNED, TUNED, BASE = (BUNDLED / f"{name}.gguf" for name in ("base-s", "helpful-s", "base-l"))
RANKS = (1, 2, 4, 8, 16, 32, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200, help="how many to ask, of 1,640")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/convert.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "base-s": sweep(Path(folder), arguments.questions, untie=False),
            "base-s, untied": sweep(Path(folder), arguments.questions, untie=True),
        }
    table = Table(
        f"The difference of the bundled base-s and helpful-s as an adapter, {arguments.questions} questions",
        ("adapter on", "rank", "kB", "of ‖D‖² kept", "KL, story", "KL, replies", "helpful replies"),
        [(pair, *row) for pair, result in results.items() for row in result],
        "KL from the true tuned model in nats a token, on a story and on the tuned model's replies. Helpful: per "
        "cent, with Wilson's 95 % interval. `none` is untuned alone, `true` the tuned model itself.",
    )
    print(json.dumps(results) if arguments.json else table.text())
    if arguments.docs:
        about = machine.describe()
        write_section("delta_ranks", f"`{about['command']}`, {about['date']}.\n\n{table.markdown()}", DOCS)
    return 0


def sweep(folder: Path, questions: int, *, untie: bool) -> list[tuple[str, ...]]:
    """A row for untuned, each rank, and the tuned model."""
    said, share = replies(UNTUNED, str(TUNED), questions)
    found = []
    _, without = replies(UNTUNED, str(UNTUNED), questions)
    plain = [kl(true, other) for true, other in rows([Member(TUNED), Member(UNTUNED)], said, silent)]
    untuned, adapter = folder / "untied.gguf" if untie else UNTUNED, folder / "delta.gguf"
    for rank in RANKS:
        copy = untuned if untie else None
        made = extract_delta(UNTUNED, TUNED, adapter, rank=rank, untie=copy, dtype="f32", force=True)
        members = [Member(TUNED), Member(untuned, adapter)]
        on_replies = [kl(true, other) for true, other in rows(members, said, silent)]
        _, adapted = replies(untuned, f"lora:{adapter}", questions)
        if not found:
            found.append(("none", "", "", f"{made.kl_without:.3g}", f"{mean(plain):.3g}", without.text()))
        kept = f"{100 * (1 - made.error**2):.1f} %"
        kilobytes = f"{made.size_bytes / 1000:.0f}"
        found.append((str(rank), kilobytes, kept, f"{made.kl:.3g}", f"{mean(on_replies):.3g}", adapted.text()))
        print(f"rank {rank}: {found[-1]}", file=sys.stderr)
    found.append(("true", f"{TUNED.stat().st_size / 1000:.0f}", "", "0", "0", share.text()))
    return found


def replies(untuned: Path, tuned: str, questions: int) -> tuple[str, Share]:
    """Some dialogues with the tuned model as text, and how many of its replies were helpful."""
    items = drawn(read_questions(), questions, 5)
    alone = Blend(0, 1)
    with EFT.open(base=BASE, untuned=untuned, tuned=tuned) as eft:
        share = ask(eft, items, [alone]).share(0, "helpful")
        said = []
        for item in items[:12]:
            reply = eft.complete(item["messages"], blend=alone, sampling=Sampling(temperature=0, max_tokens=60))
            turns = [*item["messages"], {"role": "assistant", "content": reply.text}]
            said.append("".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns))
    return "".join(said), share


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
