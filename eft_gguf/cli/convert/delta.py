"""`eft-gguf convert delta`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, read_text, size, tell, text_option


@click.command(short_help="The difference of two models into a GGUF adapter.")
@click.argument("untuned", type=PATH)
@click.argument("tuned", type=PATH)
@click.argument("output", type=PATH)
@click.option("--rank", type=int, metavar="N", help="The rank of each layer's difference, at most.  [default: 32]")
@click.option("--energy", type=float, metavar="X", help="Instead: the share of its square to keep, as in 0.95.")
@click.option(
    "--untie",
    type=PATH,
    metavar="FILE",
    help="Write a copy of UNTUNED whose output layer is not its embedding; OUTPUT is for that, and holds both.",
)
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f16", show_default=True, help="Of the adapter.")
@text_option
@output_options
def delta(
    untuned: Path,
    tuned: Path,
    output: Path,
    rank: int | None,
    energy: float | None,
    untie: Path | None,
    dtype: str,
    text: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Put what a fine-tuning has changed from UNTUNED to TUNED into one small adapter, OUTPUT.

    Both are GGUF files or checkpoint folders. Use it as the tuned model: --tuned lora:OUTPUT, with UNTUNED or, where
    --untie made one, its copy as --untuned.
    """
    from eft_gguf.convert.delta import extract_delta
    from eft_gguf.convert.divergence import TEXT

    words = read_text(text) or TEXT
    with bar() as progress:
        made = extract_delta(
            untuned,
            tuned,
            output,
            rank=rank,
            energy=energy,
            untie=untie,
            text=words,
            dtype=dtype,
            force=force,
            progress=progress,
        )
    ranks = [layer.rank for layer in made.layers]
    worst = sorted(made.layers, key=lambda layer: -layer.error * layer.change)[:5]
    lines = [
        f"{made.path}: {len(made.layers)} layers, ranks {min(ranks)} to {max(ranks)}, {size(made.size_bytes)}",
        f"of the weights' difference {1 - made.error**2:.1%} is kept; least of",
        *(f"  {layer.name}: {1 - layer.error**2:.1%} of a change by {layer.change:.2%}" for layer in worst),
        f"KL from the tuned model: {made.kl:.3g} nats a token, {made.kl_without:.3g} without the adapter "
        f"({made.tokens} tokens)",
    ]
    if made.untied is not None:
        lines.append(
            f"{made.untied}: the untuned model that the adapter is for, {size(Path(made.untied).stat().st_size)}"
        )
    tell(made.as_dict(), "\n".join(lines), as_json=as_json)
