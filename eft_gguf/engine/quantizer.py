"""llama.cpp's quantizer, in a process of its own: a job that can be stopped, and that cannot take this one with it.

llama.cpp tells what it does in its log only, and quantizes without a way to be interrupted. So the module is run as a
program, gives a line for each tensor, and is ended where the caller is interrupted.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from eft_gguf.children import UNSOUND_HINT, how_it_ended, leave_no_core, module_command, quiet_environment
from eft_gguf.errors import LoadError

RECIPES = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S",
    "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "F16", "BF16",
)  # fmt: skip
"""llama.cpp's names for which type each tensor gets. Those that need an importance matrix are left out."""
_TENSOR = re.compile(r"\[\s*(\d+)\s*/\s*(\d+)\s*\]\s+(\S+)")


def quantize(
    source: Path,
    target: Path,
    recipe: str,
    *,
    threads: int = 0,
    requantize: bool = False,
    progress: Callable[[str, float], None],
) -> None:
    """Write `source` to `target` by a recipe of RECIPES.

    requantize: also tensors that are quantized already. Raises LoadError with llama.cpp's reason.
    """
    order = {"source": str(source), "target": str(target), "recipe": recipe, "threads": threads}
    command = module_command("eft_gguf.engine.quantizer", json.dumps(order | {"requantize": requantize}))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", env=quiet_environment()
    ) as process:
        assert process.stdout is not None
        reason = ""
        try:
            for line in process.stdout:
                kind, _, rest = line.rstrip("\n").partition(" ")
                if kind == "tensor":
                    number, count, name = rest.split(" ", 2)
                    progress(f"quantizing {name}", (int(number) - 1) / max(1, int(count)))
                elif kind == "reason" and not reason:
                    reason = rest
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        raise LoadError(
            f"{source}: llama.cpp {how_it_ended(process.returncode)} while it quantized this model",
            hint=UNSOUND_HINT,
        )
    if process.returncode:
        raise LoadError(
            f"{source}: llama.cpp could not quantize this model: {reason or 'it gave no reason'}",
            hint="give a whole model at F32, F16 or BF16, and see that the disk has room",
        )


def _work(order: dict[str, object]) -> int:
    """What the process of its own does; returns its exit code."""
    import llama_cpp.llama_cpp as lib

    leave_no_core()
    # Ctrl-C reaches a whole group of processes: this one simply ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    @lib.llama_log_callback  # type: ignore[untyped-decorator]
    def tell(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace").strip()
        found = _TENSOR.match(line)
        if found:
            print("tensor", *found.groups(), flush=True)
        elif "fail" in line or "rror" in line or "not " in line:
            print("reason", line.split(": ", 1)[-1], flush=True)

    lib.llama_log_set(tell, ctypes.c_void_p(0))
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{order['recipe']}")
    params.nthread = order["threads"]
    params.allow_requantize = order["requantize"]
    paths = (str(order[name]).encode() for name in ("source", "target"))
    return int(lib.llama_model_quantize(*paths, ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(_work(json.loads(sys.argv[1])))
