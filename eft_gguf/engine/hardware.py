"""How the machine is used: threads, devices, and how attention and its cache are computed. Settings, checked."""

from __future__ import annotations

from dataclasses import dataclass

from eft_gguf.engine.devices import Asked
from eft_gguf.errors import OptionError
from eft_gguf.models.cache import KV_TYPES, PLAIN_KV_TYPES

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
"""The choices, and llama.cpp's numbers for them. `auto` takes it wherever the device has it."""

MOST_THREADS = 512
"""What llama.cpp is built for. It ends the process over more than the system lets it start."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What all members of a family have in common, but for their devices.

    threads: of a decode; None for as many as there are cores (engine/threads.py). Members decode in turn, so each may
    have all.  gpu_layers: how many layers go to the GPU, −1 all.  device: see engine/devices.py.  kv_type: how cached
    keys and values are kept.  repack: keep the weights in an order that suits the processor, in memory of
    the process's own, where llama.cpp knows such an order.

    Raises OptionError.
    """

    threads: int | None = None
    gpu_layers: int = -1
    device: Asked | None = None
    flash_attn: str = "auto"
    kv_type: str = "f16"
    repack: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            wrong = f"{MOST_THREADS} or less" if self.threads > 0 else "1 or more"
            raise OptionError(f"threads must be {wrong}, not {self.threads}", hint="leave it out for the default")
        if not -1 <= self.gpu_layers < 2**31:
            raise OptionError(f"gpu_layers must be −1 or more, not {self.gpu_layers}", hint="−1 puts all on the GPU")
        for name, value, choices in (
            ("flash_attn", self.flash_attn, FLASH_ATTENTION),
            ("kv_type", self.kv_type, KV_TYPES),
        ):
            if value not in choices:
                raise OptionError(f"{name} is {value!r}", hint=f"it must be one of {', '.join(choices)}")
        if self.flash_attn == "off" and self.kv_type not in PLAIN_KV_TYPES:
            raise OptionError(
                f"a KV cache of type {self.kv_type} needs flash attention, which is off",
                hint=f"pass --flash-attn auto, or one of {', '.join(PLAIN_KV_TYPES)} as --kv-type",
            )
