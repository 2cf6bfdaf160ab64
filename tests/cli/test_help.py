"""The help of every command, as a terminal of 80 columns shows it.

`EFT_GGUF_SNAPSHOTS=write pytest tests/cli/test_help.py` writes the texts anew after a change that is meant.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eft_gguf.cli.grouping import SECTIONS, Command
from eft_gguf.cli.main import cli

TEXTS = Path(__file__).parent / "help"


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for below in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), below)
            assert found is not None
            yield from commands(f"{name} {below}", found)


ALL = dict(commands("eft-gguf", cli))


@pytest.mark.parametrize("name", ALL)
def test_help(name: str) -> None:
    command, path = ALL[name], TEXTS / f"{name.replace(' ', '_')}.txt"
    settings = {**command.context_settings, "help_option_names": ["-h", "--help"], "terminal_width": 80}
    with click.Context(command, info_name=name, **settings) as context:
        text = command.get_help(context) + "\n"
    assert max(map(len, text.splitlines())) <= 80
    if os.environ.get("EFT_GGUF_SNAPSHOTS") == "write":
        TEXTS.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file() and text == path.read_text(encoding="utf-8"), "EFT_GGUF_SNAPSHOTS=write writes it anew"


def test_every_sampling_option_tells_its_default() -> None:
    with click.Context(ALL["eft-gguf run"], info_name="run", terminal_width=1000) as context:
        text = ALL["eft-gguf run"].get_help(context)
    without = ("logit_bias", "grammar", "json_schema", "regex", "lark", "stop")
    for name in SECTIONS["Sampling"]:
        line = next(line for line in text.splitlines() if line.strip().startswith(f"--{name.replace('_', '-')} "))
        assert name in without or "[default: " in line, line


def test_commands_that_take_models_have_their_options_in_groups() -> None:
    for name, command in ALL.items():
        assert isinstance(command, Command) or not {"gpu_layers", "temperature"} & {
            param.name for param in command.params
        }, name
