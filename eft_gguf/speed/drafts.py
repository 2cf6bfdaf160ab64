"""The draft-length curve: how fast replies come with 0 to 16 tokens drafted a round, and as `auto` chooses."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager, closing
from collections.abc import Iterator

from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.sequence import Timings
from eft_gguf.engine.speculation import AUTO, Speculation
from eft_gguf.speed.result import Drafted
from eft_gguf.speed.spread import Spread

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
REPLY = 48
"""Tokens: drafts are worth more or less from place to place, so replies are longer than those that time a token."""


def measure_drafts(eft: EFT, questions: Iterable[str], rounds: Iterable[int]) -> list[Drafted]:
    """Replies with each length in turn, round by round; `auto` last, where the family was opened with it.

    In a round all answer the same question with the same seed. Empty where a member cannot roll back.
    """
    opened = eft._engine._speculation
    if opened is None or opened.cannot_roll_back:
        return []
    questions = list(questions)
    ways: dict[str, Speculation | None] = {str(length): fixed(eft, opened, length) for length in LENGTHS}
    if opened.length is None:
        ways[AUTO] = opened
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    timings: dict[str, list[Timings]] = {name: [] for name in ways}
    for number in rounds:
        message = {"role": "user", "content": questions[number % len(questions)]}
        for name in sorted(ways, reverse=bool(number % 2)):
            with _speculating(eft, ways[name]):
                reply = eft.complete([message], sampling=Sampling(seed=number, max_tokens=REPLY)).timings
            if reply.generated_tokens > 1:
                seconds[name].append(reply.decode_seconds / (reply.generated_tokens - 1))
                timings[name].append(reply)
    plain = seconds["0"]
    return [
        Drafted(
            name,
            Spread.of(seconds[name]),
            Spread.of([alone / own for alone, own in zip(plain, seconds[name], strict=True)]),
            *_of_all(timings[name]),
        )
        for name in ways
        if seconds[name]
    ]


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


def _of_all(timings: list[Timings]) -> tuple[float | None, float]:
    """(the share of checked drafts that was taken, drafts a round) over several replies."""
    checked, rounds = sum(each.checked for each in timings), sum(each.rounds for each in timings)
    taken = sum(each.accepted for each in timings) / checked if checked else None
    return taken, sum(each.drafted for each in timings) / max(1, rounds)
