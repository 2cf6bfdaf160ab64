"""One server for all of these tests: the command itself, with the bundled family, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

# Base alone at this temperature rambles on: a reply that takes as long as it may.
LONG = {
    "model": "bundled:base",
    "prompt": "The",
    "temperature": 1.5,
    "max_tokens": 490,
    "logit_bias": {"0": -100, "1": -100, "2": -100},
    "seed": 1,
}

START = 120.0
"""Seconds that a server may take to load; most of it compiles kernels, the first time."""


@dataclass
class Served:
    """A server that runs: its address, and its process."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def engine(self) -> psutil.Process:
        """The process that holds the models."""
        return next(
            child
            for child in psutil.Process(self.process.pid).children()
            if "eft_gguf.server.worker" in child.cmdline()
        )

    def wait(self) -> None:
        """Until the models are loaded."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not ready after {START} s: {self.log.read_text()}")


@contextlib.contextmanager
def served(log: Path, *options: str, env: dict[str, str] | None = None, wait: bool = True) -> Iterator[Served]:
    """`eft-gguf serve` with options, ended afterwards, which must go well."""
    command = [str(Path(sys.executable).with_name("eft-gguf")), "serve", "--port", "0", "--threads", "1", *options]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, text=True, env={**os.environ, **(env or {})})
    try:
        deadline = time.monotonic() + START
        while not (found := re.search(r"http://\S+:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        server = Served(found[0], process, log)
        if wait:
            server.wait()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 0, log.read_text()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("server") / "log"
    with served(log, "--parallel", "4", "--queue", "12", "--body-limit", "200000", "--patience", "2") as running:
        yield running
        # What went wrong inside the server has left a traceback, whatever the clients saw.
        assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@contextlib.contextmanager
def slowed(server: Served) -> Iterator[None]:
    """The engine gets a tenth of the time within it: what happens in the middle of a reply is then hit for sure."""
    engine, done = server.engine(), threading.Event()

    def pulse() -> None:
        while not done.is_set():
            engine.suspend()
            time.sleep(0.045)
            engine.resume()
            time.sleep(0.005)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


PERU = [{"role": "user", "content": "What is the capital of Peru?"}]


@pytest.fixture
def busy(http: httpx.Client) -> int:
    """Orders under way, by the metrics."""
    return int(metric(http, "eft_orders"))


def metric(http: httpx.Client, name: str) -> float:
    """A figure of /metrics."""
    text = http.get("/metrics").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not among\n{text}"
    return float(found[1])


def settle(http: httpx.Client, seconds: float = 5.0) -> None:
    """Wait until nothing is under way."""
    deadline = time.monotonic() + seconds
    while metric(http, "eft_orders"):
        assert time.monotonic() < deadline, "something is still under way"
        time.sleep(0.01)
