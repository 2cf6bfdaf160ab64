"""Measured costs on disk, so that they are measured once for each machine, family and way of using it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eft_gguf.engine.draft_length import Costs
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.errors import OptionError
from eft_gguf.files import cache_folder, read_json, write_aside
from eft_gguf.models.references import Reference, identity

FORMAT = 2
"""To be raised when figures of before would mean something else."""


def costs_file(ensemble: Ensemble, members: Iterable[Reference], factors: Sequence[float]) -> Path:
    """Where the costs of this family are kept, used in this way on this machine."""
    key = {
        "format": FORMAT,
        "machine": [platform.node(), platform.machine(), platform.processor()],
        "llama.cpp": version("llama-cpp-python"),
        "files": [identity(member) for member in members],
        "hardware": asdict(ensemble.hardware),
        "shape": [min(ensemble.ctx, 1024), ensemble.batch, ensemble.outputs],
        "factors": [factor != 0 for factor in factors],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return cache_folder() / "costs" / f"{digest}.json"


def read_costs(path: Path, members: int) -> Costs | None:
    """What was kept; None where there is nothing, or nothing that can be understood."""
    try:
        content = read_json(path)
        curves = [np.array(curve, np.float64) for curve in content["curves"]]
        costs = Costs(curves, *(float(content[name]) for name in ("step", "sequence", "draft")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    numbers = [*(number for curve in curves for number in curve.ravel()), costs.step, costs.sequence, costs.draft]
    same = len(curves) == members and len({curve.shape for curve in curves}) == 1
    sound = all(math.isfinite(number) and number >= 0 for number in numbers) and costs.step + costs.sequence > 0
    return costs if same and curves[0].ndim == 1 and len(curves[0]) > 1 and sound else None


def keep_costs(path: Path, costs: Costs) -> None:
    """Write costs down for the next time; where that is not possible they will be measured again."""
    besides = {"step": costs.step, "sequence": costs.sequence, "draft": costs.draft}
    content = {"curves": [curve.tolist() for curve in costs.curves], **besides}
    with contextlib.suppress(OSError, OptionError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, json.dumps(content) + "\n")
