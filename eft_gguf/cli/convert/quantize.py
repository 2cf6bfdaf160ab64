"""`eft-gguf convert quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, size, tell


@click.command(short_help="A GGUF model by llama.cpp's quantizer.")
@click.argument("model", type=PATH)
@click.argument("output", type=PATH)
@click.argument("recipe", metavar="RECIPE", type=str.upper)
@output_options
def quantize(model: Path, output: Path, recipe: str, force: bool, as_json: bool) -> None:
    """Quantize MODEL (GGUF at F32, F16 or BF16) to OUTPUT by RECIPE: Q8_0, Q6_K, Q5_K_M, Q4_K_M …

    What fine-tuning has changed is small: for untuned and tuned prefer Q8_0, and see convert pair.
    """
    from eft_gguf.convert.quantize import quantize_model

    with bar() as progress:
        made = quantize_model(model, output, recipe, force=force, progress=progress)
    types = ", ".join(f"{count} × {kind}" for kind, count in made.types.items())
    text = f"{made.path}: {made.recipe}, {size(made.size_bytes)} of {size(made.source_bytes)} ({types})"
    tell(made.as_dict(), text, as_json=as_json)
