"""What a run was made of: everything that is needed to repeat it."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eft_gguf.blend.equation import Blend
from eft_gguf.evaluation import machine
from eft_gguf.models.family import Family


def family_record(family: Family) -> dict[str, Any]:
    """A family's name, and its files with their hashes."""
    return {
        "name": family.name,
        "file": str(family.path) if family.path else None,
        "members": {
            name: {**file_record(reference.path), "adapter": reference.adapter}
            for name, reference in family.members.items()
        },
        "weights": family.weights,
        "examples": examples_record(family),
    }


def examples_record(family: Family) -> Any:
    """What base and untuned are shown: a number of questions, a file with its hash, or the examples themselves."""
    if isinstance(family.examples, Path):
        return file_record(family.examples)
    return family.examples if isinstance(family.examples, int) else [asdict(example) for example in family.examples]


def dials_record(blend: Blend, family: Family) -> dict[str, Any]:
    """Both dials, the weight of every trait, and what is set of the filter."""
    filter = {name: value for name, value in asdict(blend.filter).items() if value is not None}
    traits = family.weights | dict(blend.traits)
    return {"knowledge": blend.knowledge, "behaviour": blend.behaviour, "traits": traits, "filter": filter}


def file_record(path: Path) -> dict[str, Any]:
    """A file's path, size in bytes, and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def run_record(
    evaluation: str,
    family: Family,
    questions: Mapping[str, Any],
    asked: int,
    *,
    started: float,
    max_tokens: int,
) -> dict[str, Any]:
    """What every evaluation records. started: seconds since the epoch.  asked: the questions that were got through."""
    return {
        "evaluation": evaluation,
        **about_record(started),
        "seconds": round(time.time() - started, 3),
        "family": family_record(family),
        "questions": {**questions, "asked": asked},
        "sampling": {"temperature": 0, "max_tokens": max_tokens},
    }


def about_record(started: float) -> dict[str, Any]:
    """When, by which command, with what and on what. started: seconds since the epoch."""
    return {
        "command": " ".join(["eft-gguf", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "versions": machine.versions(),
        "machine": machine.describe(),
    }
