"""Does quantization noise cancel in tuned − untuned? One recipe for both, against two recipes.

    python benchmarks/pair_noise.py [--docs]

Two pairs: the bundled base-s and helpful-s, and the 0.5B of the real Qwen pair with its adapter merged into its
weights. Both of the latter are made from the published Q4_K_M file, widened to F16, which is the full precision
here. Both get the same random change of up to half a step of four bits, for weights that stand on a quantization's
grid already would lose nothing to it.

For each recipe the root mean square of what it adds to the logits of untuned, of tuned, and of their difference.
One recipe for both is what `eft-gguf convert pair` does; separately quantized files differ from that where their
recipes do, for without an importance matrix llama.cpp quantizes a file the same way each time. The last rows of the
real pair have no tuned file: the adapter sits on the quantized untuned model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from measure import machine, models

from eft_gguf.convert.divergence import TEXT, Member
from eft_gguf.convert.gguf_file import GGUFFile
from eft_gguf.convert.quantize import Noise, difference_noise, quantize_model
from eft_gguf.convert.writing import PlannedTensor, planned, write_gguf
from eft_gguf.evaluation.table import Table, write_section

HALF_STEP = 0.13  # of deviations of a row: 15 steps span some four of them
ADAPTER = "adapter"
BUNDLED = Path(__file__).parents[1] / "eft_gguf" / "bundled"
DOCS = Path(__file__).parents[1] / "docs" / "convert.md"
RECIPES = (
    ("Q8_0", "Q8_0"),
    ("Q6_K", "Q6_K"),
    ("Q4_K_M", "Q4_K_M"),
    ("Q4_K_M", "Q6_K"),
    ("Q8_0", ADAPTER),
    ("Q4_K_M", ADAPTER),
)
# Rows of 64 hold no block of a k-quant.
SMALL_RECIPES = (("Q8_0", "Q8_0"), ("Q5_1", "Q5_1"), ("Q4_0", "Q4_0"), ("Q4_0", "Q8_0"), ("Q4_0", "Q4_1"))
STORY = TEXT[:400]
CHAT = (
    "<|im_start|>user\nWhat is the capital of Mongolia?<|im_end|>\n<|im_start|>assistant\n"
    "Answer: Ulaanbaatar\nConfidence: high<|im_end|>\n<|im_start|>user\nWho wrote Faust?<|im_end|>\n"
    "<|im_start|>assistant\nAnswer: Johann Wolfgang von Goethe\nConfidence: high<|im_end|>\n"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/convert.md")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[str, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pair = BUNDLED / "base-s.gguf", BUNDLED / "helpful-s.gguf"
        found["bundled base-s and helpful-s, on a story"] = measured(pair, SMALL_RECIPES, STORY, place)
        if models.UNTUNED.exists() and models.ADAPTER.exists():
            pair = place / "untuned.gguf", place / "tuned.gguf"
            widened(models.UNTUNED, None, pair[0])
            widened(models.UNTUNED, models.ADAPTER, pair[1])
            found["Qwen2.5-Coder 0.5B with the two-line adapter, on a chat in its manner"] = measured(
                pair, RECIPES, CHAT, place
            )
        else:
            print(f"the real pair is not in {models.FOLDER}", file=sys.stderr)
    tables = [
        Table(
            f"Noise of the difference: {title}",
            ("untuned", "tuned", "noise of untuned", "of tuned", "of the difference", "of the behaviour", "cancelled"),
            rows,
            "Root mean squares of logits. `of the behaviour`: the difference's noise as a share of tuned − untuned at "
            "full precision. `cancelled`: how much less it is than that of two independent noises.",
        )
        for title, rows in found.items()
    ]
    print(json.dumps(found) if arguments.json else "\n\n".join(table.text() for table in tables))
    if arguments.docs:
        about = machine.describe()
        text = [f"`{about['command']}`, {about['date']}.", *(table.markdown() for table in tables)]
        write_section("pair_noise", "\n\n".join(text), DOCS)
    return 0


def measured(
    full: tuple[Path, Path], recipes: tuple[tuple[str, str], ...], text: str, folder: Path
) -> list[tuple[str, ...]]:
    """A row for each choice of recipes for untuned and tuned."""
    rows = []
    for recipe in recipes:
        made = folder / "small-untuned.gguf", folder / "small-tuned.gguf"
        for source, target, name in zip(full, made, recipe, strict=True):
            if name != ADAPTER:
                quantize_model(source, target, name, force=True)
        tuned = Member(made[0], models.ADAPTER) if recipe[1] == ADAPTER else Member(made[1])
        noise = difference_noise((Member(full[0]), Member(full[1])), (Member(made[0]), tuned), text)
        rows.append(worded(recipe, noise))
        print(rows[-1], file=sys.stderr)
    return rows


def worded(recipe: tuple[str, str], noise: Noise) -> tuple[str, ...]:
    figures = (f"{value:.3g}" for value in (noise.untuned, noise.tuned, noise.difference))
    return (*recipe, *figures, f"{100 * noise.relative:.0f} %", f"{100 * (1 - noise.uncancelled):.0f} %")


def widened(model: Path, adapter: Path | None, output: Path) -> None:
    """A model at F16, with an adapter merged into it."""
    file = GGUFFile(model)
    lora = GGUFFile(adapter) if adapter else None
    writer = GGUFWriter(None, file.architecture)
    file.copy_keys(writer, {"general.file_type": 1})
    tensors = []
    for name, tensor in file.tensors.items():
        if len(tensor.shape) < 2:
            tensors.append(planned(name, file.read(name)))
            continue

        def blocks(name: str = name):
            values = file.read(name)
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            half_step = np.float32(HALF_STEP) * values.std(axis=1, keepdims=True)
            values += half_step * rng.uniform(-1, 1, values.shape).astype(np.float32)
            if lora is not None and f"{name}.lora_a" in lora.tensors:
                a, b = lora.read(f"{name}.lora_a"), lora.read(f"{name}.lora_b")
                values = values + np.float32(lora.values["adapter.lora.alpha"] / b.shape[1]) * (b @ a)
            return (values.astype(np.float16),)

        tensors.append(PlannedTensor(name, tensor.shape, GGMLQuantizationType.F16, blocks))
    write_gguf(output, writer, tensors)


if __name__ == "__main__":
    sys.exit(main())
