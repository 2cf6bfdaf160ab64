"""What is looked at before an output gets its name: llama.cpp loads it, computes with it, and cuts texts rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.llama import Adapter, Context, Model
from eft_gguf.engine.probe import Trial, require_survival
from eft_gguf.engine.threads import default_threads
from eft_gguf.errors import DecodeError, EFTError, LoadError

BATCH = 128

TEXTS = (
    "Hello, world! It's 9:05 o'clock; they've paid $1,234.56 (i.e. 12% more) -- don't you think?",
    "  two spaces in front, trailing ones   \n\n\n\tand tabs\t\tand\r\nWindows lines \n",
    "def f(x):\n    return {'a': x**2, \"b\": [1, 22, 333, 4444, 55555]}  # naïve café",
    "Größe, œuvre, señor, Ærø, Łódź, ĲSSELMEER, ﬁne; ΑΒΓ αβγ; Привет, мир!",
    "中文没有空格。日本語のテキスト、한국어 문장입니다. ไทยไม่มีช่องว่าง हिन्दी में कुछ",
    "🙂👍🏽👩‍👩‍👧‍👦 🇳🇴 ☃️ ∑∫√∞ ≠ “quotes” ‘single’ … — – №",
    "CamelCaseHTTPServer2Go snake_case_name kebab-case-name UPPER lower 3D 4K x86_64 v1.2.3-rc4",
    "https://example.org/a/b?c=d&e=%20f#g  me@example.org  C:\\path\\to\\file.txt",
    "''' \"\"\" ``` <tag attr='1'/> <!-- no --> &amp; {{ braces }} [[1]] ~~~ ^^ || ## @@ !!!???",
    "I'LL WE'RE you'D he'S it'sn't 'tis 1st 2nd ½ ² x₁ Ⅷ ٣٤٥",
    "zero\u200bwidth non\u00a0breaking soft\u00adhyphen \u2028line \ufeff",
    "a" * 40 + " " * 30 + "b" * 3 + "\n" * 5 + "=" * 20,
    " ",
    "\n",
    "x",
)
"""Texts on which tokenizers part ways. Composed (NFC), for llama.cpp does not compose letters and accents."""


def require_computing(path: Path, *, untuned: Path | None = None) -> None:
    """Load a model that was written, or an adapter on `untuned`, and decode some tokens. Raises LoadError."""
    try:
        require_survival([Trial(str(untuned or path), str(path) if untuned else None)])
        with closing(Model(untuned or path, gpu_layers=0)) as model:
            ids = [min(index, model.n_vocab - 1) for index in range(8)]
            finite = all(np.isfinite(row).all() for row in logits(model, ids, adapter=path if untuned else None))
    except DecodeError:
        finite = False
    except LoadError as error:
        # The name it was written under is gone by the time this is read.
        message = error.message.replace(f"{path}: ", "").replace(path.name, "what was made")
        raise LoadError(f"what was made is not kept: {message}", hint=error.hint) from None
    if not finite:
        raise LoadError(
            "what was made is not kept: llama.cpp computes logits from it that are no numbers",
            hint="the weights are damaged, or beyond the range of F16: pass --dtype bf16 or --dtype f32",
        )


def logits(
    model: Model, ids: list[int], *, adapter: Path | None = None, scale: float = 1.0
) -> Iterator[NDArray[np.float32]]:
    """The logits after each of the tokens, (n_vocab,), each a copy."""
    loaded = Adapter(model, adapter, scale=scale) if adapter else None
    try:
        batch = min(BATCH, max(1, len(ids)))
        context = Context(
            model,
            ctx=len(ids),
            batch=batch,
            sequences=1,
            outputs=batch,
            threads=default_threads([model.path]),
            adapter=loaded,
            flash_attn="off",
            kv_type="f32",
        )
        with closing(context):
            for start in range(0, len(ids), batch):
                part = ids[start : start + batch]
                context.batch.clear()
                context.batch.add(part, position=start, sequence=0, outputs=len(part))
                context.decode()
                for row in context.rows():
                    yield row.copy()
    finally:
        if loaded:
            loaded.close()


def differing_texts(model: Model, folder: Path) -> list[str] | None:
    """Which of TEXTS the checkpoint's own tokenizer cuts otherwise; None where it cannot be asked."""
    encode = _own_tokenizer(folder)
    if encode is None:
        return None
    return [text for text in TEXTS if model.tokenize(text, special=True) != encode(text)]


def _own_tokenizer(folder: Path) -> Callable[[str], list[int]] | None:
    if (folder / "tokenizer.json").exists():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return None
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the package raises nothing narrower
            raise EFTError(f"cannot read {folder / 'tokenizer.json'}: {error}") from None
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda text: list(pieces.encode(text))
