"""The C and C++ examples of docs/native.md compile, without a warning."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(c|cpp)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = BLOCK.findall((ROOT / "docs" / "native.md").read_text("utf-8"))
COMPILERS = {
    "c": [[name, "-std=c11"] for name in ("gcc", "clang") if shutil.which(name)],
    "cpp": [[name, "-std=c++17"] for name in ("g++", "clang++") if shutil.which(name)],
}


def test_there_are_examples_in_both_languages():
    assert {language for language, _ in EXAMPLES} == {"c", "cpp"}


@pytest.mark.parametrize(
    ("command", "language", "text"),
    [
        pytest.param(command, language, text, id=f"{command[0]}-{number}")
        for number, (language, text) in enumerate(EXAMPLES)
        for command in COMPILERS[language]
    ],
)
def test_example(command, language, text, tmp_path):
    source = tmp_path / f"example.{language}"
    source.write_text(text, encoding="utf-8")
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{ROOT / 'native'}"]
    flags += ["-isystem", f"{sysconfig.get_path('platlib')}/include"]
    done = subprocess.run([*command, *flags, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
