"""What a request cost, in tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, those of them that were in the KV cache, and those of all replies."""

    prompt: int
    cached: int
    generated: int

    @classmethod
    def of(cls, timings: Sequence[Mapping[str, Any]]) -> Usage:
        """Of the replies to one prompt."""
        first = timings[0] if timings else {}
        generated = sum(reply.get("generated_tokens", 0) for reply in timings)
        return cls(first.get("prompt_tokens", 0), first.get("cached_tokens", 0), generated)

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.generated + other.generated)

    def plain(self) -> dict[str, Any]:
        """In OpenAI's words."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
