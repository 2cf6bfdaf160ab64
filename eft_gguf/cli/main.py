"""The command `eft-gguf`: imports only the command that is called, and words what goes wrong."""

from __future__ import annotations

import io
import os
import sys

import click

from eft_gguf.cli.display import complain
from eft_gguf.cli.lazy import LazyCommands
from eft_gguf.errors import EFTError

COMMANDS = {
    "demo": "Ask one question of untuned, tuned, base and blend, side by side.",
    "run": "Print one answer.",
    "chat": "Talk, with the dials at hand.",
    "serve": "Serve OpenAI's API, and a page with the two dials.",
    "inspect": "Show which model decided which token.",
    "evaluate": "Measure what a blend knows, and how it behaves.",
    "families": "Families by name, and what of them is on this disk.",
    "convert": "Make checkpoints and adapters into a family.",
    "doctor": "Check a family: do the models fit together, and here?",
    "bench": "Measure how fast models and blend are here.",
}


@click.group(
    cls=LazyCommands,
    summaries=COMMANDS,
    package="eft_gguf.cli",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="eft-gguf")
def cli() -> None:
    """Emulated fine-tuning for GGUF models: a large base model answers with the manners of a small tuned one.

    Start with: eft-gguf demo
    """


def main() -> None:
    """Run the command line. Exit code 2 with one clear message is the user's to mend, 130 is Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # What a model says must not end in an error because the terminal cannot show it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """The exit code of one call; messages go to stderr."""
    try:
        code = cli.main(arguments, prog_name="eft-gguf", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EFTError as error:
        complain(error.message, error.hint)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "eft-gguf"
        complain(error.format_message(), f"see: {command} --help")
    except click.ClickException as error:
        complain(error.format_message())
    except click.Abort:
        return 130
    except BrokenPipeError:
        # The reader has left, as `head` does: nothing is left to be said, not even while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 2
