"""Text ↔ token ids: what each model reads of a prompt, and the ids that replies were sampled as."""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Integral
from typing import Any

import numpy as np

from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.llama import Model
from eft_gguf.engine.sequence import Sequence
from eft_gguf.errors import ContextError, EFTError, OptionError
from eft_gguf.models.chat import render
from eft_gguf.models.metadata import CONTROL, read_metadata

BOUNDARY = "\0"
"""Stands in a prompt's text where plain text begins and ends that looks like control tokens."""
Messages = Seq[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a prompt is to the members: the text that each of them reads, and its token ids."""

    texts: list[str]
    ids: list[list[int]]


class Prompts:
    """Reads prompts for the members of an ensemble, and remembers the ids of the last `remembered` texts.

    bases_template: the Jinja template by which base and untuned models read a chat, where it is not the tuned model's.
    examples: the token ids with which chats of base and untuned begin where examples are shown.
    """

    def __init__(
        self, ensemble: Ensemble, *, bases_template: str | None, remembered: int, examples: Seq[int] = ()
    ) -> None:
        self._ensemble = ensemble
        self._bases_template = bases_template
        beginning = b"".join(ensemble.tokenizer.piece(token, special=True) for token in examples)
        self._known = [(beginning.decode("utf-8", "replace"), list(examples))] if examples else []
        # Text and ids of the last replies with their prompts: see _chat_ids.
        self.transcripts: deque[tuple[str, list[int]]] = deque(maxlen=remembered)

    def read(
        self,
        prompt: str | Messages | list[int],
        *,
        tools: Seq[Mapping[str, Any]] | None = None,
        shown: Seq[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt as the members read it: messages by the template, a string as plain text, token ids as they are.

        tools: what the tuned model's template is to tell of, with messages.  shown: the examples that base and untuned
        read before the messages.  variables: of the template, such as enable_thinking.
        Raises OptionError as `render` does, ContextError for control tokens that not all models know, EFTError
        where the models were closed.
        """
        model = self._model()
        members = range(len(self._ensemble.names))
        if isinstance(prompt, str):
            ids = model.begun(model.tokenize(prompt, special=True))
            self.require_shared("prompt", ids)
            return Prompt([prompt for _ in members], [ids for _ in members])
        if isinstance(prompt, (list, tuple, np.ndarray)) and len(prompt) and isinstance(prompt[0], Integral):
            ids = _whole_numbers(prompt)
            self.require_shared("prompt", ids)
            text = b"".join(model.piece(token, special=True) for token in ids).decode("utf-8", "replace")
            return Prompt([text for _ in members], [ids for _ in members])
        messages, marks = self._marked(prompt)
        template = model.chat_template() or ""
        bos, eos = (model.piece(token, special=True).decode("utf-8", "replace") for token in (model.bos, model.eos))
        for_tuned = for_bases = render(messages, template=template, bos=bos, eos=eos, tools=tools, variables=variables)
        if self._bases_template is not None:
            template, tools = self._bases_template, None
        if shown or self._bases_template is not None:
            fill = partial(render, template=template, bos=bos, eos=eos, tools=tools, variables=variables)
            for_bases = _after_examples(messages, shown, fill) if shown else fill(messages)
        by_text = {text: self._marked_ids(text, *marks) for text in {for_tuned, for_bases}}
        self.require_shared("prompt", *by_text.values())
        texts = [for_tuned if member in self._ensemble.tuned else for_bases for member in members]
        # What stands for the marks keeps such a text apart from one with real control tokens in these places.
        shown_texts = [
            text.replace(marks[0], BOUNDARY).replace(marks[1], BOUNDARY) if marks[0] else text for text in texts
        ]
        return Prompt(shown_texts, [by_text[text] for text in texts])

    def reply_ids(self, prompt: Prompt, reply: str) -> list[int]:
        """Token ids of a reply's text: those that were sampled, if it is a late one; else as the whole text's end."""
        text, prompt_ids = prompt.texts[self._ensemble.tuned[0]], prompt.ids[self._ensemble.tuned[0]]
        for said, ids in reversed(self.transcripts):
            if said == text + reply and ids[: len(prompt_ids)] == prompt_ids:
                return ids[len(prompt_ids) :]
        # Some tokenizers put a space before every text, which by itself the reply would begin with.
        model = self._model()
        whole = model.tokenize(text + reply, special=True)
        if model.add_bos and whole[:1] != prompt_ids[:1]:
            whole = [model.bos, *whole]
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        return model.tokenize(reply, special=True)

    def remember(self, texts: Seq[str], sequence: Sequence) -> None:
        """Keep the ids of a conversation, without the end token, which the template writes again."""
        if sequence.generated and not self._ensemble.closed:
            said = b"".join(map(self._ensemble.tokenizer.piece, sequence.generated)).decode("utf-8", "replace")
            ended = sequence.generated[-1] in self._ensemble.end_tokens
            for text, ids in dict(zip(texts, sequence.ids, strict=True)).items():
                self.transcripts.append((text + said, ids[:-1] if ended else ids))

    def require_shared(self, what: str, *texts: Seq[int]) -> None:
        """Raise ContextError for a token id that not all models know."""
        n_vocab = self._ensemble.n_vocab
        unknown = next((token for ids in texts for token in ids if not 0 <= token < n_vocab), None)
        if unknown is not None:
            raise ContextError(
                f"token {unknown} of the {what} is beyond the {n_vocab:,} tokens that all models share",
                hint=f"word the {what} without the tuned model's own control tokens",
            )

    def _marked(self, messages: Any) -> tuple[Any, tuple[str, str]]:
        """The messages, contents that write out a control token put between two marks that nobody can guess.

        A user, a web page or a tool's answer may write <|im_end|>: that is text, and must not end the turn.
        """
        if not isinstance(messages, (list, tuple)) or not any(map(self._writes_control, messages)):
            return messages, ("", "")
        begin, end = (f"\ue000{secrets.token_hex(8)}\ue001" for _ in range(2))
        marked = [
            {**message, "content": begin + message["content"] + end} if self._writes_control(message) else message
            for message in messages
        ]
        return marked, (begin, end)

    def _writes_control(self, message: Any) -> bool:
        content = message.get("content") if isinstance(message, Mapping) else None
        return isinstance(content, str) and self._control.search(content) is not None

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Finds the text of any control token."""
        model = self._model()
        vocabulary = read_metadata(model.path).vocabulary
        types = None if vocabulary is None else vocabulary.types
        ids: Any = () if types is None else np.flatnonzero(types == CONTROL)
        texts = {model.piece(int(token), special=True).decode("utf-8", "replace") for token in ids} - {""}
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")

    def _marked_ids(self, text: str, begin: str, end: str) -> list[int]:
        """Token ids of a rendered conversation, what stands between marks as plain text."""
        if not begin or begin not in text:
            return self._chat_ids(text)
        model = self._model()
        ids: list[int] = []
        for number, part in enumerate(re.split(f"{begin}|{end}", text)):
            ids += model.tokenize(part, special=number % 2 == 0)
        return ids

    def _chat_ids(self, text: str) -> list[int]:
        """Token ids of a rendered conversation, with the very ids that were sampled for replies it repeats.

        A reply's text often has another tokenization than the one that was sampled, and then everything after it
        would have to be decoded again. So where an earlier conversation is the beginning of this one, its ids are
        kept, provided that what follows begins with a control token, across which no token can reach.
        """
        model = self._model()
        for earlier, ids in sorted([*self.transcripts, *self._known], key=lambda pair: -len(pair[0])):
            if text.startswith(earlier):
                rest = model.tokenize(text[len(earlier) :], special=True)
                if rest and model.is_control(rest[0]):
                    return ids + rest
        return model.tokenize(text, special=True)

    def _model(self) -> Model:
        if self._ensemble.closed:
            raise EFTError("these models were closed", hint="open the family again")
        return self._ensemble.tokenizer


def _after_examples(
    messages: Messages, shown: Seq[Mapping[str, Any]], fill: Callable[[Seq[Mapping[str, Any]]], str]
) -> str:
    """A chat after the examples, which come first, so that they are read once whatever the conversation.

    Where a template takes a system message in the first place only, that goes before them; then the examples are read
    again for each new one.
    """
    begins = next((at for at, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    if begins:
        try:
            text = fill([*shown, *messages])
            if all(str(message["content"]).strip() in text for message in messages[:begins]):
                return text
        except OptionError:
            pass
    return fill([*messages[:begins], *shown, *messages[begins:]])


def _whole_numbers(prompt: Any) -> list[int]:
    """Token ids, NumPy's numbers among them. Raises OptionError for anything else in the list."""
    for place, token in enumerate(prompt):
        if isinstance(token, (bool, np.bool_)) or not isinstance(token, Integral):
            raise OptionError(
                f"the prompt is a list of token ids, but entry {place} is {token!r:.40}", hint="give whole numbers only"
            )
    return [int(token) for token in prompt]
