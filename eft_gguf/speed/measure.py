"""Measures a family's speed, part by part: each model alone, the blend, turns of a chat, several replies at once."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.completion import Chunk
from eft_gguf.eft import EFT
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import ContextError
from eft_gguf.models.family import Family, read_family
from eft_gguf.models.fit import Plan, free_memory
from eft_gguf.speed.drafts import measure_drafts
from eft_gguf.speed.result import Aggregate, Alone, Blended, Peak, Speed, Turn
from eft_gguf.speed.spread import Spread

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
SEQUENCES = (1, 2, 4, 8, 16)
PROMPT = "The lighthouse stood at the end of a long pier, and every evening"
TEXT = PROMPT + (
    " its keeper climbed the stairs, trimmed the lamp and wrote the names of passing ships into a book. On clear "
    "nights he counted them twice. When fog came in he rang the bell every minute until morning, and nobody slept. "
)
QUESTIONS = (
    "What is the capital of Peru?",
    "And which sea or ocean is it near?",
    "Name one other town there.",
    "How would you travel from the one to the other?",
    "Which of the two would you rather live in, and why?",
    "What do people eat there in the morning?",
    "When is the best time of the year to go?",
    "How much would a week there cost?",
    "What should I read before I leave?",
    "Now say all that in one sentence.",
)
PREFILL, REPLY, TURN_REPLY, AGGREGATE_CTX = 512, 16, 24, 512
"""Tokens: of the prompt to be timed, of each reply, of a reply in a chat, of context for each of several replies."""
DRAFTS = "the length of drafts"
DEPTH = 32
"""Tokens before those that a model decodes alone; a reply to `PROMPT` begins at 15 and goes on to some 40."""
FEWEST_STEPS = 4
MOST_STEPS = 64

Tick = Callable[[str, float], None]
"""Called between decodes with what is being measured and the seconds that are left; may raise to end it."""


class _Clock:
    """Shares a budget of time among parts, and tells how much of it is left."""

    def __init__(self, parts: int, seconds: float, tick: Tick) -> None:
        self._left, self.seconds, self._tick = parts, seconds, tick

    def rounds(self, what: str, *, least: int = 3) -> Iterator[int]:
        """Rounds of one part: until its share of time is used up, but `least` in any case."""
        self._left -= 1
        started, done = time.perf_counter(), 0
        while done < least or time.perf_counter() - started < self.seconds:
            used = time.perf_counter() - started
            rest = max(self.seconds, used / done * least if done else 0) - used
            self.tick(what, max(0, rest))
            yield done
            done += 1

    def tick(self, what: str, rest: float = 0) -> None:
        """Tell what is done, and that it takes `rest` seconds more, besides the parts after it."""
        self._tick(what, rest + self._left * self.seconds)


class _Reader:
    """Decodes on one member by itself, always after the same number of tokens."""

    def __init__(self, ensemble: Ensemble, member: int, ids: list[int]) -> None:
        self._ensemble, self._member, self._ids = ensemble, member, ids
        self._depth = min(DEPTH, ensemble.ctx // 4, ensemble.batch)
        self._begun = False

    def read(self, count: int, *, outputs: int) -> float:
        """Seconds of a decode of `count` tokens, their logits at hand."""
        # A recurrent state cannot be taken back to the depth: it is made anew.
        if not self._begun or self._ensemble.forget(self._member, 0, self._depth) == 0:
            self.clear()
            self._decode(0, self._depth, 1)
            self._begun = True
        return self._decode(self._depth, count, outputs)

    def prompt(self, length: int) -> float:
        """Seconds of a prompt of `length` tokens from the beginning."""
        self.clear()
        batch = self._ensemble.batch
        return sum(self._decode(start, min(batch, length - start), 1) for start in range(0, length, batch))

    def clear(self) -> None:
        """Leave nothing in the cache."""
        self._ensemble.forget(self._member, 0, 0)
        self._begun = False

    def _decode(self, position: int, count: int, outputs: int) -> float:
        tokens = [self._ids[(position + i) % len(self._ids)] for i in range(count)]
        started = time.perf_counter()
        self._ensemble.decode(self._member, [Part(0, position, tokens, outputs)])
        self._ensemble.rows(self._member)  # waits for a GPU
        return time.perf_counter() - started


def measure_speed(options: Mapping[str, Any], speed: Speed, tick: Tick, *, quick: bool) -> None:
    """Open a family and fill in `speed`, part by part, so that what was measured is there if `tick` ends it.

    options: as for `EFT.open`.  quick: a fraction of a second for each part where that is enough; else some seconds.
    """
    clock = _Clock(parts=8, seconds=0.3 if quick else 5.0, tick=tick)
    with EFT.open(**options) as eft:
        speed.settings |= settings(eft)
        _models(eft, speed, clock)
        _blend(eft, speed, clock)
        speed.memory = _memory(eft, speed.settings)
        _turns(eft, speed, clock)
        rounds = clock.rounds(DRAFTS)
        speed.drafts = measure_drafts(eft, QUESTIONS, rounds, lambda: clock.tick(DRAFTS))
        ctx = min(eft.ctx, AGGREGATE_CTX)
        room = _room(eft.family, ctx, speed.settings)
    counts = [count for count in SEQUENCES if count <= room]
    if len(counts) > 1:
        wide = {**options, "ctx": ctx, "sequences": counts[-1], "batch": max(128, options.get("batch") or 0)}
        clock.tick("loading for several replies")
        with EFT.open(**wide) as eft:
            _aggregate(eft, counts, speed, clock)


def settings(eft: EFT) -> dict[str, Any]:
    """What the figures depend on besides the machine."""
    ensemble = eft._ensemble
    hardware = {key: value for key, value in asdict(ensemble.hardware).items() if value is not None}
    return {
        "family": eft.family.name,
        "ctx": eft.ctx,
        "batch": ensemble.batch,
        **hardware,
        "speculate": eft.speculation["setting"],
    }


def _models(eft: EFT, speed: Speed, clock: _Clock) -> None:
    """Each model alone: before the engine has read anything, for it keeps records of what the caches hold."""
    ensemble = eft._ensemble
    tokens = [token for token in ensemble.tokenizer.tokenize(TEXT, special=False) if token < ensemble.n_vocab]
    readers = {name: _Reader(ensemble, member, tokens) for member, name in enumerate(eft.members)}
    for reader in readers.values():
        reader.read(1, outputs=1)  # brings the weights into memory
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in clock.rounds("each model alone"):
        for name, reader in readers.items():
            seconds[name].extend(reader.read(1, outputs=1) for _ in range(4))
    length = min(PREFILL, eft.ctx - 1)
    prompts: dict[str, list[float]] = {name: [] for name in readers}
    for _ in clock.rounds("each model reading a prompt", least=1):
        for name, reader in readers.items():
            prompts[name].append(reader.prompt(length))
    for name in readers:
        speed.alone[name] = Alone(Spread.of(seconds[name]), length / Spread.of(prompts[name]).median)
    sizes = [size for size in SIZES if size <= min(ensemble.outputs, eft.ctx // 4)]
    costs: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in readers}
    for number in clock.rounds("batches of 1 to 16 tokens"):
        for size in sizes:
            for name, reader in readers.items():
                if number == 0:
                    reader.read(size, outputs=size)  # llama.cpp plans the first decode of a size
                costs[name][size].append(reader.read(size, outputs=size))
    speed.batch_cost = {
        name: {size: Spread.of(values) for size, values in by_size.items()} for name, by_size in costs.items()
    }
    for reader in readers.values():
        reader.clear()


def _blend(eft: EFT, speed: Speed, clock: _Clock) -> None:
    tokens: list[float] = []
    decodes = generated = 0.0
    for number in clock.rounds("the blend"):
        timings = _run(eft.stream(PROMPT, sampling=Sampling(seed=number, max_tokens=REPLY))).timings
        after_first = timings.later_tokens
        if number and after_first > 0:  # the first reply compiles, or loads what was compiled
            tokens.append(timings.decode_seconds / after_first)
            decodes += sum(timings.model_seconds.values())
            generated += after_first
    prompt = _repeated(eft, min(PREFILL, eft.ctx - 16))
    rates = []
    for number in clock.rounds("the blend reading a prompt", least=1):
        # Nothing that an earlier prompt left in the cache is of use to one that begins otherwise.
        chunk = _run(eft.stream(f"{number}. {prompt}", sampling=Sampling(temperature=0, max_tokens=1)))
        rates.append(chunk.timings.prefill_tokens_per_second)
    if tokens:
        spread = Spread.of(tokens)
        share = decodes / generated / (sum(tokens) / len(tokens))
        speed.blend = Blended(spread, min(1.0, share) * spread.median, Spread.of(rates).median)


def _run(reply: Generator[Chunk, None, None]) -> Chunk:
    """A reply's last chunk."""
    with closing(reply):
        return list(reply)[-1]


def _turns(eft: EFT, speed: Speed, clock: _Clock) -> None:
    messages: list[dict[str, str]] = []
    for number, question in enumerate(QUESTIONS, start=1):
        clock.tick("turns of a chat")
        messages.append({"role": "user", "content": question})
        text = ""
        started, first = time.perf_counter(), 0.0
        try:
            reply = eft.chat(messages, sampling=Sampling(seed=number, max_tokens=TURN_REPLY))
        except ContextError:  # a small context holds fewer turns
            break
        with closing(reply):
            for chunk in reply:
                if chunk.token is not None and not first:
                    first = time.perf_counter() - started
                text += chunk.text
        messages.append({"role": "assistant", "content": text})
        speed.turns.append(Turn(number, chunk.timings.prompt_tokens, chunk.timings.cached_tokens, first))


def _aggregate(eft: EFT, counts: list[int], speed: Speed, clock: _Clock) -> None:
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for number in clock.rounds("several replies at once", least=1):
        for count in counts:
            clock.tick(f"{count} replies at once")
            if rate := _together(eft, count, seed=100 * number, seconds=clock.seconds / len(counts)):
                rates[count].append(rate)
    used = members_needed(eft.family.factors(eft.family.blend), Filter())
    by_member = [speed.batch_cost[eft.members[member]] for member in used]
    for count in counts:
        costs = [by_size[count].median for by_size in by_member if count in by_size]
        if rates[count] and len(costs) == len(used):
            speed.aggregate.append(Aggregate(count, Spread.of(rates[count]).median, count / sum(costs)))


def _together(eft: EFT, count: int, seed: int, seconds: float) -> float:
    """Tokens a second of `count` replies at once; 0 where one ended too soon to tell.

    A step gives each of them a token, whoever asks for it; with drafts, several at times.
    """
    options = [Sampling(seed=seed + number, max_tokens=2 * MOST_STEPS) for number in range(count)]
    replies = [eft.stream(PROMPT, sampling=option) for option in options]
    shown = [0] * count

    def pull(number: int) -> Chunk:
        chunk = next(replies[number])
        shown[number] += chunk.token is not None
        return chunk

    def generated() -> int:
        return sum(chunk.timings.generated_tokens for chunk in chunks)

    try:
        chunks = [pull(number) for number in range(count)]
        for least in (1, 0):  # all have begun; then nobody has tokens that were not shown yet
            for number in range(count):
                while chunks[number].finish_reason is None and (
                    shown[number] < least or shown[number] < chunks[number].timings.generated_tokens
                ):
                    chunks[number] = pull(number)
        before, steps, started = generated(), 0, time.perf_counter()
        while all(chunk.finish_reason is None for chunk in chunks) and steps < MOST_STEPS:
            if steps >= FEWEST_STEPS and time.perf_counter() - started > seconds:
                break
            chunks = [pull(number) for number in range(count)]
            steps += 1
        elapsed = time.perf_counter() - started
        return (generated() - before) / elapsed if steps >= FEWEST_STEPS else 0.0
    finally:
        for reply in replies:
            reply.close()


def _memory(eft: EFT, settings: Mapping[str, Any]) -> Peak:
    need = _plan(eft.family, settings).at(eft.ctx)
    return Peak(peak_memory(), need.total, need.files, need.kv)


def _room(family: Family, ctx: int, settings: Mapping[str, Any]) -> float:
    """How many replies at once a quarter of the memory that is free has room for."""
    return free_memory() / 4 / max(1, _plan(family, settings).at(ctx).kv)


def _plan(family: Family, settings: Mapping[str, Any]) -> Plan:
    base, untuned, others = read_family(family)
    members = {"base": base, "untuned": untuned, **others}
    chosen = {name: settings[name] for name in ("batch", "kv_type")}
    return Plan(members, family.untuned_of, flash_attention=settings["flash_attn"] != "off", **chosen)


def _repeated(eft: EFT, length: int) -> str:
    """The text again and again, as far as it has `length` tokens at most."""
    count = eft._ensemble.tokenizer.tokenize
    text = TEXT * (1 + length * 16 // len(TEXT))
    while len(count(text, special=False)) > length:
        text = text[: len(text) * 15 // 16]
    return text


def peak_memory() -> int:
    """The most bytes that this process has had in memory so far."""
    try:
        # The child of a large process inherits its ru_maxrss on some kernels; VmHWM starts anew with the program.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
