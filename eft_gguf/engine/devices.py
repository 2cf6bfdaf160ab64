"""Where a model is computed: llama.cpp's devices, and which of them each member gets.

llama.cpp knows devices by names such as MTL0 (a Mac's GPU), CUDA0 and CPU. The CPU is always there and takes what the
others do not; a model on the CPU alone is one with no other device. Beside llama.py this file and chain.py alone call
llama.cpp's C functions.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Not used by name: loading llama.cpp's library registers the devices.
import llama_cpp.llama_cpp  # noqa: F401
from llama_cpp._ggml import libggml

from eft_gguf.errors import OptionError

Asked = str | Sequence[str] | Mapping[str, str]
"""Devices for all members, or member by member: "CPU", "base=MTL0", a sequence of these, or a mapping."""

CPU, GPU, ACCELERATOR = 0, 1, 3
"""llama.cpp's kinds of device. A GPU in the processor has a kind of its own, but for a Mac's. An accelerator (BLAS)
works for the CPU and cannot be chosen."""

SHARED = ("mtl", "metal")
"""Backends whose GPUs use the processor's memory."""

BACKENDS = {"metal": "mtl"}
"""Names that people know, and what llama.cpp calls these backends."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device by llama.cpp's name. `backend` is the name of what drives it, `memory` its size in bytes."""

    name: str
    backend: str
    description: str
    kind: int
    memory: int
    pointer: int

    def __str__(self) -> str:
        size = f", {self.memory / 1e9:.0f} GB" if self.memory else ""
        return f"{self.name} ({self.description}{size})"


@functools.cache
def devices() -> tuple[Device, ...]:
    """The devices that llama.cpp was built for and found here, the CPU among them."""
    library = _library()
    found = []
    for index in range(library.ggml_backend_dev_count()):
        pointer = library.ggml_backend_dev_get(index)
        kind = library.ggml_backend_dev_type(pointer)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
        backend = library.ggml_backend_reg_name(library.ggml_backend_dev_backend_reg(pointer))
        name, description = library.ggml_backend_dev_name(pointer), library.ggml_backend_dev_description(pointer)
        found.append(Device(name.decode(), backend.decode(), description.decode(), kind, total.value, pointer))
    return tuple(device for device in found if device.kind != ACCELERATOR)


def place(
    asked: Asked | None,
    members: Sequence[str],
    adapters: Mapping[str, str] | None = None,
    known: Sequence[Device] | None = None,
) -> dict[str, tuple[Device, ...] | None]:
    """The devices of each member beside the CPU; None leaves the choice to llama.cpp, which takes all there are.

    "tuned" stands for every trait. `adapters`: by members that are adapters, the untuned member that they work on; they
    go where that goes, to share its weights, unless a device is named for them.

    Raises OptionError for a name that is not there.
    """
    known = devices() if known is None else known
    for_all: tuple[Device, ...] | None = None
    by_member: dict[str, tuple[Device, ...]] = {}
    for name, text in _entries(asked):
        chosen = _find(text, known)
        if name is None:
            for_all = chosen
        elif name in members:
            by_member[name] = chosen
        elif name == "tuned":
            others = ("base", "untuned")
            tuned = [name for name in members if name not in others and not name.startswith("untuned.")]
            by_member = dict.fromkeys(tuned, chosen) | by_member
        else:
            raise OptionError(
                f"a device was named for {name!r}, but the models are {', '.join(members)}",
                hint="write --device base=NAME, or --device NAME for all models",
            )
    placed = {name: by_member.get(name, for_all) for name in members}
    return placed | {name: placed[own] for name, own in (adapters or {}).items() if name not in by_member}


def separate_memory(placed: Iterable[Sequence[Device] | None], known: Sequence[Device] | None = None) -> int:
    """Bytes of the cards with memory of their own among the devices that members were given by `place`."""
    known = devices() if known is None else known
    used = {device for chosen in placed for device in (known if chosen is None else chosen)}
    return sum(device.memory for device in used if device.kind == GPU and device.backend.casefold() not in SHARED)


def queueing_order(placed: Sequence[Sequence[Device] | None], known: Sequence[Device] | None = None) -> list[int]:
    """In which order members decode: those on a GPU first.

    A GPU takes a decode into its queue and lets the caller go on, the CPU keeps the caller until it is done. So what
    the CPU computes after a GPU was given its work runs beside it.
    """
    known = devices() if known is None else known
    on_cpu = [all(device.kind == CPU for device in (known if chosen is None else chosen)) for chosen in placed]
    return sorted(range(len(placed)), key=lambda member: on_cpu[member])


def _entries(asked: Asked | None) -> list[tuple[str | None, str]]:
    if asked is None:
        return []
    if isinstance(asked, Mapping):
        return list(asked.items())
    entries: list[tuple[str | None, str]] = []
    for text in [asked] if isinstance(asked, str) else asked:
        name, equals, rest = text.partition("=")
        entries.append((name, rest) if equals else (None, text))
    return entries


def _find(text: str, known: Sequence[Device]) -> tuple[Device, ...]:
    """The devices in a comma-separated list of names; a backend's name stands for all of its devices."""
    chosen: list[Device] = []
    for name in (part.strip() for part in text.split(",")):
        wanted = BACKENDS.get(name.casefold(), name.casefold())
        named = [device for device in known if device.name.casefold() == wanted]
        named = named or [device for device in known if device.backend.casefold() == wanted]
        if not named:
            raise OptionError(
                f"there is no device {name!r}; llama.cpp has here: {', '.join(map(str, known))}",
                hint="name one of these, or leave --device out to use all",
            )
        chosen.extend(device for device in named if device not in chosen)
    return tuple(chosen)


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    sizes = [pointer, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    for name, arguments, result in (
        ("ggml_backend_dev_count", [], ctypes.c_size_t),
        ("ggml_backend_dev_get", [ctypes.c_size_t], pointer),
        ("ggml_backend_dev_type", [pointer], ctypes.c_int),
        ("ggml_backend_dev_name", [pointer], text),
        ("ggml_backend_dev_description", [pointer], text),
        ("ggml_backend_dev_memory", sizes, None),
        ("ggml_backend_dev_backend_reg", [pointer], pointer),
        ("ggml_backend_reg_name", [pointer], text),
    ):
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, result
    library: ctypes.CDLL = libggml
    return library
