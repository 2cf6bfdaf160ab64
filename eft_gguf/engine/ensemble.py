"""The loaded models and their contexts: decodes one batch on each, hands out rows of logits.

A member is one model's part in the blend: `base`, `untuned`, one per trait, and further untuned models (the plugin's
ensembles have no base, which another program has loaded). Members that name the same file share its weights, and a
trait that is a LoRA adapter sits on the weights of its untuned model; each member has a context of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.devices import place, queueing_order
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.llama import Adapter, Context, Model
from eft_gguf.engine.threads import default_threads
from eft_gguf.models.memory import output_rows
from eft_gguf.models.metadata import CONTROL, UNKNOWN, UNUSED, read_metadata
from eft_gguf.models.references import Reference

LONG_ROPE = "rope_factors_long.weight"
"""The tensor of models with LongRoPE (Phi-3, Phi-4-mini), whose sequences are kept apart: `Ensemble.separate`."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one sequence for one member's next decode; logits are wanted for the last `outputs` of them."""

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int


class Ensemble:
    """The members, references by name, in the order of the equation's factors, as `Family.members` has them.

    untuned_of: by trait, the name of its untuned member.
    ctx: tokens that each sequence can hold, in every member.  pinned: tokens of a further sequence, whose number is
    `sequences`, in the members that are not tuned; 0 for none.  batch: tokens a member decodes at a time, at most.
    progress: called with a line of text before each file is loaded.  `order` is the one in which members are best
    decoded: those on a GPU, which takes a decode into its queue, before those that the CPU computes beside it.

    Raises OptionError for a device that is not there, LoadError.
    """

    def __init__(
        self,
        members: Mapping[str, Reference],
        untuned_of: Mapping[str, str],
        *,
        ctx: int,
        batch: int,
        sequences: int,
        hardware: Hardware,
        pinned: int = 0,
        progress: Callable[[str], None],
    ) -> None:
        self.names = tuple(members)
        self.tuned = [member for member, name in enumerate(members) if name in untuned_of]
        self.untuned = [member for member, name in enumerate(members) if name in {"untuned", *untuned_of.values()}]
        self.ctx, self.batch, self.sequences = ctx, batch, sequences
        adapters = {name: untuned_of[name] for name, member in members.items() if member.adapter}
        placed = place(hardware.device, self.names, adapters)
        self.order = queueing_order([placed[name] for name in self.names])
        threads = hardware.threads or default_threads(reference.path for reference in members.values())
        self.hardware = replace(hardware, threads=threads)
        self._models: dict[object, Model] = {}
        self._adapters: list[Adapter] = []
        self._contexts: list[Context] = []
        self.separate: list[bool] = []
        try:
            for name, reference in members.items():
                adapter = None
                weights = members[untuned_of[name]].path if reference.adapter else reference.path
                key = weights, placed[name]
                if key not in self._models:
                    progress(f"loading {name}: {weights.name}")
                    self._models[key] = Model(
                        weights, gpu_layers=hardware.gpu_layers, devices=placed[name], repack=hardware.repack
                    )
                model = self._models[key]
                self.separate.append(LONG_ROPE in read_metadata(weights).tensors)
                if reference.adapter:
                    progress(f"loading {name}: adapter {reference.path.name}")
                    adapter = Adapter(model, reference.path, scale=reference.scale)
                    self._adapters.append(adapter)
                self._contexts.append(
                    Context(
                        model,
                        ctx=ctx,
                        batch=batch,
                        sequences=sequences,
                        outputs=self.outputs,
                        threads=threads,
                        pinned=0 if name in untuned_of else pinned,
                        separate=self.separate[-1],
                        adapter=adapter,
                        flash_attn=hardware.flash_attn,
                        kv_type=hardware.kv_type,
                    )
                )
        except BaseException:
            self.close()
            raise
        # Padding differs between sizes of some families: only ids that all members know can be blended.
        self.n_vocab = min(context.model.n_vocab for context in self._contexts)
        self.recurrent = [context.model.recurrent for context in self._contexts]
        self.end_tokens, self.never_sampled = special_tokens(self.models, self.n_vocab)

    @property
    def tokenizer(self) -> Model:
        """The model whose vocabulary and template count: the first tuned one's (an adapter's is the untuned's)."""
        return self._contexts[self.tuned[0]].model

    @property
    def models(self) -> tuple[Model, ...]:
        """The loaded weights: each file once on the same devices."""
        return tuple(self._models.values())

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return not self._contexts

    @property
    def outputs(self) -> int:
        """Rows of logits that one decode can give, at most."""
        return output_rows(self.sequences, self.batch)

    def decode(self, member: int, parts: Sequence[Part]) -> float:
        """Decode `parts` on a member and return the wall seconds that it took. Raises DecodeError."""
        context = self._contexts[member]
        context.batch.clear()
        for part in parts:
            context.batch.add(part.tokens, position=part.position, sequence=part.sequence, outputs=part.outputs)
        started = time.perf_counter()
        context.decode()
        return time.perf_counter() - started

    def rows(self, member: int) -> list[NDArray[np.float32]]:
        """The logits that the member's last decode gave, in the order asked for; views until its next decode."""
        return self._contexts[member].rows()

    def forget(self, member: int, sequence: int, position: int) -> int:
        """Drop a sequence's cache from `position` on; returns the position from which it must be decoded again."""
        context = self._contexts[member]
        if context.forget(sequence, position):
            return position
        # Recurrent states can't be cut back to an earlier token: start the sequence again.
        context.forget(sequence, 0)
        return 0

    def copy(self, member: int, source: int, target: int, start: int, stop: int) -> None:
        """Give a sequence what another one has cached at the positions from `start` to `stop`, where it has nothing.

        Of a recurrent model it is the other's whole state, which must be the one at `stop`.
        """
        context = self._contexts[member]
        if self.recurrent[member]:
            context.forget(target, 0)
            start = 0
        context.copy(source, target, start, stop)

    def close(self) -> None:
        """Free everything, in the order that llama.cpp asks for."""
        for context in self._contexts:
            context.close()
        for adapter in self._adapters:
            adapter.close()
        for model in self._models.values():
            model.close()
        self._contexts, self._adapters, self._models = [], [], {}


def special_tokens(models: Iterable[Model], n_vocab: int) -> tuple[frozenset[int], NDArray[np.int64]]:
    """Ids that end a reply, by any model's word, and ids below `n_vocab` that no reply may hold.

    Never sampled are unused entries, what a file says to suppress, and control tokens that end nothing, such as
    <|im_start|>: those are for prompts. A base may never have been trained on them, and then base − untuned is
    noise that could make one win. End tokens follow the equation like any other token, for a reply must end;
    neither base nor untuned was trained on them then, so they hardly differ and the tuned model decides.
    """
    ends: set[int] = set()
    barred: set[int] = set()
    for model in models:
        vocabulary = read_metadata(model.path).vocabulary
        marked = [] if vocabulary is None else vocabulary.marked().tolist()
        ends.update(token for token in marked if model.is_end(token))
        barred.update(model.suppressed())
        if vocabulary is not None and vocabulary.types is not None:
            barred.update(np.flatnonzero(np.isin(vocabulary.types, (UNKNOWN, CONTROL, UNUSED))).tolist())
    return frozenset(ends), np.array(sorted(token for token in barred - ends if token < n_vocab), np.int64)
