"""`eft-gguf evaluate`: one file per evaluation, and what several of them share."""

from __future__ import annotations

import click

from eft_gguf.cli.lazy import LazyCommands

EVALUATIONS = {
    "gate": "Is blending worth it, for your own prompts?",
    "frontier": "Sweep two traits against each other, and behaviour from 0 to 2.",
}


@click.group(
    cls=LazyCommands,
    summaries=EVALUATIONS,
    package="eft_gguf.cli.evaluate",
    short_help="Measure what a blend knows, and how it behaves.",
)
def evaluate() -> None:
    """Measure what a blend knows, and how it behaves: counts with intervals, from greedy replies to questions."""
