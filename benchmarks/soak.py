"""Many requests of all kinds at once, some cancelled, for as long as it takes: does anything leak, go wrong or hang?

    python benchmarks/soak.py [--requests 2000] [--speculate 3] [--docs]

Requests of random prompts, lengths, dials, traits, filters and sampling options come and go in random order, more of
them at once than there is room for. What each says, cancelled ones too, is read again by a plain run: one reply at a
time on models of its own. Greedy tokens must be the likeliest there, or as likely as that to within `TOLERANCE`, for
batches of another size have other last digits; and the log-probabilities told must be the same to within that, also of
tokens that a filter rules out and a grammar demands. Memory must stay within 5 % of what it was after a fifth of the
requests. A minute without any progress ends the program. Exit code 1 where something is wrong.
"""

from __future__ import annotations

import faulthandler
import math
import random
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from measure import machine, models
from measure.report import Table, publish
from numpy.typing import NDArray

from eft_gguf import EFT, Blend, Chunk, ContextError, Filter, QueueFullError, Sampling
from eft_gguf.blend.equation import log_softmax

CTX, SEQUENCES, QUEUE = 256, 6, 4
AT_ONCE = SEQUENCES + QUEUE + 2
"""Requests that are tried at once: two more than there is room for."""
TOLERANCE = 0.1
"""Nats. The dials multiply the last digits in which batches of different sizes differ, by up to 5 here."""
GROWTH = 1.05
PATIENCE = 60
"""Seconds."""
TEXT = "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs. "
SYSTEM = "You are asked short questions about towns, countries and elements. "
GRAMMAR = 'root ::= [a-z ]+ "."'


@dataclass
class Counts:
    """What became of the requests, and what of it was checked."""

    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    refused: int = 0
    failed: int = 0
    tokens: int = 0
    drafts: int = 0
    taken: int = 0
    greedy: int = 0
    log_probabilities: int = 0
    at_the_edge: int = 0
    wrong: int = 0
    largest: float = 0.0
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Request:
    """A reply under way. cancel: after how many of its chunks it is given up."""

    prompt: Any
    blend: Blend
    sampling: Sampling
    cancel: int | None
    reply: Generator[Chunk, None, None]
    chunks: list[Chunk] = field(default_factory=list)


def main() -> int:
    parser = models.parser(__doc__)
    parser.set_defaults(family="bundled")
    parser.add_argument("--requests", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--speculate", default="3", help="auto, off, or tokens drafted a round (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="for another set of requests")
    arguments = parser.parse_args()
    about = machine.describe()
    faulthandler.enable()
    with (
        models.open_family(
            arguments, ctx=CTX, sequences=SEQUENCES, queue=QUEUE, batch=64, speculate=arguments.speculate
        ) as eft,
        models.open_family(arguments, ctx=CTX) as plain,
    ):
        counts = soak(eft, plain, arguments.requests, random.Random(arguments.seed))
        idle = eft._engine.running == 0 and eft._engine.waiting == 0
    faulthandler.cancel_dump_traceback_later()
    growth = max(counts.memory[1:]) / counts.memory[0]
    table = soak_table(counts, growth, arguments.family)
    data = {"counts": counts, "growth": growth, "idle": idle}
    publish("soak", about, [table], data, as_json=arguments.json, docs=arguments.docs)
    right = not counts.wrong and not counts.failed and counts.greedy and counts.log_probabilities
    return 0 if right and idle and growth <= GROWTH else 1


def soak(eft: EFT, plain: EFT, total: int, rng: random.Random) -> Counts:
    """Let `total` requests come and go, and check what each of them said."""
    counts, under_way, started = Counts(), [], time.monotonic()
    history: list[list[dict[str, str]]] = []
    process, told = psutil.Process(), 0
    while counts.requests < total or under_way:
        if counts.requests < total and len(under_way) < AT_ONCE and (not under_way or rng.random() < 0.2):
            request = begin(eft, rng, history, counts)
            if request is not None:
                under_way.append(request)
        if under_way:
            request = rng.choice(under_way)
            if go_on(request, counts):
                under_way.remove(request)
                check(plain, request, counts)
                remember(request, history, rng)
                faulthandler.dump_traceback_later(PATIENCE, exit=True)
        if counts.requests // 100 > told and counts.requests >= total / 5:
            told = counts.requests // 100
            counts.memory.append(process.memory_info().rss)
            left = (time.monotonic() - started) / counts.requests * (total - counts.requests)
            print(f"\r{counts.requests} of {total} requests, {left:.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    counts.memory.append(process.memory_info().rss)
    if len(counts.memory) == 1:
        counts.memory *= 2
    counts.seconds = time.monotonic() - started
    return counts


def begin(eft: EFT, rng: random.Random, history: list[list[dict[str, str]]], counts: Counts) -> Request | None:
    """A request like no other. None where it is refused: a prompt that is too long, or too many that wait."""
    counts.requests += 1
    prompt = a_prompt(rng, history)
    blend, sampling = a_blend(rng, eft.trait_names), a_sampling(rng)
    cancel = rng.randrange(0, 30) if rng.random() < 0.3 else None
    start = eft.stream if isinstance(prompt, str) else eft.chat
    try:
        reply = start(prompt, blend=blend, sampling=sampling)  # type: ignore[operator]
    except (ContextError, QueueFullError):
        counts.refused += 1
        return None
    return Request(prompt, blend, sampling, cancel, reply)


def go_on(request: Request, counts: Counts) -> bool:
    """One chunk more; True where that was the last, or the request is cancelled."""
    if request.cancel is not None and len(request.chunks) >= request.cancel:
        request.reply.close()
        counts.cancelled += 1
        return True
    try:
        request.chunks.append(next(request.reply))
    except Exception as error:
        print(f"\nfailed: {error!r}: {request.prompt!r:.60}, {request.blend}, {request.sampling}", file=sys.stderr)
        counts.failed += 1
        return True
    counts.finished += request.chunks[-1].finish_reason is not None
    return request.chunks[-1].finish_reason is not None


def check(plain: EFT, request: Request, counts: Counts) -> None:
    """Read a reply again in a plain run, and count what differs."""
    said = [chunk for chunk in request.chunks if chunk.token is not None]
    counts.tokens += len(said)
    if not said:
        return
    counts.drafts += said[-1].timings.checked
    counts.taken += said[-1].timings.accepted
    options = request.sampling
    greedy = options.temperature == 0 and options.repeat_penalty == 1 and options.grammar is None
    tokens = [int(chunk.token) for chunk in said if chunk.token is not None]
    for chunk, (token, logits) in zip(said, plain.replay(request.prompt, tokens, blend=request.blend), strict=True):
        if at_the_edge(request.blend.filter, logits["base"]):
            counts.at_the_edge += 1
            continue
        row = logits["blend"]
        if greedy:
            counts.greedy += 1
            judge(float(row.max()), float(row[token]), request, counts)
        if chunk.alternatives is not None:
            counts.log_probabilities += 1
            judge(chunk.alternatives.chosen, float(log_softmax(row.astype(np.float64))[token]), request, counts)


def at_the_edge(filter: Filter, base: NDArray[np.float32]) -> bool:
    """Whether a token is so near to the base's min-p that another batch size may put it on the other side.

    All probabilities change with it, for they are those of what is left.
    """
    if filter.base_min_p is None:
        return False
    return bool((np.abs(base - base.max() - math.log(filter.base_min_p)) < TOLERANCE).any())


def judge(told: float, expected: float, request: Request, counts: Counts) -> None:
    difference = 0.0 if told == expected else abs(told - expected)  # both may be −inf
    counts.largest = max(counts.largest, difference)
    if not difference <= TOLERANCE:
        counts.wrong += 1
        print(f"\nwrong by {difference}: {request.prompt!r:.60}, {request.blend}, {request.sampling}", file=sys.stderr)


def remember(request: Request, history: list[list[dict[str, str]]], rng: random.Random) -> None:
    """Let some conversations go on with another turn."""
    if isinstance(request.prompt, list):
        text = "".join(chunk.text for chunk in request.chunks)
        history.append([*request.prompt, {"role": "assistant", "content": text}])
        del history[: rng.randrange(2) if len(history) > 5 else 0]


def a_prompt(rng: random.Random, history: list[list[dict[str, str]]]) -> Any:
    """Plain text of any length, a chat's first turn, some under a system prompt, or the next turn of an earlier one."""
    kind = rng.random()
    if kind < 0.35:
        start = rng.randrange(len(TEXT))
        return (TEXT[start:] + TEXT * 9)[: rng.choice((rng.randrange(1, 60), rng.randrange(60, 400), 1500))]
    question = {"role": "user", "content": f"What is the capital of {rng.choice(('Peru', 'Norway', 'Chad', 'Laos'))}?"}
    if kind < 0.6 and history:
        return [*rng.choice(history), question]
    return [{"role": "system", "content": SYSTEM}, question] if kind < 0.8 else [question]


def a_blend(rng: random.Random, traits: tuple[str, ...]) -> Blend:
    def dial() -> float:
        return rng.choice((0.0, 1.0, 1.0, rng.uniform(0, 1.5)))

    weights = {name: rng.choice((0.0, 1.0, rng.uniform(0, 1))) for name in traits} if rng.random() < 0.5 else {}
    filters = (Filter(), Filter(), Filter(untuned_floor=-7.0), Filter(tuned_top_p=0.95), Filter(base_min_p=0.02))
    return Blend(dial(), dial(), weights, rng.choice(filters))


def a_sampling(rng: random.Random) -> Sampling:
    options: dict[str, Any] = {"max_tokens": rng.randrange(1, 60), "seed": rng.randrange(2**32)}
    kind = rng.random()
    if kind < 0.4:
        options |= {"temperature": 0}
    elif kind < 0.6:
        options |= {"temperature": rng.uniform(0.1, 1.5), "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    elif kind < 0.7:
        options |= {"repeat_penalty": 1.2, "temperature": rng.choice((0, 0.8))}
    elif kind < 0.75:
        options |= {"grammar": GRAMMAR}
    if rng.random() < 0.5:
        options |= {"logprobs": rng.randrange(4)}
    return Sampling(**options)


def soak_table(counts: Counts, growth: float, family: str) -> Table:
    def mb(size: int) -> str:
        return f"{size / 1e6:,.1f}"

    rows = [
        ("requests", f"{counts.requests:,}"),
        ("– finished", f"{counts.finished:,}"),
        ("– cancelled, at any point", f"{counts.cancelled:,}"),
        ("– refused: prompt too long, or queue full", f"{counts.refused:,}"),
        ("– failed", f"{counts.failed:,}"),
        ("tokens generated", f"{counts.tokens:,}"),
        ("drafts checked by the engine", f"{counts.drafts:,}"),
        ("– taken", f"{counts.taken:,}"),
        ("greedy tokens checked", f"{counts.greedy:,}"),
        ("log-probabilities checked", f"{counts.log_probabilities:,}"),
        ("not checked, for the filter base_min_p may fall either way", f"{counts.at_the_edge:,}"),
        (f"wrong by more than {TOLERANCE}", f"{counts.wrong:,}"),
        ("largest difference, nats", f"{counts.largest:.5f}"),
        ("MB in memory after a fifth of the requests", mb(counts.memory[0])),
        ("MB in memory later, at most", mb(max(counts.memory[1:]))),
        (f"growth, bound {GROWTH}", f"{growth:.4f} {'kept' if growth <= GROWTH else 'MISSED'}"),
        ("seconds", f"{counts.seconds:.0f}"),
    ]
    note = f"{SEQUENCES} places, a queue of {QUEUE}, up to {AT_ONCE} requests at once, a context of {CTX} tokens."
    return Table(f"A soak, family {family}", ("", ""), rows, note)


if __name__ == "__main__":
    sys.exit(main())
