"""The peers of benchmarks/peers.py do the same work: each says what eft-gguf says, from the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers.py"
LLAMA = ["llama-cpp-python loop", "llama-cpp-python loop, log-probabilities"]
TRANSFORMERS = ["transformers loop, float32", "transformers loop, bfloat16"]
FOLDER = Path(os.environ.get("EFT_GGUF_MODELS", "~/.cache/eft-gguf-models")).expanduser()


def outcomes(names, *options):
    chosen = [argument for name in names for argument in ("--peer", name)]
    command = [sys.executable, PEERS, "--rounds", "1", "--tokens", "8", "--json", *chosen, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    # Code 1 says that a bound was missed: the bundled models are too small for bounds.
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)["peers"]


def test_a_loop_over_three_llamas_says_what_the_blend_says():
    found = outcomes([*LLAMA, "llama.cpp, base alone"], "--family", "bundled")
    assert list(found) == [*LLAMA, "llama.cpp, base alone"]
    for name, outcome in found.items():
        assert outcome["tokens"] == 8 and outcome["peak"] > 0 and outcome["ratio"]["median"] > 0
        if name in LLAMA:
            assert outcome["alike"] == 8


@pytest.mark.real_models
@pytest.mark.skipif(not (FOLDER / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf").exists(), reason=f"no models in {FOLDER}")
def test_a_loop_of_transformers_on_dequantized_weights_says_what_the_blend_says():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for outcome in outcomes(TRANSFORMERS).values():
        assert outcome["alike"] >= 4  # four bits and bfloat16 have near-ties
