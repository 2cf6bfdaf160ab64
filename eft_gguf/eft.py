"""class EFT: open, complete, stream, chat, score. The whole library for most users."""

from __future__ import annotations

import json
import secrets
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Blend
from eft_gguf.completion import Chunk, Completion, Score, in_turns, joined
from eft_gguf.demonstrations import demonstrations, require_fitting, say_alone, shown_ids
from eft_gguf.engine.calibration import open_speculation
from eft_gguf.engine.constraint import constraint_of, follows
from eft_gguf.engine.devices import Asked, place, separate_memory
from eft_gguf.engine.engine import QUEUE, Engine
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.greedy import GreedySequence, greedy_sequences
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.llama import Model
from eft_gguf.engine.probe import require_survival, trials_of
from eft_gguf.engine.property_order import in_order
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.sequence import Sequence, Timings, Witness
from eft_gguf.engine.speculation import AUTO, OFF, checked_setting
from eft_gguf.engine.text import TextStream
from eft_gguf.engine.turn import Turn
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.models.cache import require_kv_type
from eft_gguf.models.compatibility import require
from eft_gguf.models.examples import Choice, Message, checked_choice, read_examples
from eft_gguf.models.family import Family, Tuned, family_from_references, load_family, read_family
from eft_gguf.models.fit import Plan, context_length, free_memory
from eft_gguf.prompts import BOUNDARY, Messages, Prompt, Prompts
from eft_gguf.reply import Reply


class EFT:
    """A family of models, loaded, that answers as one.

    Make one with `EFT.open` or `EFT.bundled`, and close it, or use it in a `with` statement. Replies may be under way
    side by side, in iterators that are asked in any order, from any threads: these take turns, and what one of them is
    asked for lets all go on. A process that was forked must open its own.
    """

    def __init__(
        self,
        family: Family,
        *,
        ctx: int | None = None,
        batch: int = 128,
        threads: int | None = None,
        gpu_layers: int = -1,
        device: Asked | None = None,
        flash_attn: str = "auto",
        kv_type: str = "f16",
        repack: bool = True,
        sequences: int = 1,
        queue: int = QUEUE,
        speculate: str | int = AUTO,
        examples: Choice = None,
        force: bool = False,
        probe: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        setting = checked_setting(speculate)
        hardware = Hardware(threads, gpu_layers, device, flash_attn, kv_type, repack)
        for name, value in {"ctx": ctx, "batch": batch, "sequences": sequences}.items():
            _require_count(name, value)
        if sequences > batch:
            raise OptionError(
                f"{sequences} sequences need a batch of as many tokens, not {batch}", hint="pass a larger batch"
            )
        tell = progress or (lambda line: None)
        choice = family.examples if examples is None else checked_choice(examples)
        self.family = family = replace(family, examples=choice)
        shown = read_examples(choice)
        base, untuned, others = read_family(family)
        findings = require(base, untuned, others, family.untuned_of)
        self.warnings = [finding for finding in findings if finding.severity != "note"]
        self.ctx = context_length(ctx or family.ctx, (base, untuned, *others.values()))
        require_kv_type(kv_type, (base, untuned, *others.values()))
        if probe:
            require_survival(trials_of(family.members, family.untuned_of), tell)
        say = partial(say_alone, EFT, family, ctx=self.ctx, hardware=hardware, progress=tell)
        self._demonstrations = demonstrations(family, shown, say)
        turns = self._demonstrations.turns(family.weights)
        self._examples = shown_ids(family, turns) if turns else []
        require_fitting(len(self._examples), self.ctx)
        if not force:
            members = {"base": base, "untuned": untuned, **others}
            plan = Plan(members, family.untuned_of, sequences, batch, kv_type, flash_attn != "off", len(self._examples))
            plan.require(self.ctx, free_memory() + separate_memory(place(device, list(members)).values()))
        self._turn = Turn()
        self._ensemble = Ensemble(
            family.members,
            family.untuned_of,
            ctx=self.ctx,
            batch=min(batch, self.ctx * sequences),
            sequences=sequences,
            hardware=hardware,
            pinned=len(self._examples),
            progress=tell,
        )
        try:
            speculation = open_speculation(
                self._ensemble,
                setting,
                list(family.members.values()),
                family.factors(family.blend),
                tell,
            )
        except BaseException:
            self._ensemble.close()
            raise
        # One that is dropped without `close` frees its models as well.
        self._free = weakref.finalize(self, _free, self._turn, self._ensemble)
        self._speculation = speculation
        self._engine = Engine(self._ensemble, queue=queue, speculation=speculation)
        tuned = self._ensemble.tuned
        self._engine.pin([[] if place in tuned else self._examples for place in range(len(self.members))])
        self._prompts = Prompts(
            self._ensemble,
            bases_template=family.bases_template,
            remembered=2 * sequences,
            examples=self._examples,
        )

    @classmethod
    def open(
        cls,
        family: str | Path | Family | None = None,
        *,
        base: str | Path | None = None,
        untuned: str | Path | None = None,
        tuned: Tuned | None = None,
        **options: Any,
    ) -> EFT:
        """Load a family: a TOML file or a name, or base, untuned and tuned; without either, the bundled one.

        tuned: one reference, several as `[TRAIT=]REF[:WEIGHT]`, or a mapping of trait names to references, or to the
        keys that a trait has in a family file: `{"model": "tuned.gguf", "untuned": "before.gguf", "weight": 0.5}`.
        options: ctx (tokens of context), batch (tokens a decode), sequences (at a time), queue (how many may wait),
        speculate (drafts a round: "auto" as many as pay by what decodes cost here, "off", or a number from 0 to 16),
        examples (what base and untuned are shown before each chat: a number of questions that the tuned side answers
        first, a JSONL file or its lines, "off"; by default what the family says),
        progress (called with lines of text while loading), force (load even what memory has no room for), probe (try
        files that are new here in a process of their own first, as commands do: llama.cpp ends the process over some
        damaged files, and no exception can be caught then; docs/reliability.md tells what it costs); of the
        machine, as in `Hardware`: threads, gpu_layers (−1 all, 0 none), device ("CPU", or by member: {"base": "MTL0"}),
        flash_attn ("auto", "on", "off"), kv_type ("f16", "q8_0", …), repack.

        Raises OptionError, ModelFileError, CompatibilityError, ContextError or LoadError, each with a hint.
        """
        if base is None and untuned is None and tuned is None:
            return cls(family if isinstance(family, Family) else load_family(family), **options)
        if family is not None:
            raise OptionError("name a family or base, untuned and tuned, not both")
        if base is None or untuned is None or tuned is None:
            missing = [n for n, r in {"base": base, "untuned": untuned, "tuned": tuned}.items() if r is None]
            raise OptionError(
                f"{' and '.join(missing)} missing: a blend needs base, untuned and tuned",
                hint="give all three, a family file, or nothing for the bundled family",
            )
        return cls(family_from_references(base, untuned, tuned), **options)

    @classmethod
    def bundled(cls, **options: Any) -> EFT:
        """The demo family that ships with the package; options as for `open`."""
        return cls.open(None, **options)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the models: base, untuned, the traits, and "untuned.TRAIT" for what else traits were tuned from."""
        return self._ensemble.names

    @property
    def trait_names(self) -> tuple[str, ...]:
        """Names of the tuned models."""
        return tuple(trait.name for trait in self.family.tuned)

    @property
    def speculation(self) -> dict[str, Any]:
        """The setting of `speculate`, whether drafts can pay, who cannot roll back, and the measured costs."""
        if self._speculation is None:
            return {"setting": OFF}
        return self._speculation.as_dict(self.family.factors(self.family.blend))

    @property
    def examples_tokens(self) -> int:
        """How many tokens of their contexts the examples take in base and untuned; 0 where none are shown."""
        return len(self._examples)

    def examples(self, blend: Blend | None = None) -> tuple[Message, ...]:
        """The messages that base and untuned are shown before a chat: with several traits, by their weights."""
        traits = (blend or self.family.blend).traits
        return self._demonstrations.turns({**self.family.weights, **traits})

    @property
    def sequences(self) -> int:
        """How many replies may be under way at a time."""
        return self._ensemble.sequences

    @property
    def n_vocab(self) -> int:
        """How many token ids all models know."""
        return self._ensemble.n_vocab

    def stream(
        self, prompt: str | Prompt, *, blend: Blend | None = None, sampling: Sampling | None = None
    ) -> Generator[Chunk, None, None]:
        """Continue `prompt` as plain text, or what `read` made of one, chunk by chunk. Closing it cancels the rest.

        Raises OptionError for an unknown trait, ContextError for a prompt that does not fit, QueueFullError where too
        many replies are under way; all at once, not at the first chunk.
        """
        read = prompt if isinstance(prompt, Prompt) else self.read(prompt)
        return self._start(read, blend, sampling)

    def chat(
        self,
        messages: Messages,
        *,
        blend: Blend | None = None,
        sampling: Sampling | None = None,
        examples: bool = True,
    ) -> Generator[Chunk, None, None]:
        """The assistant's next message, chunk by chunk, by the tuned model's template. Raises as `stream` does.

        examples: whether base and untuned are shown the examples that the models were opened with.
        """
        _require_messages(messages, "chat")
        return self._start(self.read(messages, blend, examples), blend, sampling)

    def complete(
        self,
        prompt: str | Messages,
        *,
        blend: Blend | None = None,
        sampling: Sampling | None = None,
        examples: bool = True,
    ) -> Completion:
        """A whole reply: to messages by the template, to a string as plain text. Raises as `stream` does."""
        return joined(list(self._start(self.read(prompt, blend, examples), blend, sampling)))

    def streams(
        self,
        prompt: str | Messages,
        n: int,
        *,
        blend: Blend | None = None,
        sampling: Sampling | None = None,
        examples: bool = True,
    ) -> Generator[tuple[int, Chunk], None, None]:
        """`n` replies to one prompt side by side: the number of a reply, from 0, and its next chunk.

        The prompt is read once. As many are under way as `sequences` allows, the others follow. Their seeds are the
        one of `sampling`, or one that is drawn, and those after it: each is what `complete` gives with its seed.
        Closing the iterator cancels all. Raises as `stream` does.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise OptionError(f"n must be a whole number, 1 or more, not {n!r}", hint="n replies are made")
        sampling = sampling or Sampling()
        seed = secrets.randbelow(2**32) if sampling.seed is None else sampling.seed
        read = self.read(prompt, blend, examples)
        replies = [
            partial(self._start, read, blend, replace(sampling, seed=(seed + number) % 2**32)) for number in range(n)
        ]
        first = {number: reply() for number, reply in enumerate(replies[: self._ensemble.sequences])}
        return in_turns(first, dict(enumerate(replies)))

    def completions(
        self,
        prompt: str | Messages,
        n: int,
        *,
        blend: Blend | None = None,
        sampling: Sampling | None = None,
        examples: bool = True,
    ) -> list[Completion]:
        """`n` whole replies to one prompt, as `streams` makes them."""
        chunks: list[list[Chunk]] = [[] for _ in range(n)] if isinstance(n, int) else []
        for number, chunk in self.streams(prompt, n, blend=blend, sampling=sampling, examples=examples):
            chunks[number].append(chunk)
        return [joined(reply) for reply in chunks]

    def greedy_replies(
        self,
        prompt: str | Messages,
        blends: Seq[Blend],
        *,
        max_tokens: int | None = None,
        examples: bool = True,
    ) -> list[Completion]:
        """The replies that `complete` gives at temperature 0 under each of `blends`; their timings count tokens only.

        For comparing settings: what several of them read alike is decoded once. Raises as `stream` does.
        """
        sampling = Sampling(temperature=0, max_tokens=max_tokens)
        sequences = [GreedySequence(self.family.factors(blend), blend.filter) for blend in blends]
        reads = [self.read(prompt, blend, examples) for blend in blends]
        # Blends whose traits have other weights may be shown other examples.
        together: dict[tuple[str, ...], list[int]] = {}
        for number, read in enumerate(reads):
            together.setdefault(tuple(read.texts), []).append(number)
        for numbers in together.values():
            prompts = reads[numbers[0]].ids
            self._engine.require_room(prompts)
            group = [sequences[number] for number in numbers]
            with self._turn:
                greedy_sequences(self._engine, prompts, group, max_tokens=sampling.max_tokens)
        replies = []
        for sequence, read in zip(sequences, reads, strict=True):
            stream = TextStream()
            for token in sequence.generated:
                stream.push(self._tokenizer().piece(token))
            stream.flush()
            timings = Timings(prompt_tokens=max(map(len, read.ids)), generated_tokens=len(sequence.generated))
            replies.append(Completion(stream.text, sequence.generated, sequence.finish_reason or "", timings))
        return replies

    def score(self, text: str, *, blend: Blend | None = None) -> Score:
        """Log-probabilities of the tokens of `text` under the blend and each model. Raises ContextError."""
        if not isinstance(text, str):
            raise OptionError(f"score takes a text, not {type(text).__name__}", hint="chat_text makes one of messages")
        ids = self.token_ids(text, begin=True)
        texts = [self.bytes_of(token).decode("utf-8", "replace") for token in ids]
        if len(ids) < 2:
            nothing = np.full(len(ids), np.nan)
            return Score(ids, texts, nothing, {name: nothing.copy() for name in self.members})
        blend = blend or self.family.blend
        with self._turn:
            by_member, blended = self._engine.score(ids, self.family.factors(blend), blend.filter)
        first = [np.nan]
        members = {name: np.concatenate([first, row]) for name, row in zip(self.members, by_member, strict=True)}
        return Score(ids, texts, np.concatenate([first, blended]), members)

    def likelihoods(
        self, texts: Seq[tuple[Seq[int] | Prompt, Seq[int]]], *, blend: Blend | None = None
    ) -> list[tuple[NDArray[np.float64], bool]]:
        """Of each context and continuation, as token ids: the natural log-probabilities of the continuation's tokens
        under the blend, and whether each is the likeliest in its place.

        A context may also be a prompt that `read` gives, which the members read each in its own way.
        Short continuations are decoded together, as many as `sequences` allows, and a context that neighbours share is
        decoded once. Raises ContextError where one does not fit or a model does not know an id, OptionError for an
        empty context or continuation.
        """
        blend = blend or self.family.blend
        read: list[tuple[Seq[Seq[int]], Seq[int]]] = []
        for context, continuation in texts:
            prompts = context.ids if isinstance(context, Prompt) else [context] * len(self.members)
            if not all(prompts) or not continuation:
                raise OptionError("a context or continuation is empty", hint="give each at least one token")
            self._prompts.require_shared("text", *prompts, continuation)
            read.append((prompts, continuation))
        with self._turn:
            return self._engine.likelihoods(read, self.family.factors(blend), blend.filter)

    def token_ids(self, text: str, *, begin: bool = False) -> list[int]:
        """The token ids of a text, control tokens read as such. begin: after the BOS token, where models want one."""
        model = self._tokenizer()
        ids = model.tokenize(text, special=True)
        return model.begun(ids) if begin else ids

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a reply."""
        return self._ensemble.end_tokens

    @property
    def start_token(self) -> int:
        """What stands before a text that begins with nothing: the BOS token, of models that know none the end token."""
        model = self._tokenizer()
        return model.bos if model.bos >= 0 else model.eos

    @property
    def chat_template(self) -> str:
        """The tuned model's own, in Jinja; empty where it has none."""
        return self._tokenizer().chat_template() or ""

    def chat_text(self, messages: Messages) -> str:
        """What the tuned model reads of messages, up to where its reply begins; without BOS if `stream` adds it."""
        text, model = self._prompts.read(messages).texts[self._ensemble.tuned[0]], self._tokenizer()
        begin = model.piece(model.bos, special=True).decode() if model.add_bos else ""
        return text.removeprefix(begin).replace(BOUNDARY, "")

    def replay(
        self,
        prompt: str | Messages | list[int],
        reply: str | Seq[int],
        *,
        blend: Blend | None = None,
        examples: bool = True,
    ) -> Iterator[tuple[int, dict[str, NDArray[np.float32]]]]:
        """Each token of a reply to `prompt`, and the logits before it: by member name, and under "blend".

        reply: a text, or the token ids of a Completion. The text of a late reply is read as the ids sampled for it.
        Tokens that no reply may hold have −inf.

        Raises ContextError where the reply does not fit, OptionError where it holds no token, and EFTError where
        something else is decoded before all of it is taken.
        """
        blend = blend or self.family.blend
        factors = self.family.factors(blend)
        read = self.read(prompt, blend, examples)
        tokens = self._prompts.reply_ids(read, reply) if isinstance(reply, str) else list(reply)
        if not tokens:
            raise OptionError("the reply is empty: it holds no token", hint="give a text, or what a model replied")
        self._prompts.require_shared("reply", tokens)
        replayed = self._engine.replay(read.ids, tokens)
        for token in tokens:
            with self._turn:
                rows = next(replayed)
                blended = np.empty(self._ensemble.n_vocab, np.float32)
                self._engine.blended(rows, factors, blend.filter, blended)
                # Copies: whatever is decoded next would change the rows in the caller's hands.
                logits = {name: row[: len(blended)].copy() for name, row in zip(self.members, rows, strict=True)}
            yield token, {**logits, "blend": blended}

    def allows(self, text: str, sampling: Sampling) -> bool:
        """Whether a whole reply may be `text`, by what `sampling` asks replies to follow.

        Replies under a JSON schema have its order of properties, and those that it names alone. A text in another
        order, or with more properties where the schema lets it, is allowed as well. Raises OptionError for a schema,
        an expression or a grammar that is refused.
        """
        with self._turn:
            constraint = constraint_of(sampling, self._tokenizer(), self._ensemble.n_vocab, drawn=False)
            if constraint is None:
                return True
            try:
                if follows(constraint, self._tokenizer(), text):
                    return True
            finally:
                constraint.close()
            schema = sampling.json_schema
            if schema is None:
                return False
            reordered = in_order(text, schema if isinstance(schema, str) else json.dumps(dict(schema)))
            if reordered is None:
                return False
            constraint = constraint_of(sampling, self._tokenizer(), self._ensemble.n_vocab, drawn=False)
            assert constraint is not None
            try:
                return follows(constraint, self._tokenizer(), reordered)
            finally:
                constraint.close()

    def bytes_of(self, token: int) -> bytes:
        """What a token id stands for, often a part of a character; control tokens such as <|im_end|> written out."""
        return self._tokenizer().piece(token, special=True)

    def close(self) -> None:
        """Free the models. The object cannot be used afterwards."""
        self._free()

    def __enter__(self) -> EFT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(
        self,
        prompt: str | Messages | Prompt | list[int],
        *,
        blend: Blend | None = None,
        sampling: Sampling | None = None,
        tools: Seq[Mapping[str, Any]] | None = None,
        witness: Witness | None = None,
        examples: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Reply:
        """A reply that `step` brings on, together with all others: for programs that serve several. Raises as `stream`.

        prompt: also as token ids.  tools: functions that the model may call, for the template.  witness: told how each
        token came.  variables: of the chat template, such as {"enable_thinking": False}.
        """
        sampling, blend = sampling or Sampling(), blend or self.family.blend
        if sampling.penalty_window > self.ctx:
            # llama.cpp sets as much memory aside as the window asks for, and ends the process where there is none.
            sampling = replace(sampling, penalty_window=self.ctx)
        self._turn.require_process()
        read = prompt if isinstance(prompt, Prompt) else self.read(prompt, blend, examples, tools, variables)
        factors = self.family.factors(blend)
        tuned = read.ids[self._ensemble.tuned[0]]
        sampler = Sampler(sampling, self._tokenizer(), self._ensemble.n_vocab, tuned)
        sequence = Sequence(read.ids, factors, sampler, max_tokens=sampling.max_tokens, filter=blend.filter)
        sequence.witness = witness
        try:
            with self._turn:
                self._engine.add(sequence)
        except BaseException:
            sequence.sampler.close()
            raise

        def ended(sequence: Sequence) -> None:
            if not self._ensemble.closed:
                self._engine.remove(sequence)
                self._prompts.remember(read.texts, sequence)
            else:
                sequence.sampler.close()

        return Reply(
            sequence, stop=sampling.stop, piece=self._piece, factors=self.family.factors, turn=self._turn, ended=ended
        )

    def step(self) -> None:
        """Bring on all replies that were begun: by a token, or by a piece of their prompts."""
        with self._turn:
            self._engine.step()

    @property
    def running(self) -> int:
        """How many replies have a slot, of `sequences`."""
        return self._engine.running

    @property
    def waiting(self) -> int:
        """How many replies wait for a slot."""
        return self._engine.waiting

    def _start(self, prompt: Prompt, blend: Blend | None, sampling: Sampling | None) -> Generator[Chunk, None, None]:
        """Check everything and enter the engine now, so that errors come before the first chunk is asked for."""
        chunks = self._chunks(self.begin(prompt, blend=blend, sampling=sampling))
        next(chunks)
        return chunks

    def _chunks(self, reply: Reply) -> Generator[Chunk, None, None]:
        """The chunks of a reply. The first `next` only enters, so that `close` cleans up."""
        with closing(reply):
            yield Chunk("", None, None, reply.timings)
            while reply.finish_reason is None:
                with self._turn:
                    # Another reply's step may have brought tokens of this one as well.
                    if not reply.pending:
                        self._tokenizer()
                        self._engine.step()
                    chunk = reply.next_chunk()
                yield chunk

    def read(
        self,
        prompt: str | Messages | list[int],
        blend: Blend | None = None,
        examples: bool = True,
        tools: Seq[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt as the members read it under a blend: messages after the examples, in base and untuned.

        Raises OptionError for messages of a wrong form, ContextError for ids that not all models know.
        """
        with self._turn:
            shown = self.examples(blend) if examples else ()
            return self._prompts.read(prompt, tools=tools, shown=shown, variables=variables)

    def _piece(self, token: int) -> bytes:
        return self._tokenizer().piece(token)

    def _tokenizer(self) -> Model:
        if self._ensemble.closed:
            raise EFTError("these models were closed", hint="open the family again")
        return self._ensemble.tokenizer


def _free(turn: Turn, ensemble: Ensemble) -> None:
    """Free the models when nobody uses them. In a forked process they are not its own to free."""
    turn.after(ensemble.close)


def _require_messages(messages: object, method: str) -> None:
    if isinstance(messages, (str, bytes)):
        raise OptionError(
            f"{method} takes messages, not {type(messages).__name__}",
            hint='[{"role": "user", "content": "…"}]; stream and complete continue a text',
        )


def _require_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise OptionError(f"{name} must be 1 or more, not {value!r}", hint="leave it out for the default")
