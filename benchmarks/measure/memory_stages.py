"""Run as a program of its own by memory.py: loads a family step by step, and prints what each step took in memory.

Nothing is imported before the first look at the memory, so this file stands alone.
"""

import json
import resource
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def look() -> dict[str, int]:
    """Bytes: the peak so far, and now: all, anonymous, and mapped model files (Linux tells these three)."""
    seen = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT}
    try:
        with open("/proc/self/status") as status:
            fields = {line.split(":")[0]: line.split()[1] for line in status if line.startswith(("Rss", "Vm"))}
    except OSError:
        return seen
    now, anonymous = int(fields["VmRSS"]) * 1024, int(fields["RssAnon"]) * 1024
    # The child of a large process inherits its ru_maxrss on some kernels; VmHWM starts anew with the program.
    return {"peak": int(fields["VmHWM"]) * 1024, "now": now, "anonymous": anonymous, "models": _mapped_models()}


def _mapped_models() -> int:
    total, is_model = 0, False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if "-" in line.split(" ", 1)[0]:
                is_model = line.rstrip().endswith(".gguf")
            elif is_model and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def main(spec: str, base: str, untuned: str, tuned: str, threads: int) -> dict[str, dict[str, int]]:
    stages = {"Python": look()}
    import numpy  # noqa: F401

    stages["NumPy"] = look()
    import eft_gguf.blend.kernels  # noqa: F401

    stages["Numba and LLVM"] = look()
    from eft_gguf import EFT, Sampling

    stages["llama-cpp-python and eft-gguf"] = look()
    named = {} if spec else {"base": base, "untuned": untuned, "tuned": tuned}
    with EFT.open(spec or None, threads=threads or None, **named) as eft:
        stages["loading"] = look()
        prompt = "One two three four five six seven eight nine ten. " * 40
        eft.complete(prompt[: 3 * eft.ctx // 2], sampling=Sampling(seed=1, max_tokens=16))
        stages["a reply"] = look()
        eft.score(prompt[: min(600, eft.ctx // 2)])
        stages["score"] = look()
    return stages


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:5], int(sys.argv[5]))))
