"""`eft-gguf families add`."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.display import note
from eft_gguf.files import home_expanded, read_text


@click.command("add", short_help="Name three models of your own once, for -f NAME.")
@click.argument("name")
@click.option("--base", metavar="REF", required=True, help="The model whose knowledge is wanted.")
@click.option("--untuned", metavar="REF", required=True, help="The tuned model before its fine-tuning.")
@click.option(
    "--tuned",
    metavar="[TRAIT=]REF[:WEIGHT]",
    multiple=True,
    required=True,
    help="The fine-tuned model; lora:FILE for an adapter on untuned. Several are traits, each named.",
)
@click.option(
    "--untuned-of",
    metavar="TRAIT=REF",
    multiple=True,
    help="The model that a trait was tuned from, where that is not --untuned. May be repeated.",
)
@click.option("--ctx", type=int, metavar="N", help="Context length in tokens where none is asked for.")
@click.option(
    "--bases-template",
    metavar="plain|FILE",
    help="How base and untuned read a chat, if they don't know tuned's control tokens: plain, or a Jinja template.",
)
@click.option("--about", metavar="TEXT", help="A line for the list.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Write it here, instead of among your families.",
)
@click.option("--replace", is_flag=True, help="Overwrite a family of that name.")
def add(
    name: str,
    base: str,
    untuned: str,
    tuned: tuple[str, ...],
    untuned_of: tuple[str, ...],
    ctx: int | None,
    bases_template: str | None,
    about: str | None,
    output: Path | None,
    replace: bool,
) -> None:
    """Write a family file from references, checked, so that -f NAME stands for it in all commands.

    Models that are on this disk are compared, and refused where they may not be blended. References into stores are
    kept as they are, paths made absolute.
    """
    from eft_gguf.models.family_writing import Entry, check_models, family_text, traits_of, write_family
    from eft_gguf.models.presets import check_name, families_folder

    check_name(name)
    if bases_template not in (None, "plain"):
        assert bases_template is not None
        try:
            bases_template = read_text(home_expanded(bases_template))
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"cannot read {bases_template}: {error}", param_hint="--bases-template") from None
    entry = Entry(name, base, untuned, traits_of(tuned, untuned_of), ctx, bases_template, about or "")
    path = output or families_folder() / f"{name}.toml"
    text = family_text(entry)
    for finding in check_models(text, path):
        note(f"{finding.severity}: {finding.message}")
        if finding.hint:
            note(f"  {finding.hint}")
    write_family(path, text, replace=replace)
    click.echo(f"written: {path}")
    shown = name if output is None else str(path)
    click.echo(f"use it: eft-gguf chat -f {shown}   check it: eft-gguf doctor -f {shown}")
