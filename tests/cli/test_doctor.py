"""eft-gguf doctor as a whole: on the bundled family, by references, as JSON, and where things fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TinyFiles

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))
ALL = ["models", "compatibility", "chat", "stop ids", "memory", "build", "speed", "speculation", "noise"]


def test_the_bundled_family(command: Callable) -> None:
    outcome = command("doctor", "--json")
    record = json.loads(outcome.out)
    assert outcome.code == record["exit_code"] in (0, 1), outcome.out
    assert [check["name"] for check in record["checks"]] == ALL
    # A machine may have a llama.cpp without AVX2.
    assert all(check["verdict"] in ("PASS", "SKIP") for check in record["checks"] if check["name"] != "build")
    figures = {check["name"]: check["figures"] for check in record["checks"]}
    assert figures["memory"]["needed"] < figures["memory"]["free"] and figures["memory"]["ctx"] == 512
    assert figures["speed"]["tokens_per_second"] > 3 and set(figures["speed"]["member_seconds"]) > {"base", "untuned"}
    assert 0 < figures["speculation"]["acceptance"] <= 1
    assert figures["stop ids"]["texts"] == ["<|endoftext|>", "<|im_end|>"]


def test_by_references_and_with_options(command: Callable, tiny: TinyFiles) -> None:
    named = ["--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", f"lora:{tiny.adapter}"]
    outcome = command("doctor", *named, "--quick", "--ctx", "128")
    assert outcome.code in (0, 1) and outcome.out.startswith("family: from references\n\nPASS  models")
    assert "context of 128 tokens" in outcome.out and "speed" not in outcome.out
    outcome = command("doctor", *named, "--quick", "--ctx", "100000")
    assert outcome.code == 2 and "FAIL  memory" in outcome.out and "--ctx 256 or less" in outcome.out


def test_settings_that_are_none_and_force(command: Callable, tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    named = ["--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned), "--quick"]
    for option, words in (
        (["--kv-type", "q9"], "kv_type is 'q9'"),
        (["--kv-type", "q8_0"], "packs 32 numbers together"),
    ):
        outcome = command("doctor", *named, *option)
        assert outcome.code == 2 and words in " ".join(outcome.out.split())
    monkeypatch.setattr("eft_gguf.doctor.examine.free_memory", lambda: 10**8)
    assert command("doctor", *named).code == 2
    forced = command("doctor", *named, "--force")
    assert forced.code == 1 and "WARN  memory" in forced.out


def test_nothing_is_loaded_after_a_failure(command: Callable, tiny: TinyFiles, tmp_path: Path) -> None:
    outcome = command("doctor", "--base", "gone.gguf", "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned))
    assert outcome.code == 2 and "FAIL  models         there is no file gone.gguf" in outcome.out
    assert "speed" not in outcome.out
    record = json.loads(command("doctor", "-f", "nonsense", "--json").out)
    assert record["exit_code"] == 2 and "there is no family nonsense" in record["checks"][0]["message"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('base = "a"\nuntuned = "b"\ncontext = 3\n[tuned]\nt = "c"\n')
    assert "the key 'context' is unknown" in " ".join(command("doctor", "-f", str(wrong)).out.split())
    assert command("doctor", "--base", "a").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_what_was_found() -> None:
    process = subprocess.Popen([EFT_GGUF, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    while not lines or not lines[-1].startswith("PASS  build"):
        lines.append(process.stdout.readline())
    os.kill(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 0, 1)  # 0 and 1 where it was done before the signal came
    assert "Traceback" not in errors and (process.returncode != 130 or "speculation" not in rest)
