"""The user's prompts put to models under several settings: greedy replies, marked, and kept in the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Blend
from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.evaluation.cases import Case
from eft_gguf.evaluation.marks import Marks, mark, repetition
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import Share

SPEED_PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply and its marks. tokens: the end token included.  finished: it ended by itself."""

    text: str
    tokens: int
    finished: bool
    repetition: float
    accuracy: float | None
    form: bool | None

    @property
    def success(self) -> bool | None:
        """As in `Marks`."""
        return Marks(self.accuracy, self.form).success


def key(part: str, case: Case) -> str:
    """Under which the replies to a prompt are kept in a run."""
    return f"{part}/{case.line}"


def ask(
    eft: EFT,
    cases: Sequence[Case],
    blends: Mapping[str, Blend],
    *,
    run: Run,
    part: str,
    max_tokens: int,
    timeout: float = 60.0,
    system: str | None = None,
    examples: bool = False,
    done: Callable[[], None] = lambda: None,
) -> dict[str, list[Reply]]:
    """Replies by the name of the setting, in the order of the prompts. What the run holds already is not asked again.

    system: said to the models before each prompt.  examples: whether base and untuned are shown them.
    done: called after each prompt that was asked now.

    Raises EFTError, with the prompt's line, where a judge fails or a prompt does not fit.
    """
    found: dict[str, list[Reply]] = {name: [] for name in blends}
    for case in cases:
        place = key(part, case)
        if place not in run.done:
            messages = case.messages if system is None else told(case.messages, system)
            try:
                completions = eft.greedy_replies(
                    messages, list(blends.values()), max_tokens=max_tokens, examples=examples
                )
            except EFTError as error:
                raise OptionError(f"line {case.line}: {error.message}", hint=error.hint) from None
            replies = {}
            for name, completion in zip(blends, completions, strict=True):
                finished = completion.finish_reason == "stop"
                marks = mark(case, completion.text, finished, timeout=timeout)
                repeated = round(repetition(completion.tokens), 6)
                reply = Reply(completion.text, len(completion.tokens), finished, repeated, marks.accuracy, marks.form)
                replies[name] = asdict(reply)
            run.add(place, replies)
            done()
        for name in blends:
            found[name].append(Reply(**run.done[place][name]))
    return found


def told(messages: Sequence[Mapping[str, str]], system: str) -> list[Mapping[str, str]]:
    """The messages with a system message before them, or with its text before that of their own."""
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{system}\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": system}, *messages]


def speeds(
    eft: EFT, cases: Sequence[Case], blends: Mapping[str, Blend], *, max_tokens: int, examples: bool = False
) -> dict[str, float | None]:
    """Tokens per second after the first, by setting: the first prompts, one reply at a time as a user has it."""
    sampling, rates = Sampling(temperature=0, max_tokens=max_tokens), {}
    for name, blend in blends.items():
        timings = [
            eft.complete(case.messages, blend=blend, sampling=sampling, examples=examples).timings
            for case in cases[:SPEED_PROMPTS]
        ]
        seconds = sum(one.decode_seconds for one in timings)
        rates[name] = round(sum(one.later_tokens for one in timings) / seconds, 3) if seconds else None
    return rates


@dataclass(frozen=True, slots=True)
class Figures:
    """What replies of one setting come to. success, accuracy, form: of the prompts where it is scored."""

    success: Share
    accuracy: Share
    form: Share
    tokens: float
    cut_off: Share
    repetition: float

    @classmethod
    def of(cls, replies: Sequence[Reply]) -> Figures:
        """Of at least one reply."""
        return cls(
            share([reply.success for reply in replies]),
            share([reply.accuracy for reply in replies]),
            share([reply.form for reply in replies]),
            sum(reply.tokens for reply in replies) / len(replies),
            share([not reply.finished for reply in replies]),
            sum(reply.repetition for reply in replies) / len(replies),
        )


def share(marks: Sequence[float | None]) -> Share:
    """Of the marks that there are."""
    given = [float(mark) for mark in marks if mark is not None]
    return Share(sum(given), len(given))


def successes(replies: Sequence[Reply]) -> list[bool]:
    """Of the prompts where it is scored."""
    return [reply.success for reply in replies if reply.success is not None]


def marks_of(replies: Sequence[Reply], name: str) -> NDArray[np.float64]:
    """`success`, `accuracy` or `form` of the prompts where it is scored, as numbers."""
    values = [getattr(reply, name) for reply in replies]
    return np.array([value for value in values if value is not None], np.float64)
