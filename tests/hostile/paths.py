"""What a wrong file is led through, and what may come of it: it is taken, or refused in one clear line."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.doctor import files
from eft_gguf.doctor.examine import memory_check
from eft_gguf.errors import EFTError
from eft_gguf.models.chat import render
from eft_gguf.models.family import Family, family_from_references
from tests.tiny_models import write_tiny_adapter, write_tiny_model

LONGEST_MESSAGE = 4100


@dataclass(frozen=True)
class Sound:
    """Files of a family that is well, to put a wrong one among."""

    base: Path
    untuned: Path
    adapter: Path

    @classmethod
    def write(cls, folder: Path) -> Sound:
        return cls(
            write_tiny_model(folder / "base.gguf", seed=1),
            write_tiny_model(folder / "untuned.gguf", seed=2),
            write_tiny_adapter(folder / "adapter.gguf", seed=3),
        )

    def family(self, wrong: Path, *, adapter: bool) -> Family:
        return family_from_references(self.base, self.untuned, ("lora:" if adapter else "") + str(wrong))


def cheap(sound: Sound, wrong: Path, *, adapter: bool) -> str:
    """Header, metadata, compatibility, plan of the memory and template, in this process: "taken" or "refused"."""
    try:
        family = sound.family(wrong, adapter=adapter)
        members = files.Members.of(family)
        checks = [files.models_check(members), *files.compatibility_checks(members), memory_check(members, {})]
        template = members.read["tuned"].chat_template or members.read["untuned"].chat_template
        if any(check.verdict == "FAIL" for check in checks):
            return "refused"
        for check in checks:
            for text in (check.message, check.remedy, *check.evidence):
                require_plain(text)
        render([{"role": "user", "content": "Hello"}], template=template or "", bos="", eos="")
    except EFTError as error:
        require_plain(str(error))
        return "refused"
    return "taken"


def require_plain(text: str) -> None:
    """What is shown neither steers a terminal nor fills it."""
    assert text.replace("\n", "").isprintable(), repr(text)
    assert len(text) < LONGEST_MESSAGE, len(text)


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: below 0 a signal, None where it took too long.  megabytes: at its peak.

    seconds: of the processor, with its children, so that other work on the machine counts for nothing.
    """

    code: int | None
    output: str
    seconds: float
    megabytes: float

    @property
    def verdict(self) -> str:
        if self.code is None:
            return "hang"
        if self.code < 0 or self.code >= 128:
            return "crash"
        if "Traceback" in self.output:
            return "traceback"
        return "refused" if self.code == 2 else "taken" if self.code in (0, 1) else "crash"


def command(arguments: list[str], folder: Path, *, seconds: float = 120.0) -> Ended:
    """Run the command line in a process of its own, with caches of its own."""
    from eft_gguf.children import module_command

    output = folder / "output"
    environment = {**os.environ, "EFT_GGUF_CACHE": str(folder / "cache"), "EFT_GGUF_HOME": str(folder / "home")}
    started = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            module_command("tests.hostile.called", *arguments),
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=Path(__file__).parents[2],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        code, peak, spent = _waited(process.pid, started + seconds, process.kill)
        process.returncode = 0 if code is None else code
    text = output.read_text("utf-8", "replace")
    return Ended(code, text, spent, peak)


def _waited(pid: int, until: float, kill: Callable[[], None]) -> tuple[int | None, float, float]:
    late = False
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            code = None if late else os.waitstatus_to_exitcode(status)
            return code, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
        if not late and time.monotonic() > until:
            late = True
            kill()
        time.sleep(0.02)
