"""Emulated fine-tuning for GGUF models: a large base model answers with the manners of a small tuned one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eft_gguf.errors import (
    CompatibilityError,
    ContextError,
    DecodeError,
    EFTError,
    LoadError,
    ModelFileError,
    OptionError,
    QueueFullError,
)

if TYPE_CHECKING:
    from eft_gguf.blend.equation import Blend, Filter
    from eft_gguf.completion import Chunk, Completion, Score
    from eft_gguf.eft import EFT
    from eft_gguf.engine.sampling import Sampling
    from eft_gguf.engine.sequence import Timings
    from eft_gguf.inspection import inspect_reply

__version__ = "0.1.0"

__all__ = [
    "EFT",
    "Blend",
    "Chunk",
    "CompatibilityError",
    "Completion",
    "ContextError",
    "DecodeError",
    "EFTError",
    "Filter",
    "LoadError",
    "ModelFileError",
    "OptionError",
    "QueueFullError",
    "Sampling",
    "Score",
    "Timings",
    "inspect_reply",
]

# Loaded when first asked for: `eft-gguf --help` must not wait for numba and llama.cpp.
_LAZY = {
    "EFT": "eft_gguf.eft",
    "Chunk": "eft_gguf.completion",
    "Completion": "eft_gguf.completion",
    "Score": "eft_gguf.completion",
    "Blend": "eft_gguf.blend.equation",
    "Filter": "eft_gguf.blend.equation",
    "Sampling": "eft_gguf.engine.sampling",
    "Timings": "eft_gguf.engine.sequence",
    "inspect_reply": "eft_gguf.inspection",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
