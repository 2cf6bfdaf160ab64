"""Families small enough for ordinary tests: random ones, written in milliseconds, and the bundled one."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.models.family import BUNDLED, load_family
from tests.plain_llama import Members
from tests.tiny_models import write_tiny_adapter, write_tiny_model

SMALL = ("random", "random, with an adapter", "bundled")
RANDOM_CTX = 2048
"""A random model's tokens are bytes."""


def small_members(name: str, folder: Path) -> Members:
    if name == "bundled":
        if not BUNDLED.exists():
            pytest.skip("no bundled family: make family trains it")
        family = load_family("bundled")
        return Members(family.base.path, family.untuned.path, family.tuned[0].model.path)
    base, untuned, tuned = (
        write_tiny_model(folder / f"{role}.gguf", seed=seed, ctx=RANDOM_CTX)
        for seed, role in enumerate(("base", "untuned", "tuned"))
    )
    adapter = name == "random, with an adapter"
    if adapter:
        tuned = write_tiny_adapter(folder / "adapter.gguf", seed=9)
    return Members(base, untuned, tuned, adapter, RANDOM_CTX)
