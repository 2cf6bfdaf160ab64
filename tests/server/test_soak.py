"""The soak of benchmarks/, for some seconds: clients that leave at random, and no wrong answer, leak or hang."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


def test_clients_that_come_and_go() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "server_soak.py"
    command = [sys.executable, str(script), "--clients", "32", "--seconds", "8"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert found.returncode == 0, found.stdout + found.stderr
