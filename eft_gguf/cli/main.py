"""The command `eft-gguf`: imports only the command that is called, and words what goes wrong."""

from __future__ import annotations

import errno
import os
import sys

import click

from eft_gguf.cli.display import complain
from eft_gguf.cli.lazy import LazyCommands, meaning
from eft_gguf.cli.streams import drop_output, open_streams, output_error
from eft_gguf.errors import EFTError

NAME = "eft-gguf"
COMPLETE = "_EFT_GGUF_COMPLETE"
"""The variable by which shells ask for completions."""

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

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


def _completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if shell is None or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    variables = {"complete_func": f"{COMPLETE.lower()}", "complete_var": COMPLETE, "prog_name": NAME}
    # Not source(): that of bash runs bash to learn its version.
    click.echo(found.source_template % variables)
    ctx.exit()


@click.group(
    cls=LazyCommands,
    summaries=COMMANDS,
    package="eft_gguf.cli",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=_completion,
    help='Print a script that completes words on Tab. For bash and zsh: eval "$(eft-gguf --completion bash)"; for '
    "fish: eft-gguf --completion fish | source",
)
@click.version_option(package_name="eft-gguf")
def cli() -> None:
    """Emulated fine-tuning for GGUF models: a large base model answers with the manners of a small tuned one.

    Start with: eft-gguf demo
    """


def main() -> None:
    """Run the command line. Exit code 2 with one clear message is the user's to mend.

    130 is Ctrl-C, 141 a reader that has left. 1 is a verdict: warnings of doctor, a blend not worth it.
    """
    if not open_streams():
        complain("standard output is closed", "leave it open, or send it to a file: eft-gguf … > FILE")
        sys.exit(2)
    code = run_command(sys.argv[1:])
    if (error := output_error()) is not None:
        code = _unwritable(error)
    sys.exit(code)


def run_command(arguments: list[str]) -> int:
    """The exit code of one call; messages go to stderr."""
    try:
        if instruction := os.environ.get(COMPLETE):
            from click.shell_completion import shell_complete

            return shell_complete(cli, {}, NAME, COMPLETE, instruction)
        # Not cli.main(), which makes an exit code of 1 of a reader that has left.
        with cli.make_context(NAME, list(arguments)) as context:
            code = cli.invoke(context)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except EFTError as error:
        from eft_gguf.cli.options import in_flags

        complain(in_flags(error.message), error.hint)
    except click.NoSuchOption as error:
        known = [text for param in error.ctx.command.params for text in param.opts] if error.ctx else []
        option = error.option_name
        complain(f"No such option: {option}.{meaning(option, known)}", _see(error.ctx))
    except click.UsageError as error:
        complain(error.format_message(), _see(error.ctx))
    except click.ClickException as error:
        complain(error.format_message())
    except (click.Abort, KeyboardInterrupt, EOFError):
        click.echo(err=True)
        return 130
    except OSError as error:
        # Commands word what is wrong with files themselves; this is of a write without a name, to standard output.
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        return _unwritable(error)
    return 2


def _see(context: click.Context | None) -> str:
    return f"see: {context.command_path if context else NAME} --help"


def _unwritable(error: OSError) -> int:
    """The exit code where standard output takes no more."""
    drop_output()
    if isinstance(error, BrokenPipeError):
        return 141  # as a shell reports it of a program that `head` has cut off
    complain(f"cannot write to standard output: {error.strerror}", "make room there, or name another place")
    return 2
