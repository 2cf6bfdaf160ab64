"""EFT as a LogitsProcessor: an existing program keeps its `llama_cpp.Llama`, which is the base of the blend.

    llama = Llama("large.gguf")
    steer = EFTProcessor(llama, untuned="small.gguf", tuned="lora:adapter.gguf", blend=Blend(behaviour=0.8))
    llama.create_chat_completion(messages, logits_processor=LogitsProcessorList([steer]))

Template, context, end of generation and sampling stay the host's; docs/plugin.md lists what follows from that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from numpy.typing import NDArray

from eft_gguf.blend.compiled import FilteredBlend, kernels
from eft_gguf.blend.equation import Blend, Filter, members_needed
from eft_gguf.engine.engine import Engine
from eft_gguf.engine.ensemble import Ensemble, special_tokens
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.llama import Model
from eft_gguf.errors import ContextError, EFTError, OptionError
from eft_gguf.models.compatibility import require
from eft_gguf.models.family import Tuned, family_from_references, read_family
from eft_gguf.models.fit import context_length

if TYPE_CHECKING:
    from llama_cpp import Llama


class EFTProcessor:
    """Blends untuned and tuned models into the logits of a `Llama`. One reply at a time; close it when done.

    llama: the base, loaded from a file.  untuned, tuned: references as for `EFT.open`.
    blend: the dials; assign to `blend` to change them, from the next token on.
    ctx: tokens of context of untuned and tuned; by default the host's, or what they were trained for.
    threads: of their decodes, by default as many as the host's.  batch, gpu_layers, progress: as for `EFT.open`.

    Raises OptionError, ModelFileError, CompatibilityError, ContextError or LoadError, each with a hint. What goes
    wrong later is raised by the call of the host's that draws the token.
    """

    def __init__(
        self,
        llama: Llama,
        *,
        untuned: str | Path,
        tuned: Tuned,
        blend: Blend | None = None,
        ctx: int | None = None,
        batch: int = 128,
        threads: int | None = None,
        gpu_layers: int = -1,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        for name, value in {"ctx": ctx, "batch": batch, "threads": threads}.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} must be 1 or more, not {value}", hint="leave it out for the default")
        path = getattr(llama, "model_path", None)
        if not path:
            raise OptionError(
                "this Llama names no model file, so that its vocabulary cannot be compared",
                hint="make it with Llama(model_path=...) or Llama.from_pretrained",
            )
        self._family = family = family_from_references(path, untuned, tuned)
        base, small, others = read_family(family)
        findings = require(base, small, others, family.untuned_of)
        self.warnings = [finding for finding in findings if finding.severity != "note"]
        self.ctx = context_length(ctx, (small, *others.values()), default=llama.n_ctx())
        # Places among all members; those of the ensemble, which is without the base, are one less.
        self._untuned = [m for m, name in enumerate(family.members) if name in {"untuned", *family.untuned_of.values()}]
        self.blend = blend or Blend()
        self._ensemble = Ensemble(
            {name: reference for name, reference in family.members.items() if name != "base"},
            family.untuned_of,
            ctx=self.ctx,
            batch=batch,
            sequences=1,
            hardware=Hardware(threads or llama.n_threads, gpu_layers),
            progress=progress or (lambda line: None),
        )
        try:
            self._engine = Engine(self._ensemble)
            vocabulary = Model(base.path, vocab_only=True)
            self._n_vocab = min(self._ensemble.n_vocab, vocabulary.n_vocab)
            self.end_tokens, self._never = special_tokens([vocabulary, *self._ensemble.models], self._n_vocab)
            vocabulary.close()
        except BaseException:
            self._ensemble.close()
            raise
        self._filtered = FilteredBlend(self._n_vocab, self._untuned)
        self._host = _HostSample.of(llama)

    @property
    def blend(self) -> Blend:
        """The dials in use. Assigning raises OptionError for an unknown trait."""
        return self._blend

    @blend.setter
    def blend(self, blend: Blend) -> None:
        self._factors = self._family.factors(blend)
        self._filter = blend.filter.in_force(self._factors, self._untuned)
        self._blend = blend

    def __call__(self, input_ids: NDArray[np.intc], scores: NDArray[np.single]) -> NDArray[np.single]:
        """The blended logits after `input_ids`, from those of the host, both of shape (n_vocab,); a new array.

        Tokens that the host's logits, or processors before this one, rule out with −inf stay so. Where the base has
        the blend to itself, as at (1, 0) without a filter, `scores` itself is returned.
        """
        if not self._host.drawing:
            return self._steer(input_ids.tolist(), scores)
        try:
            return self._steer(input_ids[: self._host.length].tolist(), scores)
        except BaseException as error:
            self._host.error = error
            return scores

    def chat_handler(self) -> Any:
        """What to assign to the host's `chat_handler` for chats by the tuned model's template, which end by its tokens.

        Raises OptionError where it has no template.
        """
        model = self._tokenizer()
        template = model.chat_template()
        if not template:
            raise OptionError("the tuned model has no chat template", hint="use the host's, or complete plain text")
        bos, eos = (model.piece(token, special=True).decode("utf-8", "replace") for token in (model.bos, model.eos))
        ends = sorted(self.end_tokens)
        return Jinja2ChatFormatter(template, bos_token=bos, eos_token=eos, stop_token_ids=ends).to_chat_handler()

    def close(self) -> None:
        """Free untuned and tuned; the host stays open. The processor cannot be used afterwards."""
        self._ensemble.close()

    def __enter__(self) -> EFTProcessor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _steer(self, ids: list[int], scores: NDArray[np.single]) -> NDArray[np.single]:
        self._tokenizer()  # raises where they were closed
        factors = self._factors
        members = members_needed(factors, self._filter)
        if members == [0] and self._filter == Filter():
            return scores
        self._check(ids)
        base = np.array(scores, np.float32)
        rows = self._engine.logits_after({member - 1: ids for member in members if member > 0})
        if members[0] == 0:
            rows.insert(0, base)
        # As in the engine: before the blend for the sets of a filter, after it because one may not look at this row.
        rows[0][self._never] = -np.inf
        blended = np.full(len(base), -np.inf, np.float32)
        if self._filter == Filter():
            weights = np.array([factors[member] for member in members])
            kernels.blend_into(tuple(rows), weights, blended[: self._n_vocab])
        else:
            blended[: self._n_vocab] = self._filtered(tuple(rows), members, factors, self._filter)
        blended[self._never] = -np.inf
        # At knowledge 0 the base has no part in the blend, but other processors may have forbidden tokens there.
        blended[base == -np.inf] = -np.inf
        return blended

    def _tokenizer(self) -> Model:
        if self._ensemble.closed:
            raise EFTError("this processor was closed", hint="make another, or take it off the list")
        return self._ensemble.tokenizer

    def _check(self, ids: list[int]) -> None:
        if not ids:
            raise EFTError("the prompt is empty: there is no token to go on from", hint="give a prompt")
        if len(ids) > self.ctx:
            raise ContextError(
                f"the text has {len(ids):,} tokens, the context of untuned and tuned holds {self.ctx:,}",
                hint=f"pass ctx={len(ids) + 256} if these models allow it, or shorten the text",
            )
        if max(ids) >= self._n_vocab:
            raise ContextError(
                f"token {max(ids)} of the text is beyond the {self._n_vocab:,} tokens that all models share",
                hint="word the prompt without the base's own control tokens",
            )


class _HostSample:
    """Stands for the method `sample` of a `Llama`, and tells processors what the host keeps from them.

    The place: with a draft model, the ids that the host passes go on beyond the token to be drawn.
    And it raises their errors: processors run in a C callback, where Python drops exceptions, so that the reply
    would go on unsteered.

    drawing: true while the host draws a token.  length: ids up to that token, None for all.  error: to be raised.
    """

    def __init__(self, llama: Llama) -> None:
        self.drawing = False
        self.length: int | None = None
        self.error: BaseException | None = None
        # Processors refer to this object, and are not to keep the host's memory.
        self._llama = weakref.ref(llama)

    @classmethod
    def of(cls, llama: Llama) -> _HostSample:
        """The one of this host, put in place by the first processor. It stays, and without processors does nothing."""
        if not isinstance(llama.sample, cls):
            llama.sample = cls(llama)
        stands_in: _HostSample = llama.sample
        return stands_in

    def __call__(self, *args: Any, **options: Any) -> Any:
        llama: Any = self._llama()
        index = options.get("idx")
        self.drawing, self.length, self.error = True, None if index is None else index + 1, None
        try:
            token = type(llama).sample(llama, *args, **options)
        finally:
            self.drawing = False
        if self.error is not None:
            raise self.error
        return token
