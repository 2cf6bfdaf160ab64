"""The page: a few files, read once. What a request names is looked up among them and nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere, nothing inline, and no other page may frame this one.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def _files() -> dict[str, tuple[bytes, str]]:
    """Path → content and type."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in TYPES:
            found[f"/page/{path.name}"] = path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8"
    found["/"] = found.pop("/page/index.html")
    return found


FILES = _files()
router = APIRouter()


async def _file(request: Request) -> Response:
    content, media_type = FILES[request.url.path]
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, {**HEADERS, "etag": tag})
    return Response(content, 200, {**HEADERS, "etag": tag}, media_type)


for _path in FILES:
    router.add_api_route(_path, _file, methods=["GET"], include_in_schema=False)
