"""What base and untuned are shown before a conversation: examples, each with the reply that the tuned side gives alone.

Showing the base what the tuned model does (in-context alignment, Lin et al., arXiv 2312.01552) and adding the tuned
model's difference to it go together: docs/steering.md has what that is worth.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eft_gguf.blend.equation import Blend
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.llama import Model
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.slots import common_prefix
from eft_gguf.engine.speculation import OFF
from eft_gguf.errors import ContextError, OptionError
from eft_gguf.files import cache_folder, write_aside
from eft_gguf.models.chat import render
from eft_gguf.models.examples import Example, Message
from eft_gguf.models.family import Family
from eft_gguf.models.references import identity

CTX = 1024
"""Tokens of context in which the tuned side replies to the examples."""
REPLY_TOKENS = 256
"""The longest reply that is shown. A longer one is cut, for it would fill the context."""
FORMAT = 1
"""To be raised when kept replies of before would mean something else."""

Asked = tuple[str, tuple[Message, ...]]  # the trait that is to reply, and to what
Say = Callable[[Sequence[Asked]], list[str]]
"""The replies that traits alone give, greedily."""


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """examples: the conversations.  replies: to each of them, by trait."""

    examples: tuple[tuple[Message, ...], ...] = ()
    replies: tuple[Mapping[str, str], ...] = ()

    def turns(self, weights: Mapping[str, float]) -> tuple[Message, ...]:
        """The messages to show where the traits have these weights.

        Each example is shown with the reply of one trait. Of n examples a trait with the share s of all weights gets
        n · s, rounded so that the counts add up; they take turns. One of weight 0 is never shown.
        """
        total = sum(weight for weight in weights.values() if weight > 0)
        if not total:
            return ()
        shown: list[Message] = []
        counts = dict.fromkeys((name for name, weight in weights.items() if weight > 0), 0)
        for number, (messages, replies) in enumerate(zip(self.examples, self.replies, strict=True), 1):
            name = max(counts, key=lambda trait: weights[trait] / total * number - counts[trait])
            counts[name] += 1
            shown += [*messages, {"role": "assistant", "content": replies[name]}]
        return tuple(shown)


def demonstrations(family: Family, examples: Sequence[Example], say: Say) -> Demonstrations:
    """The examples with a reply of each trait; those that are not given and were not kept are made by `say`, and kept.

    Raises OptionError where a reply is empty.
    """
    traits = [trait.name for trait in family.tuned]
    asked = [(trait, example.messages) for example in examples if example.reply is None for trait in traits]
    said: dict[str, str] = {}
    if asked:
        path = _kept_file(family, asked)
        found = _kept(path, len(asked))
        if found is None:
            found = say(asked)
            empty = next((item for item, reply in zip(asked, found, strict=True) if not reply.strip()), None)
            if empty is not None:
                raise OptionError(
                    f"{empty[0]} gives an empty reply to the example {empty[1][-1]['content']!r:.80}",
                    hint="write the replies into an examples file, or switch examples off",
                )
            _keep(path, asked, found)
        said = {_key(*item): reply for item, reply in zip(asked, found, strict=True)}
    return Demonstrations(
        tuple(example.messages for example in examples),
        tuple(
            {trait: said[_key(trait, example.messages)] if example.reply is None else example.reply for trait in traits}
            for example in examples
        ),
    )


def say_alone(
    open_family: Callable[..., Any],
    family: Family,
    asked: Sequence[Asked],
    *,
    ctx: int,
    hardware: Hardware,
    progress: Callable[[str], None],
) -> list[str]:
    """The replies that traits alone give to conversations, greedily.

    The family is opened for that without its base, whose weights are nothing to these replies.  open_family: class EFT.
    """
    alone = replace(family, base=family.untuned, bases_template=None, examples=0, blend=Blend(knowledge=0))
    options = asdict(hardware) | {"sequences": min(8, len(asked)), "speculate": OFF, "ctx": min(ctx, CTX)}
    sampling = Sampling(temperature=0, max_tokens=REPLY_TOKENS)
    said: dict[int, str] = {}
    waiting = list(enumerate(asked))
    started = time.monotonic()
    with open_family(alone, **options, progress=progress) as eft:
        replies: dict[int, Any] = {}
        while waiting or replies:
            while waiting and len(replies) < options["sequences"]:
                number, (trait, messages) = waiting.pop(0)
                weights = {name: float(name == trait) for name in family.weights}
                replies[number] = eft.begin(messages, blend=Blend(knowledge=0, traits=weights), sampling=sampling)
                said[number] = ""
            eft.step()
            for number, reply in list(replies.items()):
                while reply.pending and reply.finish_reason is None:
                    said[number] += reply.next_chunk().text
                if reply.finish_reason is not None:
                    replies.pop(number).close()
                    done = len(asked) - len(waiting) - len(replies)
                    left = (time.monotonic() - started) / done * (len(asked) - done)
                    progress(f"making examples: {done} of {len(asked)} replies, {left:.0f} s left")
    return [said[number].strip() for number in range(len(asked))]


def shown_ids(family: Family, turns: Sequence[Message]) -> list[int]:
    """The token ids with which every conversation of base and untuned begins, where they are shown `turns`.

    Loads the vocabulary that the family's prompts are read with, and nothing else. Raises OptionError where the tuned
    model has no chat template, or its template refuses the turns.
    """
    tuned = family.tuned[0]
    reference = (tuned.untuned or family.untuned) if tuned.model.adapter else tuned.model
    model = Model(reference.path, vocab_only=True)
    try:
        template = family.bases_template or model.chat_template() or ""
        if not template:
            raise OptionError(
                f"examples are shown by the tuned model's chat template, and {reference.path.name} has none",
                hint="switch examples off, or take a tuned model with a template",
            )
        bos, eos = (model.piece(token, special=True).decode("utf-8", "replace") for token in (model.bos, model.eos))
        # What follows the turns is a message of the user or of the system: all that is the same for both is the turns.
        follow = [[{"role": "user", "content": content}] for content in ("A", "?")]
        texts = [render([*turns, *messages], template=template, bos=bos, eos=eos) for messages in follow]
        with contextlib.suppress(OptionError):
            system = {"role": "system", "content": "S"}
            texts.append(render([*turns, system, *follow[0]], template=template, bos=bos, eos=eos))
        ids, *others = (model.tokenize(text, special=True) for text in texts)
        length = min(common_prefix(ids, other) for other in others)
        # Up to a control token, where the template has any: across one no token can reach, so that the rest of a
        # conversation can be tokenized by itself.
        return ids[: next((at for at in range(length, 0, -1) if model.is_control(ids[at])), length)]
    finally:
        model.close()


def require_fitting(count: int, ctx: int) -> None:
    """Raise ContextError where examples of so many tokens leave no room for a conversation."""
    if count >= ctx:
        raise ContextError(
            f"the examples have {count:,} tokens, and the context holds {ctx:,}",
            hint="show fewer or shorter ones, or pass a larger --ctx",
        )


def _key(trait: str, messages: tuple[Message, ...]) -> str:
    return json.dumps([trait, [dict(message) for message in messages]], sort_keys=True)


def _kept_file(family: Family, asked: Sequence[Asked]) -> Path:
    """Where replies of these traits to these prompts are kept: by the files of the models, and how they are used."""
    key = {
        "format": FORMAT,
        "llama.cpp": version("llama-cpp-python"),
        "untuned": identity(family.untuned),
        "tuned": [
            [trait.name, identity(trait.model), identity(trait.untuned) if trait.untuned else None]
            for trait in family.tuned
        ],
        "dials": {"knowledge": 0, "behaviour": 1, "temperature": 0, "max_tokens": REPLY_TOKENS},
        "prompts": [_key(*item) for item in asked],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / "examples" / f"{digest}.json"


def _kept(path: Path, count: int) -> list[str] | None:
    """The replies in a file; None where there is none, or none that can be understood."""
    try:
        replies: Any = json.loads(path.read_text(encoding="utf-8"))["replies"]
        sound = len(replies) == count and all(isinstance(reply, str) and reply.strip() for reply in replies)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(replies) if sound else None


def _keep(path: Path, asked: Sequence[Asked], replies: Sequence[str]) -> None:
    """Write replies down for the next time; where that is not possible they will be made again."""
    content = {"asked": [_key(*item) for item in asked], "replies": list(replies)}
    with contextlib.suppress(OSError, OptionError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, json.dumps(content, indent=1) + "\n")
