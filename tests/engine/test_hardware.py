"""Settings of the machine: each reaches llama.cpp, and none of them, however combined, ends the process."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from eft_gguf import EFT, Blend, EFTError, OptionError, Sampling
from eft_gguf.engine.hardware import FLASH_ATTENTION, Hardware
from eft_gguf.models.cache import KV_TYPES

GREEDY = Sampling(temperature=0, max_tokens=8)
TEXT = "Once upon a time there was a lighthouse at the end of a long pier."


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threads": 0}, "threads must be 1 or more, not 0"),
        ({"threads": 513}, "threads must be 512 or less, not 513"),
        ({"gpu_layers": 2**31}, "gpu_layers must be −1 or more"),
        ({"gpu_layers": -2}, "gpu_layers must be −1 or more, not -2"),
        ({"flash_attn": "yes"}, "flash_attn is 'yes'"),
        ({"kv_type": "q4_k"}, "kv_type is 'q4_k'"),
        ({"kv_type": "q8_0", "flash_attn": "off"}, "type q8_0 needs flash attention, which is off"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(OptionError, match=message) as caught:
        Hardware(**setting)
    assert caught.value.hint


def test_all_combinations_in_one_process():
    """Every choice, allowed or refused. In a process of its own: what llama.cpp makes of a bad one is an abort."""
    script = """
import itertools, sys
from eft_gguf import EFT, EFTError, Sampling
from eft_gguf.engine.hardware import FLASH_ATTENTION
from eft_gguf.models.cache import KV_TYPES
for flash, kind, repack, layers in itertools.product(FLASH_ATTENTION, KV_TYPES, (False, True), (-1, 0)):
    try:
        with EFT.bundled(flash_attn=flash, kv_type=kind, repack=repack, gpu_layers=layers, device="CPU", ctx=128) as e:
            reply = e.complete("The capital of Peru is", sampling=Sampling(temperature=0, max_tokens=2))
            print(flash, kind, len(reply.tokens))
    except EFTError as error:
        print(flash, kind, "refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = {tuple(line.split()) for line in done.stdout.splitlines()}
    quantized = {kind for kind in KV_TYPES if kind.startswith(("q", "iq"))}
    assert outcomes == {
        (flash, kind, "refused" if flash == "off" and kind in quantized else "2")
        for flash, kind in itertools.product(FLASH_ATTENTION, KV_TYPES)
    }


def log_probabilities(**options):
    with EFT.bundled(**options) as eft:
        return eft.score(TEXT, blend=Blend()).blend[1:]


def test_a_coarse_cache_gives_nearly_the_same_logits_and_a_fine_one_the_very_same():
    usual = log_probabilities()
    # Flash attention works in float16 on the CPU, whatever the cache holds.
    np.testing.assert_array_equal(log_probabilities(kv_type="f32", flash_attn="auto"), usual)
    for options in ({"flash_attn": "off"}, {"kv_type": "q8_0"}):
        other = log_probabilities(**options)
        assert 0 < np.abs(other - usual).max() < 0.5


def test_on_the_cpu_alone_it_is_the_same(tiny):
    def reply(**options):
        with EFT.open(**tiny.family(), threads=1, **options) as eft:
            return eft.complete(TEXT, sampling=GREEDY).tokens

    alike = [reply(), reply(device="CPU"), reply(device={"base": "CPU"}), reply(device=["base=CPU", "tuned=cpu"])]
    assert alike == alike[:1] * len(alike)


def test_one_file_on_the_same_device_is_loaded_once(tiny):
    family = {"base": tiny.base, "untuned": tiny.untuned, "tuned": f"lora:{tiny.adapter}"}
    for device, loaded in (("CPU", 2), ("untuned=CPU", 2), (None, 2), (["untuned=CPU"], 2)):
        with EFT.open(**family, threads=1, device=device) as eft:
            assert len(eft._ensemble.models) == loaded


def test_what_cannot_be_is_refused_before_anything_is_loaded(tiny):
    told = []
    for options in ({"device": "CUDA7"}, {"kv_type": "q8_0"}, {"device": {"bse": "CPU"}}):
        with pytest.raises(EFTError) as caught:
            EFT.open(**tiny.family(), threads=1, progress=told.append, **options)
        assert caught.value.hint
    assert told == []
