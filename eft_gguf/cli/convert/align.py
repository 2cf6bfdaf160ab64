"""`eft-gguf convert align`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from eft_gguf.cli.convert.common import PATH, bar, output_options, tell


@click.command(short_help="The vocabularies of a family made equal.")
@click.argument("folder", type=PATH)
@click.option("--base", metavar="REF", help="The base.")
@click.option("--untuned", metavar="REF", help="The untuned model.")
@click.option("--tuned", metavar="REF", multiple=True, help="A tuned model; the first gives template and special ids.")
@click.option("--cut", is_flag=True, help="Cut rows that no model uses, instead of adding some.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@output_options
def align(
    folder: Path,
    base: str | None,
    untuned: str | None,
    tuned: tuple[str, ...],
    cut: bool,
    dry_run: bool,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make the vocabularies of these models equal; those that have to change are written to FOLDER.

    Rows without a token are added or cut. No token that any model uses is changed. What will be done is shown first.
    """
    from eft_gguf.convert.align import align as carry_out
    from eft_gguf.convert.align import plan_alignment
    from eft_gguf.models.references import resolve

    named = {f"tuned {number}" if number > 1 else "tuned": reference for number, reference in enumerate(tuned, 1)}
    named |= {role: reference for role, reference in (("untuned", untuned), ("base", base)) if reference}
    if len(named) < 2:
        raise click.UsageError("at least two of --base, --untuned and --tuned are needed")
    if any(reference.startswith("lora:") for reference in named.values()):
        raise click.UsageError("an adapter has no vocabulary: leave it out")
    plans = plan_alignment({role: resolve(text).path for role, text in named.items()}, folder, cut=cut)
    shown = "\n".join(line for plan in plans for line in plan.lines())
    if not as_json:
        click.echo(shown)
    todo = [plan for plan in plans if plan.changes]
    if todo and not dry_run:
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("pass --yes to write this, or --dry-run to look only")
            click.confirm("Write this?", default=True, abort=True, err=True)
        folder.mkdir(parents=True, exist_ok=True)
        with bar() as progress:
            carry_out(plans, force=force, progress=progress)
    record = {"plans": [plan.as_dict() for plan in plans], "written": bool(todo and not dry_run)}
    if as_json:
        tell(record, "", as_json=True)
    elif record["written"]:
        click.echo(f"written: {', '.join(plan.output for plan in todo)}")
