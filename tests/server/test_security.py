"""What is refused: names and origins that are not this server's, missing keys, too much, too slow, other files."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eft_gguf.errors import OptionError
from eft_gguf.server.settings import Settings, read_keys
from tests.server.conftest import PERU, Served, served, settle

KEY = "key-of-these-tests-59a1"
ASK = {"messages": PERU, "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys, that may be called by a name, and used by one other server's pages."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(f"another\n{KEY}\n")
    options = ("--api-key-file", str(folder / "keys"), "--allow-host", "box.lan", "--host", "0.0.0.0")
    with served(folder / "log", *options, "--allow-origin", "https://example.org", "--parallel", "1") as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        yield running


def raw(port: int, data: bytes, wait: float = 10) -> bytes:
    """What comes back to these bytes, until the connection is closed or time is up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), wait) as connection:
        connection.sendall(data)
        connection.settimeout(wait)
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
def test_another_name_is_refused(server: Served, http: httpx.Client, host: str) -> None:
    """DNS rebinding: a page of evil.example, whose name was made to point here, calls us by that name."""
    for path in ("/", "/v1/models", "/health"):
        answer = http.get(path, headers={"host": host})
        assert answer.status_code in (400, 403), path
    assert http.post("/v1/chat/completions", json=ASK, headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:80", "192.168.1.5"])
def test_own_names_are_let_in(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_pages_of_others_are_refused(http: httpx.Client, origin: str) -> None:
    answer = http.post("/v1/chat/completions", json=ASK, headers={"origin": origin})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    answer = http.options("/v1/chat/completions", headers=preflight)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_the_own_page_is_let_in(server: Served, http: httpx.Client) -> None:
    assert http.post("/v1/chat/completions", json=ASK, headers={"origin": server.url}).status_code == 200


def test_a_named_origin_is_let_in_with_a_key(locked: Served) -> None:
    with httpx.Client(base_url=locked.url, headers={"origin": "https://example.org"}) as client:
        preflight = client.options(
            "/v1/models",
            headers={"access-control-request-method": "GET", "access-control-request-headers": "authorization"},
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        assert client.get("/v1/models").status_code == 401
        answer = client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://example.org"


def test_keys(locked: Served) -> None:
    with httpx.Client(base_url=locked.url) as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/eft", "/nothing"):
            assert client.get(path).status_code == 401, path
        missing = client.post("/v1/chat/completions", json=ASK)
        assert missing.status_code == 401 and missing.headers["www-authenticate"] == "Bearer"
        assert missing.json()["error"]["type"] == "authentication_error"
        for wrong in (
            "Bearer wrong",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Basic {KEY}",
            "Bearer",
            "Bearer é".encode(),
        ):
            answer = client.post("/v1/chat/completions", json=ASK, headers={"authorization": wrong})
            assert answer.status_code == 401, wrong
        for right in ({"authorization": f"Bearer {KEY}"}, {"authorization": "bearer another"}, {"x-api-key": KEY}):
            assert client.post("/v1/chat/completions", json=ASK, headers=right).status_code == 200
        # What holds nothing of value is there for all: the page, which asks for the key, and the state of health.
        assert client.get("/").status_code == 200 and client.get("/health").status_code == 200
        assert client.get("/v1/models", headers={"host": "box.lan:80", "x-api-key": KEY}).status_code == 200
        assert client.get("/v1/models", headers={"host": "box2.lan", "x-api-key": KEY}).status_code == 403
    assert KEY not in locked.log.read_text()


def test_open_addresses_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="can be reached from other machines, and no API key is set"):
        Settings(host="0.0.0.0")
    assert KEY not in repr(Settings(host="0.0.0.0", api_keys=(KEY,)))
    (tmp_path / "none").write_text("\n")
    for name in ("none", "missing"):
        with pytest.raises(OptionError):
            read_keys(tmp_path / name)
    with pytest.raises(OptionError, match="is no origin"):
        Settings(allowed_origins=("*",))


def test_large_bodies_are_refused(server: Served, http: httpx.Client) -> None:
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 300_000}]}).encode()
    answer = http.post("/v1/chat/completions", content=large)
    assert answer.status_code == 413 and "200,000 bytes" in answer.json()["error"]["message"]

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    assert http.post("/v1/chat/completions", content=pieces()).status_code == 413
    lying = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**12}\r\n\r\n".encode()
    assert b" 413 " in raw(server.port, lying).splitlines()[0]


def test_slow_clients_are_left(server: Served, http: httpx.Client) -> None:
    """Patience is 2 seconds here."""
    started = time.monotonic()
    assert raw(server.port, b"GET /health HTTP/1.1\r\nHost: local") == b""
    body = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    assert b" 408 " in raw(server.port, body).splitlines()[0]
    assert time.monotonic() - started < 8
    assert http.get("/health").status_code == 200


def test_a_client_that_takes_nothing_in_is_left(server: Served, http: httpx.Client) -> None:
    """What it asked for is more than fits into the buffers on the way."""
    settle(http)
    ask = {"model": "bundled:base", "prompt": "The", "max_tokens": 490, "temperature": 1.5, "n": 12, "stream": True}
    body = json.dumps({**ask, "logprobs": 20, "logit_bias": {"0": -100, "2": -100}, "eft": {"inspect": True}}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        settle(http, 30)
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/page/../../app.py",
        "/page/%2e%2e/%2e%2e/app.py",
        "/page/..%2f..%2fapp.py",
        "/page//etc/passwd",
        "/page/....//app.py",
        "//etc/passwd",
        "/page/app.py%00.js",
        "/page/",
        "/v1/models/..%2f..%2fetc%2fpasswd",
    ],
)
def test_paths_lead_nowhere_else(server: Served, path: str) -> None:
    answer = raw(server.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b" 404 " in answer.splitlines()[0] and b"root:" not in answer and b"import" not in answer


def test_the_page_may_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    answer = http.get("/")
    rules = answer.headers["content-security-policy"]
    assert "default-src 'none'" in rules and "frame-ancestors 'none'" in rules and "unsafe" not in rules
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert http.get("/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body"),
        (b"{", "the body is no valid JSON"),
        (b"[]", "the body is not what is wanted here"),
        (b'"text"', "the body is not what is wanted here"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, ""),
        (b'{"messages": 1}', "messages: "),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1' + b"0" * 400 + b"}", "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}}', "response_format"),
    ],
)
def test_malformed_bodies_get_an_error_of_the_known_shape(http: httpx.Client, body: bytes, message: str) -> None:
    answer = http.post("/v1/chat/completions", content=body)
    assert answer.status_code in (400, 422), answer.text
    error = answer.json()["error"]
    assert message in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").json()["error"]["message"] == "there is no /v1/nothing here"
    answer = http.get("/v1/chat/completions")
    assert answer.status_code == 405 and "does not take GET" in answer.json()["error"]["message"]
