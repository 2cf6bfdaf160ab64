"""Systems that give the same reply in different ways, each in a process of its own so that none disturbs another.

Threads of one that wait, memory, and OpenMP libraries stay apart. This file is both sides: `System` starts
`python systems.py` and talks to it in lines of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

if __name__ == "__main__":  # started as a script, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from eft_gguf import EFT, Sampling
from eft_gguf.models.family import Family
from eft_gguf.speed.measure import peak_memory
from measure.plain_loops import LOGPROBS, BaseAlone, Files, LlamaLoop, Reply, clock


class Loop(Protocol):
    """One way to a greedy reply."""

    def reply(self, prompt: Sequence[int], count: int) -> Reply:
        """At most `count` tokens after a prompt."""


class Ours:
    """eft-gguf, as a caller of `EFT.stream` sees it."""

    def __init__(self, files: Files, *, threads: int, ctx: int, logprobs: bool = False, **options: Any) -> None:
        tuned = f"lora:{files.tuned}" if files.adapter else files.tuned
        self._eft = EFT.open(base=files.base, untuned=files.untuned, tuned=tuned, threads=threads, ctx=ctx, **options)
        self._logprobs = LOGPROBS if logprobs else None

    def reply(self, prompt: Sequence[int], count: int) -> Reply:
        # `stream` puts the BOS token of a model that wants one before the text by itself.
        text = b"".join(map(self._eft.bytes_of, prompt[prompt[0] == self._eft.start_token :])).decode()
        reply, started = Reply(), 0.0
        for chunk in self._eft.stream(
            text, sampling=Sampling(temperature=0, max_tokens=count, logprobs=self._logprobs)
        ):
            now = clock()
            if chunk.token is None:
                continue
            if reply.tokens:
                reply.seconds.append(now - started)
            reply.tokens.append(chunk.token)
            started = now
        return reply


@dataclass(frozen=True)
class Answer:
    """What a system says of one reply. seconds: of a token after the first, on average.  peak: bytes so far."""

    tokens: list[int]
    seconds: float
    peak: int


class System:
    """A system that runs in a process of its own. Raises RuntimeError with its last words where it cannot be had."""

    def __init__(self, name: str, family: Family, *, threads: int, ctx: int, **options: Any) -> None:
        self.name = name
        tuned = family.tuned[0].model
        asked = {
            "name": name,
            "files": [str(path) for path in (family.base.path, family.untuned.path, tuned.path)],
            "adapter": tuned.adapter,
            "options": {"threads": threads, "ctx": ctx, **options},
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()  # it is ready

    def reply(self, prompt: Sequence[int], count: int) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([list(prompt), count]) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._line()))

    def __enter__(self) -> System:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}; its message is above")
        return line


def make(name: str, files: Files, **options: Any) -> Loop:
    """The system of a name, loaded."""
    if name == "transformers":
        from measure.transformers_loop import TransformersLoop

        return TransformersLoop(files, **options)
    return {"eft-gguf": Ours, "base alone": BaseAlone, "llama-cpp-python": LlamaLoop}[name](files, **options)


def main() -> None:
    asked = json.loads(sys.argv[1])
    base, untuned, tuned = map(Path, asked["files"])
    loop = make(asked["name"], Files(base, untuned, tuned, asked["adapter"]), **asked["options"])
    print("ready", flush=True)
    for line in sys.stdin:
        reply = loop.reply(*json.loads(line))
        seconds = sum(reply.seconds) / max(1, len(reply.seconds))
        print(json.dumps(asdict(Answer(reply.tokens, seconds, peak_memory()))), flush=True)


if __name__ == "__main__":
    main()
