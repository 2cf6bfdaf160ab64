"""`eft-gguf convert`: one file per conversion, and what they share."""

from __future__ import annotations

import click

from eft_gguf.cli.lazy import LazyCommands

CONVERSIONS = {
    "hf": "A Hugging Face checkpoint folder into a GGUF model.",
    "lora": "An adapter folder of PEFT or mlx_lm into a GGUF adapter.",
    "delta": "The difference of two models into a GGUF adapter.",
    "align": "The vocabularies of a family made equal.",
    "quantize": "A GGUF model by llama.cpp's quantizer.",
    "pair": "Untuned and tuned, quantized by one recipe.",
}


@click.group(
    cls=LazyCommands,
    summaries=CONVERSIONS,
    package="eft_gguf.cli.convert",
    short_help="Make checkpoints and adapters into a family.",
)
def convert() -> None:
    """Make checkpoints and adapters into GGUF files that a family is put together from."""
