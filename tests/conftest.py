"""Models that many tests share. Each is written once a run; none is downloaded."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_adapter, write_tiny_model

# No test may fetch anything; those of fetching have a hub of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
# What decodes cost is measured once a run for each family, and none of it kept after it.
_CACHE = tempfile.TemporaryDirectory(prefix="eft-gguf-tests-")
os.environ["EFT_GGUF_CACHE"] = _CACHE.name


@dataclass(frozen=True)
class TinyFiles:
    """Paths of a random family that shares a vocabulary: its answers mean nothing, its arithmetic does."""

    base: Path
    untuned: Path
    tuned: Path
    other: Path
    adapter: Path

    def family(self) -> dict[str, Path]:
        return {"base": self.base, "untuned": self.untuned, "tuned": self.tuned}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    folder = tmp_path_factory.mktemp("tiny")
    models = {
        name: write_tiny_model(folder / f"{name}.gguf", seed=seed)
        for seed, name in enumerate(("base", "untuned", "tuned", "other"))
    }
    return TinyFiles(**models, adapter=write_tiny_adapter(folder / "adapter.gguf", seed=9))
