"""The command line run in this process, with a state folder of its own; and models that say what a test wants."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import eft_gguf
from eft_gguf import Blend, Chunk, Sampling
from eft_gguf.cli.main import run_command
from eft_gguf.engine.sequence import Timings
from eft_gguf.errors import ContextError
from eft_gguf.models.family import Family, Trait
from eft_gguf.models.references import Reference


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that chats and history go to."""
    folder = tmp_path / "state"
    monkeypatch.setenv("EFT_GGUF_HOME", str(folder))
    return folder


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run `eft-gguf` with these arguments, and standard input from a pipe."""

    def call(*arguments: str, stdin: str | bytes = "") -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        code = run_command(list(arguments))
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


FAMILY = Family(
    "fake",
    Reference("large.gguf", Path("/models/large.gguf"), False),
    Reference("small.gguf", Path("/models/small.gguf"), False),
    (
        Trait("helpful", Reference("helpful.gguf", Path("/models/helpful.gguf"), False), 0.7),
        Trait("cautious", Reference("lora:cautious.gguf", Path("/models/cautious.gguf"), True), 0.3),
    ),
    path=Path("/models/family.toml"),
)


@dataclass
class FakeEFT:
    """Follows the interface of `EFT` without models: it answers "reply N to: QUESTION", word by word.

    Tests use it where they need to see what a command asks for, or to have something happen in mid-reply
    (`before_word`); all else is tested with the bundled family.
    """

    requests: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    opening: list[str] = field(default_factory=list)
    before_word: Callable[[int], None] = lambda number: None
    ctx: int = 512
    family: Family = FAMILY
    trait_names: tuple[str, ...] = ("helpful", "cautious")
    members: tuple[str, ...] = ("base", "untuned", "helpful", "cautious")

    def open(self, family: str | None = None, **options: Any) -> FakeEFT:
        self.options = {"family": family, **options}
        return self

    def __enter__(self) -> FakeEFT:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def stream(self, prompt: str, *, blend: Blend, sampling: Sampling) -> Iterator[Chunk]:
        return self._answer(prompt, [prompt], blend, sampling)

    def examples(self, blend: Blend) -> tuple[Mapping[str, str], ...]:
        return ()

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, blend: Blend, sampling: Sampling, examples: bool = True
    ) -> Iterator[Chunk]:
        return self._answer(messages[-1]["content"], [dict(message) for message in messages], blend, sampling)

    def _answer(self, question: str, request: list[Any], blend: Blend, sampling: Sampling) -> Iterator[Chunk]:
        self.requests.append({"prompt": request, "blend": blend, "sampling": sampling})
        if question == "too long":
            raise ContextError("the prompt has 600 tokens, the context holds 512", hint="pass --ctx 600")
        return self._chunks(f"reply {len(self.requests)} to: {question}", sampling)

    def _chunks(self, text: str, sampling: Sampling) -> Iterator[Chunk]:
        timings = Timings(prompt_tokens=20, cached_tokens=8, prefill_total=12, seed=sampling.seed or 7)
        yield Chunk("", None, None, timings)
        timings.prefill_done = 12
        words = self.opening + text.split(" ")
        for number, word in enumerate(words):
            self.before_word(number)
            timings.generated_tokens += 1
            timings.decode_seconds += 0.01
            timings.model_seconds = {name: timings.decode_seconds / 4 for name in self.members}
            yield Chunk(word + (" " if word and number < len(words) - 1 else ""), number, None, timings)
        yield Chunk("", 0, "stop", timings)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEFT:
    eft = FakeEFT()
    monkeypatch.setattr(eft_gguf, "EFT", eft, raising=False)
    return eft
