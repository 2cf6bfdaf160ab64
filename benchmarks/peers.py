"""What a token costs with eft-gguf, and with what one would otherwise write or run on the same weights.

    pip install -r benchmarks/requirements.txt     for the transformers loop, which is left out without
    python benchmarks/peers.py [--peer NAME …] [--docs]

Each peer, in a process of its own, and eft-gguf give the same greedy reply in turn, round by round; the ratio is by
round. Peers: llama.cpp on the large model alone; the equation over three `llama_cpp.Llama` objects, without and with
log-probabilities; and a loop over three models of Hugging Face transformers, on dequantized weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from typing import Any

from measure import machine, models
from measure.plain_loops import CPU_TIME
from measure.report import Spread, Table, publish
from measure.systems import Answer, System

from eft_gguf.engine.llama import Model
from eft_gguf.engine.threads import usable_cores
from eft_gguf.models.family import Family

TEXT = "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs and"
CTX = 512


@dataclass(frozen=True)
class Peer:
    """A system, its options and those of eft-gguf beside it, and how many times as fast that is to be."""

    system: str
    options: dict[str, Any]
    ours: dict[str, Any]
    bound: float | None = None


PLAIN: dict[str, Any] = {"speculate": "off"}
PEERS = {
    "llama.cpp, base alone": Peer("base alone", {}, PLAIN),
    "llama.cpp, base alone; eft-gguf with drafts": Peer("base alone", {}, {"speculate": "auto"}),
    "llama-cpp-python loop": Peer("llama-cpp-python", {"logprobs": False}, PLAIN, 1.0),
    "llama-cpp-python loop, log-probabilities": Peer(
        "llama-cpp-python", {"logprobs": True}, {**PLAIN, "logprobs": True}, 1.5
    ),
    "transformers loop, bfloat16": Peer("transformers", {"dtype": "bfloat16"}, PLAIN, 5.0),
    "transformers loop, float32": Peer("transformers", {"dtype": "float32"}, PLAIN),
}


@dataclass(frozen=True)
class Outcome:
    """Seconds a token of a peer and of eft-gguf beside it; alike: how many tokens of the reply are the same."""

    peer: Spread
    ours: Spread
    ratio: Spread
    alike: int
    tokens: int
    peak: int
    our_peak: int


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="replies of each system (default: 7)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of a reply (default: 24)")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this peer; may be repeated")
    arguments = parser.parse_args()
    family = models.chosen_family(arguments)
    machine.warn_if_busy()
    about = machine.describe()
    threads = 1 if arguments.cpu_time else arguments.threads or usable_cores()
    if arguments.cpu_time:
        os.environ[CPU_TIME] = "1"
    prompt = tokenized(family, TEXT)
    outcomes: dict[str, Outcome] = {}
    for name in arguments.peer or PEERS:
        if PEERS[name].system == "transformers" and missing():
            print(f"skipped: {name} needs {' and '.join(missing())}: benchmarks/requirements.txt", file=sys.stderr)
            continue
        print(f"measuring beside {name}: {len(outcomes)} done", file=sys.stderr)
        outcomes[name] = measure(PEERS[name], family, prompt, threads, arguments.rounds, arguments.tokens)
        if arguments.docs:  # peers take minutes each: what is measured is kept if the rest is stopped
            tell(outcomes, about, arguments, threads)
    if not arguments.docs:
        tell(outcomes, about, arguments, threads)
    return 0 if all(kept(name, outcome) for name, outcome in outcomes.items()) else 1


def tell(outcomes: dict[str, Outcome], about: dict[str, str], arguments: argparse.Namespace, threads: int) -> None:
    table = peer_table(outcomes, models.family_name(arguments), threads, arguments.rounds)
    if arguments.cpu_time:
        note = f"{table.note} Milliseconds of the processor's time, which other work on the machine hardly changes."
        table = replace(table, note=note)
    section, data = models.section_of("peers", arguments), {"peers": outcomes}
    publish(section, about, [table], data, as_json=arguments.json, docs=arguments.docs)


def measure(peer: Peer, family: Family, prompt: list[int], threads: int, rounds: int, count: int) -> Outcome:
    """Replies in turn: who goes first changes from round to round. The first round warms up and does not count."""
    settings: dict[str, Any] = {"threads": threads, "ctx": CTX}
    theirs: list[Answer] = []
    ours: list[Answer] = []
    with (
        System("eft-gguf", family, **settings, **peer.ours) as own,
        System(peer.system, family, **settings, **peer.options) as other,
    ):
        for number in range(rounds + 1):
            for system, answers in ((own, ours), (other, theirs))[:: 1 if number % 2 else -1]:
                answers.append(system.reply(prompt, count))
    pairs = list(zip(ours, theirs, strict=True))[1:]
    return Outcome(
        peer=Spread.of([other.seconds for _, other in pairs]),
        ours=Spread.of([own.seconds for own, _ in pairs]),
        ratio=Spread.of([other.seconds / own.seconds for own, other in pairs]),
        alike=alike(ours[-1].tokens, theirs[-1].tokens),
        tokens=len(ours[-1].tokens),
        peak=theirs[-1].peak,
        our_peak=ours[-1].peak,
    )


def alike(left: list[int], right: list[int]) -> int:
    """How many tokens two replies have in common before they part."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def kept(name: str, outcome: Outcome) -> bool:
    bound = PEERS[name].bound
    return bound is None or outcome.ratio.median >= bound


def peer_table(outcomes: dict[str, Outcome], family: str, threads: int, rounds: int) -> Table:
    rows = []
    for name, outcome in outcomes.items():
        bound = PEERS[name].bound
        verdict = "none" if bound is None else f"{bound} {'kept' if kept(name, outcome) else 'MISSED'}"
        rows.append(
            (
                name,
                outcome.peer.text(1, scale=1e3),
                outcome.ours.text(1, scale=1e3),
                outcome.ratio.text(2),
                verdict,
                f"{outcome.alike} of {outcome.tokens}",
                f"{outcome.peak / 1e6:,.0f} / {outcome.our_peak / 1e6:,.0f}",
            )
        )
    columns = (
        "peer",
        "its ms a token",
        "eft-gguf's",
        "its ÷ eft-gguf's, by round",
        "bound",
        "tokens alike",
        "peak MB, its / eft-gguf's",
    )
    note = (
        f"Medians and quartiles of {rounds} rounds, greedy, {threads} threads each. The base alone is another model "
        "and says something else; others part where two tokens are nearly tied."
    )
    return Table(f"A token beside peers, {family}", columns, rows, note)


def tokenized(family: Family, text: str) -> list[int]:
    """What all systems read."""
    model = Model(family.untuned.path, vocab_only=True)
    try:
        return ([model.bos] if model.add_bos else []) + model.tokenize(text, special=True)
    finally:
        model.close()


def missing() -> list[str]:
    return [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]


if __name__ == "__main__":
    sys.exit(main())
