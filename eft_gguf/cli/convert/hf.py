"""`eft-gguf convert hf`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, size, tell


@click.command(short_help="A Hugging Face checkpoint folder into a GGUF model.")
@click.argument("folder", type=PATH)
@click.argument("output", type=PATH)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "f32", "f16", "bf16"]),
    default="auto",
    show_default=True,
    help="Of matrices; auto is what the checkpoint has.",
)
@output_options
def hf(folder: Path, output: Path, dtype: str, force: bool, as_json: bool) -> None:
    """Convert the checkpoint in FOLDER (config.json, .safetensors files, tokenizer) to the GGUF file OUTPUT.

    Llama, Mistral, Qwen2, Qwen3, Gemma 3, Falcon and SmolLM2. The output is loaded and compared before it gets its
    name.
    """
    from eft_gguf.convert.hf import convert_checkpoint

    with bar() as progress:
        made = convert_checkpoint(folder, output, dtype=dtype, force=force, progress=progress)
    cut = ""
    if made.texts_cut_otherwise is not None:
        alike = made.texts_tried - len(made.texts_cut_otherwise)
        cut = f"; {alike} of {made.texts_tried} difficult texts cut as by the checkpoint's tokenizer"
    text = (
        f"{made.path}: {made.architecture}, {made.parameters:,} numbers in {made.tensors} tensors, "
        f"{made.dtype.upper()}, {size(made.size_bytes)}\n"
        f"{made.vocabulary:,} tokens, cut by {made.pre_tokenizer!r}{cut}"
    )
    tell(made.as_dict(), text, as_json=as_json)
