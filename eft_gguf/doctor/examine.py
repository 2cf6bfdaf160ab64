"""All checks of a family, one after the other: what the files tell, what the machine tells, what loading tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eft_gguf.doctor import files
from eft_gguf.doctor.build import build_check
from eft_gguf.doctor.noise import noise_check
from eft_gguf.doctor.report import Check
from eft_gguf.doctor.speed import Tick, measure, speculation_check, speed_check
from eft_gguf.eft import EFT
from eft_gguf.engine.devices import place, separate_memory
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.probe import require_survival, trials_of
from eft_gguf.errors import EFTError
from eft_gguf.evaluation.machine import busy_cores
from eft_gguf.models.cache import require_kv_type
from eft_gguf.models.family import Family
from eft_gguf.models.fit import Plan, context_length, free_memory

PLANNED = ("sequences", "batch", "kv_type")
HARDWARE = ("threads", "gpu_layers", "device", "flash_attn", "kv_type", "repack")


def examine(
    open_family: Callable[[], Family], options: Mapping[str, Any], *, quick: bool, tick: Tick = lambda what: None
) -> Iterator[Check]:
    """The checks, as they are made. What needs the models loaded is left out after a failure, and if `quick`.

    open_family: finds the models.  options: for `EFT.open`, without those that name models.
    """
    ok = True
    for check in _of_files(open_family, options):
        ok = ok and check[0].verdict != "FAIL"
        family = check[1]
        yield check[0]
    if not ok or quick or family is None:
        return
    try:
        yield from _of_models(family, options, tick)
    except EFTError as error:
        yield files.failed("loading", error)


def _of_files(open_family: Callable[[], Family], options: Mapping[str, Any]) -> Iterator[tuple[Check, Family | None]]:
    """Checks, each with the family as far as it was found."""
    family = None
    try:
        family = open_family()
        members = files.Members.of(family)
    except EFTError as error:
        yield files.failed("models", error), family
        yield build_check(), family
        return
    yield files.models_check(members), family
    compared = files.compatibility_checks(members)
    yield from ((check, family) for check in compared)
    if all(check.verdict != "FAIL" for check in compared):
        try:
            require_survival(trials_of(family.members, family.untuned_of, weights=False))
            with files.vocabularies(members) as loaded:
                speaking = files.speaker(members, loaded)
                yield files.chat_check(members, speaking), family
                yield files.stop_check(loaded, speaking), family
        except EFTError as error:
            yield files.failed("loading", error), family
        yield memory_check(members, options), family
    yield build_check(), family


def memory_check(members: files.Members, options: Mapping[str, Any]) -> Check:
    """The plan of the memory with these options, against what is free."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        hardware = Hardware(**{name: given[name] for name in HARDWARE if name in given})
        require_kv_type(hardware.kv_type, members.read.values())
        ctx = context_length(given.get("ctx") or members.family.ctx, list(members.read.values()))
        placed = place(hardware.device, list(members.read))
    except EFTError as error:
        return files.failed("memory", error)
    planned = {name: given[name] for name in PLANNED if name in given}
    plan = Plan(members.read, members.family.untuned_of, flash_attention=hardware.flash_attn != "off", **planned)
    free = free_memory() + separate_memory(placed.values())
    return files.memory_check(plan, ctx, free, force=bool(given.get("force")))


def _of_models(family: Family, options: Mapping[str, Any], tick: Tick) -> Iterator[Check]:
    busy = busy_cores(0.3)
    tick("loading")
    with EFT.open(family, **{**options, "progress": tick, "probe": True, "speculate": "auto"}) as eft:
        measured = measure(eft, tick)
        yield speed_check(measured, busy)
        yield speculation_check(measured)
        yield noise_check(family, eft, measured, options, tick)
