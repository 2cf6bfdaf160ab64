"""The draft-length curve: how fast replies come with 0 to 16 tokens drafted a round, and as `auto` chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.sequence import Timings
from eft_gguf.engine.speculation import AUTO, Speculation
from eft_gguf.speed.result import Drafted
from eft_gguf.speed.spread import Spread

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
REPLY = 48
"""Tokens: drafts are worth more or less from place to place, so replies are longer than those that time a token."""


def measure_drafts(
    eft: EFT, questions: Sequence[str], rounds: Iterable[int], tick: Callable[[], None]
) -> list[Drafted]:
    """Replies with each length in turn, round by round; `auto` last, where the family was opened with it.

    In a round all answer the same question with the same seed.  tick: called before each reply.  Empty where a member
    cannot roll back, or speculation is off.
    """
    opened = eft._engine._speculation
    if opened is None or opened.cannot_roll_back:
        return []
    ways: dict[str, Speculation | None] = {str(length): fixed(eft, opened, length) for length in LENGTHS}
    if opened.length is None:
        ways[AUTO] = opened
    for way in ways.values():  # the first compiles, or loads what was compiled
        with _speculating(eft, way):
            eft.complete(questions[0], sampling=Sampling(seed=0, max_tokens=3))
    timings: dict[str, list[Timings]] = {name: [] for name in ways}
    for number in rounds:
        message = {"role": "user", "content": questions[number % len(questions)]}
        replies = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            tick()
            # With the question cached, drafts would come with the first token, which is not timed.
            eft.complete("#", sampling=Sampling(temperature=0, max_tokens=1))
            with _speculating(eft, ways[name]):
                replies[name] = eft.complete([message], sampling=Sampling(seed=number, max_tokens=REPLY)).timings
        if all(reply.later_tokens for reply in replies.values()):
            for name, reply in replies.items():
                timings[name].append(reply)
    plain = [1 / reply.tokens_per_second for reply in timings["0"]]
    return [_drafted(name, timings[name], plain) for name in ways if plain]


def _drafted(name: str, timings: Sequence[Timings], plain: Sequence[float]) -> Drafted:
    """plain: seconds a token of the same replies without drafts."""
    seconds = [1 / reply.tokens_per_second for reply in timings]
    checked, rounds = sum(each.checked for each in timings), sum(each.rounds for each in timings)
    return Drafted(
        name,
        Spread.of(seconds),
        Spread.of([alone / own for alone, own in zip(plain, seconds, strict=True)]),
        sum(each.accepted for each in timings) / checked if checked else None,
        sum(each.drafted for each in timings) / max(1, rounds),
    )


def fixed(eft: EFT, opened: Speculation, length: int) -> Speculation | None:
    """Speculation with so many drafts a round, None for none."""
    if length == 0:
        return None
    return Speculation(eft._ensemble, rolls_back=opened._rolls_back, length=length)


@contextmanager
def _speculating(eft: EFT, speculation: Speculation | None) -> Iterator[None]:
    engine = eft._engine
    before, engine._speculation = engine._speculation, speculation
    try:
        yield
    finally:
        engine._speculation = before
