"""What one would run instead of eft-gguf on llama.cpp: the large model alone, and a plain loop over three models.

Both as their documentation has it, with the settings that come by default, but for the number of threads. Each gives
the seconds of a greedy reply, token by token, from the second token on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np

CPU_TIME = "EFT_GGUF_BENCHMARK_CPU_TIME"
"""The variable of the environment that has systems tell processor seconds in place of those that pass."""
clock = time.process_time if os.environ.get(CPU_TIME) else time.perf_counter

LOGPROBS = 5
"""How many of the likeliest tokens are told with each token, where log-probabilities are asked for."""


@dataclass(frozen=True)
class Files:
    """The models of a blend with one tuned model, which is an adapter on `untuned` where `adapter` says so."""

    base: Path
    untuned: Path
    tuned: Path
    adapter: bool


@dataclass
class Reply:
    """Tokens of a greedy reply, and the seconds of each but the first."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class BaseAlone:
    """llama.cpp on the large model alone, by its C functions: decode, and a greedy sampler of its own."""

    def __init__(self, files: Files, *, threads: int, ctx: int) -> None:
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(files.base).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = ctx, threads, threads
        self._context = lib.llama_init_from_model(self._model, params)
        self._sampler = lib.llama_sampler_init_greedy()

    def reply(self, prompt: Sequence[int], count: int) -> Reply:
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        self._decode(prompt)
        reply = Reply([self._sample()])
        for _ in range(count - 1):
            started = clock()
            self._decode(reply.tokens[-1:])
            reply.tokens.append(self._sample())
            reply.seconds.append(clock() - started)
        return reply

    def _decode(self, tokens: Sequence[int]) -> None:
        ids = (lib.llama_token * len(tokens))(*tokens)
        if lib.llama_decode(self._context, lib.llama_batch_get_one(ids, len(tokens))) != 0:
            raise RuntimeError("llama.cpp could not decode a batch")

    def _sample(self) -> int:
        return int(lib.llama_sampler_sample(self._sampler, self._context, -1))


class LlamaLoop:
    """The equation over three `llama_cpp.Llama` objects, in NumPy.

    `logits_all` is what the class needs to hand out logits at all. With `logprobs` each token's log-probability and
    those of the likeliest are told as `Llama.create_completion` makes them: by sorting the vocabulary.
    """

    def __init__(self, files: Files, *, threads: int, ctx: int, logprobs: bool) -> None:
        def load(path: Path, adapter: Path | None = None) -> llama_cpp.Llama:
            return llama_cpp.Llama(
                model_path=str(path),
                n_ctx=ctx,
                n_threads=threads,
                n_threads_batch=threads,
                logits_all=True,
                lora_path=str(adapter) if adapter else None,
                verbose=False,
            )

        self._base, self._untuned = load(files.base), load(files.untuned)
        self._tuned = load(files.untuned, files.tuned) if files.adapter else load(files.tuned)
        self._logprobs = logprobs

    def reply(self, prompt: Sequence[int], count: int) -> Reply:
        for llama in (self._base, self._untuned, self._tuned):
            llama.reset()
        reply = Reply([self._next(list(prompt))])
        for _ in range(count - 1):
            started = clock()
            reply.tokens.append(self._next(reply.tokens[-1:]))
            reply.seconds.append(clock() - started)
        return reply

    def _next(self, tokens: list[int]) -> int:
        for llama in (self._base, self._untuned, self._tuned):
            llama.eval(tokens)
        base, untuned, tuned = (llama.scores[llama.n_tokens - 1] for llama in (self._base, self._untuned, self._tuned))
        blended = base + (tuned - untuned)
        token = int(np.argmax(blended))
        if self._logprobs:
            logs = llama_cpp.Llama.logits_to_logprobs(blended).tolist()
            best = sorted(zip(logs, range(len(logs)), strict=True), reverse=True)[:LOGPROBS]
            {self._base.detokenize([other]).decode("utf-8", "ignore"): log for log, other in best}
        return token
