"""Which devices each model gets, by the names that llama.cpp gives them. GPUs are made up: only a CPU is sure."""

import pytest

from eft_gguf import OptionError
from eft_gguf.engine.devices import Device, devices, place, queueing_order

CPU = Device("CPU", "CPU", "a processor", 0, 16_000_000_000, 1)
GPU = Device("MTL0", "MTL", "Apple M2", 1, 16_000_000_000, 2)
SECOND = Device("MTL1", "MTL", "another", 2, 0, 3)
KNOWN = (GPU, SECOND, CPU)
MEMBERS = ("base", "untuned", "kind", "rare")


def placed(asked, **options):
    chosen = place(asked, MEMBERS, known=KNOWN, **options)
    return {name: None if found is None else [device.name for device in found] for name, found in chosen.items()}


def test_the_cpu_is_always_there():
    assert "CPU" in [device.name for device in devices()]
    assert all(device.pointer and device.description for device in devices())


@pytest.mark.parametrize("asked", [None, (), []])
def test_without_a_word_llama_cpp_takes_all(asked):
    assert placed(asked) == dict.fromkeys(MEMBERS)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("CPU", [["CPU"]] * 4),
        ("metal", [["MTL0", "MTL1"]] * 4),
        ("mtl1, cpu", [["MTL1", "CPU"]] * 4),
        ("base=MTL0", [["MTL0"], None, None, None]),
        (["base=MTL0", "CPU"], [["MTL0"], ["CPU"], ["CPU"], ["CPU"]]),
        (["tuned=CPU", "rare=MTL1"], [None, None, ["CPU"], ["MTL1"]]),
        (["rare=MTL1", "tuned=CPU"], [None, None, ["CPU"], ["MTL1"]]),
        ({"base": "MTL0", "untuned": "CPU"}, [["MTL0"], ["CPU"], None, None]),
    ],
)
def test_for_all_and_member_by_member(asked, expected):
    assert placed(asked) == dict(zip(MEMBERS, expected, strict=True))


def test_an_adapter_goes_where_untuned_goes_unless_it_is_named():
    assert placed("untuned=CPU", adapters={"rare": "untuned"})["rare"] == ["CPU"]
    assert placed(["untuned=CPU", "MTL0"], adapters={"rare": "untuned"})["rare"] == ["CPU"]
    assert placed(["untuned=CPU", "rare=MTL0"], adapters={"rare": "untuned"})["rare"] == ["MTL0"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("CUDA0", r"no device 'CUDA0'; llama.cpp has here: MTL0 \(Apple M2, 16 GB\), MTL1 \(another\), CPU"),
        ("", "no device ''"),
        ("base=", "no device ''"),
        ("CPU,Vulkan0", "no device 'Vulkan0'"),
        ("small=CPU", "for 'small', but the models are base, untuned, kind, rare"),
    ],
)
def test_names_that_are_not_there(asked, message):
    with pytest.raises(OptionError, match=message):
        placed(asked)


def test_members_on_a_gpu_are_queued_before_the_cpu_computes():
    assert queueing_order([(CPU,), (GPU,), (CPU,), (GPU, CPU)], KNOWN) == [1, 3, 0, 2]
    assert queueing_order([None, (CPU,), None], KNOWN) == [0, 2, 1]
    assert queueing_order([None, (CPU,), None], (CPU,)) == [0, 1, 2]
