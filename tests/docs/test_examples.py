"""The shell examples of the documentation work.

Every fenced block marked `console` in README.md and docs/ is run, block by block, each in an empty folder: the lines
after `$ `, continued by lines after `> `, by bash, which must succeed. Other lines are output and not compared. A
block marked `console skip` is left out.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eft_gguf.cli.main import cli

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[object]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            lines = [line[2:] for line in block[1].splitlines() if line[:2] in ("$ ", "> ", ">")]
            yield pytest.param("\n".join(lines), id=f"{page.name}:{line}")


@pytest.mark.parametrize("script", list(examples()))
def test_example(script: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EFT_GGUF_HOME": str(tmp_path / "state")}
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"


def test_every_option_is_documented() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for command in commands(cli):
        for option in command.params:
            for text in option.opts:
                if text.startswith("--"):
                    assert text in pages, f"{text} of {command.name}"


def commands(group: click.Group) -> Iterator[click.Command]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)
