"""Too little memory at load is an error like any other, wherever in llama.cpp it runs out. In a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_model

CTX = 1_000_000

SCRIPT = """
import resource, sys
from eft_gguf import EFT, LoadError
import eft_gguf.eft
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
try:
    EFT.open(base=sys.argv[2], untuned=sys.argv[3], tuned=sys.argv[3], threads=1, ctx=int(sys.argv[4]))
except LoadError as error:
    print(error.message, error.hint, sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_AS")
@pytest.mark.parametrize(
    ("megabytes", "reason"),
    [
        (1, r"could not load this model: .*bad_alloc|free some memory"),
        (50, rf"could not make a context of {CTX} tokens: .*|pass a smaller --ctx"),
        (400, rf"could not make a context of {CTX} tokens: failed to allocate buffer|pass a smaller --ctx"),
    ],
)
def test_want_of_memory_is_told_and_kills_nothing(tmp_path: Path, megabytes: int, reason: str) -> None:
    paths = [write_tiny_model(tmp_path / f"{seed}.gguf", seed=seed, ctx=CTX) for seed in range(2)]
    arguments = [sys.executable, "-c", SCRIPT, str(megabytes), *map(str, paths), str(CTX)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message, hint = done.stdout.strip().split("|")
    wanted, wanted_hint = reason.split("|")
    assert re.search(wanted, message), message
    assert wanted_hint in hint
