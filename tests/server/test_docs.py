"""The examples of docs/server.md, run against a server: shell and Python as they stand, settings by what they name."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest

pytest.importorskip("openai")

from tests.server.conftest import LONG, Served

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def shell(server: Served, block: str) -> str:
    """What the commands of a block print."""
    script = "\n".join(line[2:] for line in block.splitlines() if line[:2] in ("$ ", "> "))
    script = script.replace(ADDRESS, server.url).replace("curl -s", "curl -sS --fail-with-body ")
    found = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout and '"error"' not in found.stdout
    return found.stdout


@pytest.mark.parametrize("block", blocks("console server"))
def test_shell(server: Served, block: str) -> None:
    shell(server, block)


def test_dials_of_a_reply_under_way(server: Served) -> None:
    (block,) = blocks("console reply")
    request = {**LONG, "model": "bundled", "stream": True, "eft": {"inspect": True}}
    with httpx.stream("POST", f"{server.api}/completions", json=request, timeout=60) as response:
        chunks = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        first = next(chunks)
        assert json.loads(shell(server, block.replace("ID", first["id"])))["eft"]["behaviour"] == 0.2
        assert list(chunks)[-1]["eft"]["dials"]["behaviour"] == 0.2


def test_python(server: Served) -> None:
    namespace: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks("python server"):
            exec(compile(block.replace(ADDRESS, server.url), "server.md", "exec"), namespace)
    assert printed.getvalue().strip()
    namespace["client"].close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["ini", "yaml"])
def test_settings_name_what_is_there(server: Served, kind: str) -> None:
    (block,) = blocks(kind)
    (base,) = re.findall(r"http://\S+", block)
    names = [model["id"] for model in httpx.get(base.replace(ADDRESS, server.url) + "/models").json()["data"]]
    for named in re.findall(r"model: (\S+)", block):
        assert named in names


def test_paths_in_the_table_are_there(server: Served) -> None:
    known = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for method, path in re.findall(r"^\| `(GET|POST) (/\S+)` \|", PAGE, re.MULTILINE):
        path = path.replace("/ID/", "/{reply}/")
        assert path == "/openapi.json" or method.lower() in known[path], path
