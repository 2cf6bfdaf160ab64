"""`eft-gguf evaluate`: one file per evaluation, and what several of them share."""

from __future__ import annotations

import click

from eft_gguf.cli.lazy import LazyCommands

EVALUATIONS = {
    "gate": "Is blending worth it, for your own prompts?",
    "matrix": "Pre-training scale × fine-tuning scale: what does each bring?",
    "frontier": "Sweep two traits against each other, and behaviour from 0 to 2.",
    "tokens": "Token by token: where do tuned model and blend part?",
    "report": "One HTML page of a run, or of several.",
}


@click.group(
    cls=LazyCommands,
    summaries=EVALUATIONS,
    package="eft_gguf.cli.evaluate",
    short_help="Measure what a blend knows, and how it behaves.",
)
def evaluate() -> None:
    """Measure what a blend knows, and how it behaves: counts with intervals, from greedy replies to questions."""
