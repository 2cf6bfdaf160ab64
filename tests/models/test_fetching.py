"""Fetching by huggingface_hub itself, from a hub on this machine: broken off and gone on with, its terms not accepted.

test_stores.py has a hub that is not there; this one speaks HTTP, so that what is tested is what a user has.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.gguf_files import write_model

pytest.importorskip("huggingface_hub")
EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """One repository, owner/repo, with one file. It hangs up after `most` bytes of an answer."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.most, self.gated = data, len(data), False
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub = self.server
        if hub.gated or not self.path.startswith("/owner/repo/resolve/"):
            self.send_response(403 if hub.gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if hub.gated else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range")
        start = int(found[1]) if asked and (found := re.match(r"bytes=(\d+)-", asked)) else 0
        data = hub.data[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(hub.data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.data) - 1}/{len(hub.data)}")
        self.end_headers()
        if body:
            hub.ranges.append(asked)
            self.wfile.write(data[: hub.most])
            if len(data) > hub.most:
                self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    data = write_model(tmp_path / "source.gguf").read_bytes()
    data += bytes(30_000_000)  # a file may be longer than its tensors
    server = Hub(data)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    """`eft-gguf families fetch` of a family whose base is on the hub."""
    for name in ("small", "tuned"):
        write_model(home / f"{name}.gguf")
    family = home / "family.toml"
    family.write_text('base = "hf:owner/repo/m-Q8_0.gguf"\nuntuned = "small.gguf"\n[tuned]\nt = "tuned.gguf"\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(home / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "TQDM_POSITION": "-1",  # draw progress on a pipe as on a terminal
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [EFT_GGUF, "families", "fetch", str(family)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


def test_a_fetch_that_was_broken_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.most = 12_000_000
    broken = fetch(hub, tmp_path)
    first = list(hub.ranges)
    if broken.returncode:  # versions of huggingface_hub try a few times more by themselves
        assert "goes on from there" in broken.stderr and "Traceback" not in broken.stderr
        assert first[0] is None
    hub.most = len(hub.data)
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    begun = [int(asked.split("=")[1].split("-")[0]) for asked in hub.ranges if asked]
    assert begun and all(begun), "nothing was fetched twice"
    path = tmp_path / f"cache/hub/models--owner--repo/snapshots/{COMMIT}/m-Q8_0.gguf"
    assert path.read_bytes() == hub.data and f"base: {path}" in done.stdout
    assert "100%" in broken.stderr + done.stderr and "m-Q8_0.gguf" in broken.stderr + done.stderr  # progress
    asked = len(hub.ranges)
    assert fetch(hub, tmp_path).returncode == 0 and len(hub.ranges) == asked


def test_terms_that_were_not_accepted(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    refused = fetch(hub, tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "hf:owner/repo is for those who accepted its terms" in refused.stderr
    assert "https://huggingface.co/owner/repo, then log in: hf auth login" in refused.stderr
