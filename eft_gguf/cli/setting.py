"""`/set` within a chat: how replies are drawn from now on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from eft_gguf.cli.lazy import meaning
from eft_gguf.cli.reading import read_text
from eft_gguf.cli.talk import Talk
from eft_gguf.errors import OptionError

WHOLE = ("top_k", "penalty_window", "dry_allowed_length", "seed", "max_tokens")
IN_FILES = ("grammar", "json_schema", "lark")
TEXTS = ("regex",)


def set_sampling(talk: Talk, argument: str) -> str:
    """Show all of the sampling, or set one of it: `NAME VALUE`, `NAME default`. Raises OptionError."""
    defaults = _defaults()
    if not argument:
        changed = {name: getattr(talk.sampling, name) for name in defaults}
        lines = [f"{name} {_shown(value)}" for name, value in changed.items() if value != defaults[name]]
        names = ", ".join(defaults)
        return "\n".join([*(lines or ["all at their defaults"]), f"What can be set: {names}"])
    typed, _, text = argument.partition(" ")
    name = typed.strip("-=").replace("-", "_")
    if name not in defaults:
        hint = "/set lists what can be set; the dials have commands of their own: /knowledge, /behaviour, /trait"
        raise OptionError(f"there is nothing called {typed} to set.{meaning(name, defaults)}", hint=hint)
    text = text.strip().removeprefix("=").strip()
    if text:
        value = defaults[name] if text in ("default", "off", "none") else _value(name, text)
        changes: dict[str, Any] = {name: value}
        talk.sampling = dataclasses.replace(talk.sampling, **changes)
    return f"{name}: {_shown(getattr(talk.sampling, name))}"


def _defaults() -> dict[str, Any]:
    from eft_gguf import Sampling

    plain = Sampling()
    return {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(Sampling) if field.name != "logprobs"
    }


def _value(name: str, text: str) -> Any:
    if name in TEXTS or (name == "json_schema" and text.startswith("{")):
        return text
    if name in IN_FILES:
        return read_text(Path(text))
    if name == "stop":
        return (text,)
    try:
        if name == "logit_bias":
            return {int(token): float(bias) for token, _, bias in (entry.partition("=") for entry in text.split())}
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        wanted = "pairs as 11=-1.5" if name == "logit_bias" else "a whole number" if name in WHOLE else "a number"
        raise OptionError(f"{name} takes {wanted}, not {text!r}", hint=f"/set {name} default takes it back") from None


def _shown(value: Any) -> str:
    if value is None or value == () or value == {}:
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:60] + " …"
