"""`eft-gguf convert pair`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, read_text, size, tell, text_option


@click.command(short_help="Untuned and tuned, quantized by one recipe.")
@click.argument("untuned", type=PATH)
@click.argument("tuned", type=PATH)
@click.argument("untuned_output", type=PATH)
@click.argument("tuned_output", type=PATH)
@click.argument("recipe", metavar="RECIPE", type=str.upper)
@text_option
@output_options
def pair(
    untuned: Path,
    tuned: Path,
    untuned_output: Path,
    tuned_output: Path,
    recipe: str,
    text: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize UNTUNED and TUNED alike, all tensors to the same types, and measure the noise of their difference.

    That difference is what a blend takes for fine-tuning.
    """
    from eft_gguf.convert.divergence import TEXT
    from eft_gguf.convert.quantize import quantize_pair

    words = read_text(text) or TEXT
    with bar() as progress:
        first, second, noise = quantize_pair(
            untuned, tuned, (untuned_output, tuned_output), recipe, text=words, force=force, progress=progress
        )
    lines = [
        *(
            f"{made.path}: {made.recipe}, {size(made.size_bytes)} of {size(made.source_bytes)}"
            for made in (first, second)
        ),
        f"tuned − untuned is {noise.behaviour:.3g} (root mean square of logits, {noise.tokens} tokens); "
        f"quantization changes it by {noise.difference:.3g}, {noise.relative:.0%} of it",
        f"by itself untuned changes by {noise.untuned:.3g}, tuned by {noise.tuned:.3g}: "
        f"{1 - noise.uncancelled:.0%} of their noise cancels",
    ]
    record = {"untuned": first.as_dict(), "tuned": second.as_dict(), "noise": noise.as_dict(), "notes": first.notes}
    tell(record, "\n".join(lines), as_json=as_json)
