"""`eft-gguf convert lora`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, size, tell


@click.command(short_help="An adapter folder of PEFT or mlx_lm into a GGUF adapter.")
@click.argument("folder", type=PATH)
@click.argument("output", type=PATH)
@click.option("--untuned", metavar="REF", required=True, help="The model that it was trained on, as GGUF.")
@output_options
def lora(folder: Path, output: Path, untuned: str, force: bool, as_json: bool) -> None:
    """Convert the LoRA adapter in FOLDER to the GGUF file OUTPUT.

    FOLDER is what PEFT's save_pretrained or mlx_lm.lora has written: adapter_config.json and the weights.
    Use it as the tuned model: --tuned lora:OUTPUT. It is loaded on --untuned before it gets its name.
    """
    from eft_gguf.convert.lora import convert_adapter
    from eft_gguf.models.references import resolve

    with bar() as progress:
        made = convert_adapter(folder, output, resolve(untuned).path, force=force, progress=progress)
    ranks = ", ".join(f"rank {rank}: {count}" for rank, count in made.ranks.items())
    text = (
        f"{made.path}: adapter for {made.architecture}, {made.modules} layers ({ranks}), alpha {made.alpha:g}, "
        f"{size(made.size_bytes)}"
    )
    tell(made.as_dict(), text, as_json=as_json)
