"""EFT_GGUF_KERNELS=native: the whole command works on the shared library, and Numba is not imported."""

import os
import subprocess
import sys

import pytest

# Numba cannot be imported, as if it were not installed.
RUN = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
from eft_gguf.cli.main import main
sys.argv[0] = "eft-gguf"
main()
"""


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


def with_numba(*arguments):
    code = "import sys; from eft_gguf.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ.copy())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "What is 2+2?", "--temperature", "0", "--max-tokens", "24"],
        ["run", "What is 2+2?", "--seed", "5", "--max-tokens", "24"],
        ["run", "What is 2+2?", "--temperature", "0", "--untuned-floor", "-7", "--tuned-top-p", "0.9",
         "--base-top-p", "0.9", "--base-min-p", "0.1", "--max-tokens", "24"],
        ["inspect", "What is 2+2?", "--temperature", "0", "--max-tokens", "8"],
    ],
    ids=["greedy", "drawn", "filters", "inspect"],
)  # fmt: skip
def test_commands_print_the_same_without_numba(arguments, one_library):
    native = run(*arguments, EFT_GGUF_KERNELS="native", EFT_GGUF_NATIVE_LIB=str(one_library))
    assert native.returncode == 0, native.stderr
    assert native.stdout == with_numba(*arguments).stdout


def error_of(**environment):
    done = run("run", "Hello", **environment)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr


def test_an_unknown_choice_is_refused():
    assert "EFT_GGUF_KERNELS is 'cuda'" in error_of(EFT_GGUF_KERNELS="cuda")


def test_a_missing_library_is_an_error_with_a_hint():
    message = error_of(EFT_GGUF_KERNELS="native", EFT_GGUF_NATIVE_LIB="")
    assert "there is no" in message and "docs/native.md" in message


def test_a_file_that_is_no_such_library_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "libeft.so").write_text("none")
    for path in (tmp_path / "libeft.so", tmp_path / "missing.so", "libm.so.6"):
        message = error_of(EFT_GGUF_KERNELS="native", EFT_GGUF_NATIVE_LIB=str(path))
        assert "cannot be used" in message and "docs/native.md" in message
