"""lm-evaluation-harness on a blend: `python -m eft_gguf.evaluation.lm_eval --model_args family=bundled --tasks …`.

The harness (lm-eval 0.4.13) finds only the models of its own table, so this module enters "eft-gguf" there and then
runs the harness's own command line, with all of its options.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from eft_gguf.blend.equation import Blend, Filter
from eft_gguf.completion import Chunk
from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.prompts import Prompt

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError:
    missing = EFTError("this needs lm-eval, which is not installed", hint="pip install 'eft-gguf[evaluation]'")
    if __name__ == "__main__":
        sys.exit(f"error: {missing}")
    raise missing from None

NAME = "eft-gguf"
OPTIONS = ("examples", "ctx", "batch", "threads", "gpu_layers", "device", "flash_attn", "kv_type", "repack")
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed"}
Tokens = list[int]


@register_model(NAME)
class BlendLM(TemplateLM):  # type: ignore[misc]
    """A family under one blend, as the harness asks models.

    The arguments are those of `--model_args`: family, or base, untuned and tuned; knowledge and behaviour; traits, as
    `helpful:0.7;cautious:0.3`; the names of the filter; examples; the options of the machine as on the command line.
    batch_size is how many sequences run side by side. Raises OptionError for others, and what `EFT.open` raises.
    """

    def __init__(
        self,
        family: str | None = None,
        batch_size: int | str = 4,
        max_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if batch_size in ("", "auto"):
            batch_size = 4
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise OptionError(f"batch_size is {batch_size!r}", hint="give a whole number, 1 or more")
        dials = _dials(arguments)
        references = {name: arguments.pop(name) for name in ("base", "untuned", "tuned") if name in arguments}
        options = {name: arguments.pop(name) for name in OPTIONS if name in arguments}
        if arguments:
            raise OptionError(
                f"the model argument {next(iter(arguments))!r} is unknown",
                hint="family, base, untuned, tuned, knowledge, behaviour, traits, a filter, or " + ", ".join(OPTIONS),
            )
        if str(options.get("device", "")).startswith(("cuda", "mps")):
            del options["device"]  # the harness's word for a device of PyTorch
        self.sequences = int(batch_size)
        progress = lambda line: print(line, file=sys.stderr)  # noqa: E731
        self.eft = EFT.open(family, **references, **options, sequences=self.sequences, progress=progress)
        self.blend = self.eft.family.blended(dials)
        self._chats: dict[str, Prompt] = {}
        # A trait or weight that is wrong is told now.
        self.eft.family.factors(self.blend)
        self._told_cut = False

    @property
    def max_length(self) -> int:
        """Tokens of context and continuation together."""
        return self.eft.ctx

    @property
    def eot_token_id(self) -> int:
        """What stands for an empty context."""
        return self.eft.start_token

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells cached requests apart."""
        return f"{NAME}-{self.eft.family.name}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> Tokens:
        """Token ids; after BOS where the models want one, unless `add_special_tokens` says no."""
        return self.eft.token_ids(string, begin=add_special_tokens is not False)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the tuned model reads them."""
        if not add_generation_prompt:
            raise OptionError(
                "this task begins the assistant's message itself (gen_prefix), which a chat template cannot go on from",
                hint="run it without --apply_chat_template",
            )
        text = self.eft.chat_text(chat_history)
        # The harness hands texts on. Base and untuned read this one after the examples.
        if self.eft.examples_tokens:
            self._chats[text] = self.eft.read(chat_history, self.blend)
        return text

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], Tokens, Tokens]],
        disable_tqdm: bool = False,
        **options: Any,
    ) -> list[tuple[float, bool]]:
        """The sum of the continuation's log-probabilities, and whether greedy decoding would give it."""
        # Neighbours share their contexts then, which are decoded once.
        order = sorted((at for at, request in enumerate(requests) if request[2]), key=lambda at: requests[at][1])
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for chunk in _chunks(tqdm(order, desc="Likelihoods", disable=disable_tqdm), 4 * self.sequences):
            texts = [self._fitting(*requests[at]) for at in chunk]
            for at, (values, greedy) in zip(chunk, self.eft.likelihoods(texts, blend=self.blend), strict=True):
                found[at] = (float(values.sum()), greedy)
                self.cache_hook.add_partial("loglikelihood", requests[at][0], found[at])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows as long as the context."""
        found = []
        for request in tqdm(requests, desc="Texts", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            texts = [make_disjoint_window(window) for window in windows]
            total = sum(float(values.sum()) for values, _ in self.eft.likelihoods(texts, blend=self.blend))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            found.append(total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, greedy unless the task samples, up to a stop text; `batch_size` of them at a time."""
        running: deque[tuple[Any, Generator[Chunk, None, None]]] = deque()
        found: list[str] = []
        bar = tqdm(total=len(requests), desc="Replies", disable=disable_tqdm)

        def finish_one() -> None:
            request, chunks = running.popleft()
            found.append("".join(chunk.text for chunk in chunks))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
            bar.update()

        for request in requests:
            if len(running) == self.sequences:
                finish_one()
            text, options = request.args
            running.append((request, self._started(text, options)))
        while running:
            finish_one()
        bar.close()
        return found

    def _started(self, text: str, options: Mapping[str, Any]) -> Generator[Chunk, None, None]:
        given = normalize_gen_kwargs(dict(options), 256)
        sampling = Sampling(
            max_tokens=min(given["max_gen_toks"], self.eft.ctx - 1),
            stop=tuple(stop for stop in given["until"] if stop),
            **{"temperature": 0.0}
            | {ours: given[theirs] for theirs, ours in SAMPLING.items() if given.get(theirs) is not None},
        )
        if not given["do_sample"]:
            sampling = Sampling(temperature=0.0, max_tokens=sampling.max_tokens, stop=sampling.stop)
        chunks = self._chats.get(text)
        if chunks is not None:
            return self.eft.stream(chunks, blend=self.blend, sampling=sampling)
        return self.eft.stream(text, blend=self.blend, sampling=sampling)

    def _fitting(self, texts: tuple[str, str], context: Tokens, continuation: Tokens) -> tuple[Tokens | Prompt, Tokens]:
        """Without the beginning of the context, as far as both do not fit; of a chat, as each model reads it."""
        if chat := self._chats.get(texts[0]):
            # The harness counts space at the end of a context to the continuation.
            missing = min(map(len, chat.ids)) - len(context)
            return Prompt(chat.texts, [ids[: len(ids) - missing] for ids in chat.ids]), continuation
        beyond = len(context) + len(continuation) - self.max_length
        if beyond <= 0:
            return context, continuation
        if not self._told_cut:
            print(f"note: contexts are cut at the left to fit {self.max_length:,} tokens", file=sys.stderr)
            self._told_cut = True
        return context[beyond:] or context[-1:], continuation[: self.max_length - 1]


def main(arguments: Sequence[str]) -> int:
    """The harness's command line, with "eft-gguf" as its model where none is named. Returns the exit code."""
    from lm_eval.__main__ import cli_evaluate

    named = any(text in ("--model", "-M") or text.startswith("--model=") for text in arguments)
    running = not arguments or arguments[0].startswith("-") or arguments[0] == "run"
    asked = any(text in ("-h", "--help") for text in arguments)
    given = list(arguments) + ([] if named or asked or not running else ["--model", NAME])
    before = sys.argv
    sys.argv = ["lm-eval", *given]
    try:
        cli_evaluate()
    except EFTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        sys.argv = before
    return 0


def _dials(arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes the dials out of the model's arguments."""
    dials: dict[str, Any] = {name: arguments.pop(name) for name in ("knowledge", "behaviour") if name in arguments}
    names = ("tuned_top_p", "base_top_p", "base_min_p", "untuned_floor")
    filter = {name: arguments.pop(name) for name in names if name in arguments}
    if filter:
        dials["filter"] = Filter(**filter)
    if "traits" in arguments:
        traits = arguments.pop("traits")
        dials["traits"] = traits if isinstance(traits, Mapping) else _weights(str(traits))
    Blend(**dials)  # a wrong value is told before the models are loaded
    return dials


def _weights(text: str) -> dict[str, float]:
    try:
        return {name: float(weight) for name, weight in (part.split(":") for part in text.split(";"))}
    except ValueError:
        raise OptionError(f"traits is {text!r}", hint="for example traits=helpful:0.7;cautious:0.3") from None


def _chunks(items: Iterable[int], size: int) -> Generator[list[int], None, None]:
    chunk: list[int] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
