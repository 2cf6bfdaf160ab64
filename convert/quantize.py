"""Quantizing one model, or an untuned and a tuned one by the same recipe."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.quantizer import RECIPES, quantize
from eft_gguf.errors import CompatibilityError, OptionError
from eft_gguf.models.header import TYPE_NAMES
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from eft_gguf.models.soundness import require_sound

from .check import require_computing
from .divergence import TEXT, Member, rows
from .writing import Progress, silent, written_aside

WIDE = (0, 1, 30)  # F32, F16, BF16


@dataclass
class Quantized:
    """What was made. types: how many tensors have each type."""

    path: str
    recipe: str
    size_bytes: int
    source_bytes: int
    types: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Noise:
    """What quantization does to logits, as root mean squares over tokens and ids; each row less its mean.

    behaviour: tuned − untuned at full precision.  untuned, tuned: what each lost by itself.  difference: what
    tuned − untuned lost. Independent losses would add up to √(untuned² + tuned²); the less, the more has cancelled.
    """

    behaviour: float
    untuned: float
    tuned: float
    difference: float
    tokens: int

    @property
    def relative(self) -> float:
        """Of the behaviour: how much of what the blend takes for fine-tuning is noise."""
        return self.difference / self.behaviour if self.behaviour else 0.0

    @property
    def uncancelled(self) -> float:
        """1 where both losses are independent, 0 where they are the same."""
        independent = float(np.hypot(self.untuned, self.tuned))
        return self.difference / independent if independent else 0.0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {**asdict(self), "relative": self.relative, "uncancelled": self.uncancelled}


def quantize_model(
    source: Path, output: Path, recipe: str, *, force: bool = False, progress: Progress = silent
) -> Quantized:
    """Quantize a model by a recipe of llama.cpp's, such as Q8_0 or Q4_K_M.

    Raises OptionError, ModelFileError, and LoadError where llama.cpp cannot.
    """
    metadata = _checked(source, recipe)
    with written_aside(output, force=force, sources=(source,)) as aside:
        quantize(source, aside, recipe, progress=progress)
        progress("checking what was written", 1.0)
        require_computing(aside)
    return _told(output, recipe, metadata)


def quantize_pair(
    untuned: Path,
    tuned: Path,
    outputs: tuple[Path, Path],
    recipe: str,
    *,
    text: str = TEXT,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Quantized, Quantized, Noise]:
    """Quantize both by one recipe, see that all tensors have the same types, and measure the noise on a text.

    Both outputs or none are left. Raises CompatibilityError where the types differ.
    """
    if outputs[0].resolve() == outputs[1].resolve():
        raise OptionError(f"both outputs are {outputs[0]}", hint="name two")
    sources = (untuned, tuned)
    metadata = [_checked(source, recipe) for source in sources]
    with ExitStack() as stack:
        asides = [stack.enter_context(written_aside(path, force=force, sources=sources)) for path in outputs]
        for source, aside in zip(sources, asides, strict=True):
            quantize(source, aside, recipe, progress=progress)
            require_computing(aside)
        _require_same_types(*(read_metadata(aside) for aside in asides))
        quantized = Member(asides[0]), Member(asides[1])
        noise = difference_noise((Member(untuned), Member(tuned)), quantized, text, progress=progress)
    first, second = (_told(path, recipe, before) for path, before in zip(outputs, metadata, strict=True))
    return first, second, noise


def difference_noise(
    full: tuple[Member, Member], quantized: tuple[Member, Member], text: str = TEXT, *, progress: Progress = silent
) -> Noise:
    """What quantization does to untuned, tuned (in this order) and their difference, on a text."""
    sums, count, tokens = np.zeros(4), 0, 0
    for row in rows([*full, *quantized], text, progress):
        untuned, tuned, small_untuned, small_tuned = (values - values.mean() for values in row)
        lost = small_untuned - untuned, small_tuned - tuned
        sums += [_square(part) for part in (tuned - untuned, lost[0], lost[1], lost[1] - lost[0])]
        count, tokens = count + len(untuned), tokens + 1
    behaviour, first, second, difference = np.sqrt(sums / count).tolist()
    return Noise(behaviour, first, second, difference, tokens)


def _square(values: NDArray[np.float64]) -> float:
    return float(values @ values)


def _checked(source: Path, recipe: str) -> GGUFMetadata:
    if recipe not in RECIPES:
        raise OptionError(f"the recipe is {recipe!r}", hint=f"it must be one of {', '.join(RECIPES)}")
    metadata = read_metadata(source)
    require_sound(metadata)
    if metadata.kind != "model":
        hint = "only models are quantized; an adapter is small, and works on a quantized model as it is"
        raise OptionError(f"{source} is of type {metadata.kind!r}", hint=hint)
    kinds = {tensor.kind for tensor in metadata.tensors.values()}
    if not kinds <= set(WIDE):
        named = ", ".join(sorted(TYPE_NAMES.get(kind, str(kind)) for kind in kinds - set(WIDE)))
        hint = "quantize the original, at F32, F16 or BF16: what is lost once is lost twice otherwise"
        raise OptionError(f"{source} is quantized already ({named})", hint=hint)
    return metadata


def _require_same_types(untuned: GGUFMetadata, tuned: GGUFMetadata) -> None:
    for name in sorted({*untuned.tensors, *tuned.tensors}):
        kinds = [model.tensors[name].kind if name in model.tensors else None for model in (untuned, tuned)]
        if kinds[0] != kinds[1]:
            named = " and ".join("missing" if kind is None else TYPE_NAMES.get(kind, str(kind)) for kind in kinds)
            hint = "give one model before and after its fine-tuning"
            raise CompatibilityError(f"untuned's and tuned's {name} are {named}", hint=hint)


def _told(output: Path, recipe: str, before: GGUFMetadata) -> Quantized:
    metadata = read_metadata(output)
    kinds = [TYPE_NAMES.get(tensor.kind, str(tensor.kind)) for tensor in metadata.tensors.values()]
    notes = []
    wanted = recipe.removesuffix("_S").removesuffix("_M").removesuffix("_L")
    if wanted not in kinds:
        notes.append(
            f"no tensor could be {wanted}, whose blocks are longer than the model's rows: llama.cpp took others"
        )
    types = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return Quantized(str(output), recipe, metadata.size_bytes, before.size_bytes, types, notes)
