"""Many users at once: cancelling, the queue, timeouts, crashes of the engine, the end of the server."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import LONG, PERU, Served, metric, served, settle


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one place, and one to wait in, that the tests may break."""
    log = tmp_path_factory.mktemp("narrow") / "log"
    with served(log, "--parallel", "1", "--queue", "1", "--timeout", "30", "--grace", "1") as running:
        yield running


def events(response: httpx.Response) -> Iterator[dict]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def test_leaving_ends_a_reply(server: Served, http: httpx.Client) -> None:
    settle(http)
    before = metric(http, "eft_generated_tokens_total")
    with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
        next(events(response))
    settle(http, 2)
    assert metric(http, "eft_generated_tokens_total") == before, "what was cancelled was made to the end"
    # Of a request without streaming nobody would read a word.
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{server.api}/completions", json={**LONG, "n": 4}, timeout=0.15)
    settle(http, 2)
    assert metric(http, "eft_generated_tokens_total") == before


def test_leaving_before_the_reply_begins(server: Served, http: httpx.Client) -> None:
    settle(http)
    # All places are taken: this one waits, and its client does not.
    with (
        http.stream("POST", "/v1/completions", json={**LONG, "n": 4, "stream": True}),
        pytest.raises(httpx.TimeoutException),
    ):
        httpx.post(f"{server.api}/completions", json=LONG, timeout=0.15)
    settle(http, 2)


def test_a_full_queue_tells_when_to_come_back(narrow: Served) -> None:
    with (
        httpx.Client(base_url=narrow.url) as client,
        client.stream("POST", "/v1/completions", json={**LONG, "n": 2, "stream": True}),
    ):
        refused = client.post("/v1/completions", json=LONG)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "queue_full"
    with httpx.Client(base_url=narrow.url) as client:
        settle(client)
        assert client.post("/v1/completions", json={**LONG, "max_tokens": 2}).status_code == 200


def test_replies_share_the_engine(http: httpx.Client) -> None:
    """A short reply that comes later is done before a long one: they are made side by side."""
    with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
        long = events(response)
        next(long)
        assert http.post("/v1/chat/completions", json={"messages": PERU, "max_tokens": 4}).status_code == 200
        assert sum(1 for _ in long) > 20, "the long reply had ended before the short one"


def test_a_connection_that_is_kept_open_is_answered_at_once(http: httpx.Client) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        assert http.get("/health").status_code == 200
        return time.perf_counter() - started

    # Under Nagle's algorithm each of them would wait for the client's delayed acknowledgement: 40 ms.
    assert min(seconds() for _ in range(20)) < 0.02


def test_one_failure_leaves_the_others_alone(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 200, "stream": True}) as response:
        stream = events(response)
        next(stream)
        # The bias forbids all that the grammar allows: that comes to light at the first token only.
        bias = {str(token): -100.0 for token in range(1000)}
        bad = {"messages": PERU, "grammar": 'root ::= "never" root', "logit_bias": bias, "max_tokens": 8}
        assert http.post("/v1/chat/completions", json=bad).status_code in (200, 500)
        assert [chunk["choices"][0]["finish_reason"] for chunk in stream][-1] == "length"


def test_a_timeout_ends_a_request(tmp_path: Path) -> None:
    with served(tmp_path / "log", "--timeout", "0.05") as running, httpx.Client(base_url=running.url) as client:
        whole = client.post("/v1/completions", json={**LONG, "n": 4})
        assert whole.status_code == 504 and whole.json()["error"]["code"] == "timeout"
        with client.stream("POST", "/v1/completions", json={**LONG, "n": 4, "stream": True}) as response:
            assert response.status_code == 200
            *_, last = events(response)
        assert last["error"]["code"] == "timeout"
        settle(client)


def test_a_crash_is_reported_and_the_engine_started_anew(narrow: Served) -> None:
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        settle(client)
        dead = narrow.engine()
        outcome: list[httpx.Response] = []
        with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            stream = events(response)
            next(stream)
            waiting = threading.Thread(
                target=lambda: outcome.append(httpx.post(f"{narrow.api}/completions", json=LONG, timeout=60))
            )
            waiting.start()
            while not metric(client, "eft_replies_waiting"):
                time.sleep(0.01)
            dead.send_signal(signal.SIGABRT)
            *_, last = stream
        waiting.join()
        assert last["error"]["code"] == "engine_crashed" and "SIGABRT" in last["error"]["message"]
        assert outcome[0].status_code == 503 and outcome[0].json()["error"]["code"] == "engine_crashed"
        health = client.get("/health")
        if health.status_code == 503:
            assert "SIGABRT" in health.json()["progress"] or health.json()["status"] == "loading"
            refused = client.post("/v1/completions", json=LONG)
            if refused.status_code != 200:
                assert refused.status_code == 503 and refused.headers["retry-after"]
        narrow.wait()
        assert metric(client, "eft_engine_restarts") == 1 and narrow.engine().pid != dead.pid
        assert client.post("/v1/completions", json={**LONG, "max_tokens": 2}).status_code == 200


def test_loading_is_told(tmp_path: Path) -> None:
    with served(tmp_path / "log", wait=False) as running, httpx.Client(base_url=running.url) as client:
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "loading" and health.json()["progress"]
        refused = client.post("/v1/chat/completions", json={"messages": PERU})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "loading"
        running.wait()
        assert client.get("/health").json()["status"] == "ok"


def test_the_end_lets_short_replies_finish_and_ends_long_ones(tmp_path: Path) -> None:
    with served(tmp_path / "log", "--grace", "0.3", "--parallel", "2") as running:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            short = {**LONG, "max_tokens": 5, "stream": True}
            endless = {**LONG, "n": 8, "stream": True}
            with (
                client.stream("POST", "/v1/completions", json=endless) as long,
                client.stream("POST", "/v1/completions", json=short),
            ):
                next(stream := events(long))
                running.process.send_signal(signal.SIGTERM)
                assert list(stream)[-1]["error"]["code"] == "stopping"
        assert running.process.wait(10) == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", running.port), 1)


def test_dials_moved_during_a_reply_count_from_the_next_token(http: httpx.Client) -> None:
    request = {**LONG, "model": "bundled", "stream": True, "eft": {"inspect": True}}
    with http.stream("POST", "/v1/completions", json=request) as response:
        stream = events(response)
        first = next(stream)
        moved = http.post(f"/v1/replies/{first['id']}/eft", json={"behaviour": 0})
        assert moved.json()["eft"]["behaviour"] == 0 and moved.json()["eft"]["knowledge"] == 1
        chunks = [first, *stream]
    assert chunks[-1]["eft"]["dials"]["behaviour"] == 0
    tokens = [token for chunk in chunks for token in (chunk.get("eft") or {}).get("tokens", [])]
    deciders = [set(token["probabilities"]) for token in tokens]
    assert deciders[0] == {"base", "untuned", "helpful", "blend"}
    assert deciders[-1] == {"base", "blend"}, "the base alone decides at behaviour 0"
    gone = http.post(f"/v1/replies/{first['id']}/eft", json={"behaviour": 0})
    assert gone.status_code == 404 and gone.json()["error"]["code"] == "no_such_reply"
    with http.stream("POST", "/v1/completions", json=request) as response:
        stream = events(response)
        first = next(stream)
        wrong = http.post(f"/v1/replies/{first['id']}/eft", json={"traits": {"grumpy": 1}})
        assert wrong.status_code == 400 and "unknown trait" in wrong.json()["error"]["message"]


def test_metrics(http: httpx.Client) -> None:
    names = ("eft_generated_tokens_total", "eft_first_token_seconds_count", "eft_between_tokens_seconds_count")
    before = [metric(http, name) for name in names]
    # A question that nobody asked before: drafts come with the first token only where the prompt is cached.
    question = [{"role": "user", "content": "Which country is Valparaíso in, and what is its currency?"}]
    answer = http.post("/v1/chat/completions", json={"messages": question, "max_tokens": 9, "temperature": 0}).json()
    tokens = answer["usage"]["completion_tokens"]
    assert tokens > 1 and [metric(http, name) for name in names] == [
        value + more for value, more in zip(before, (tokens, 1, 1), strict=True)
    ]
    text = http.get("/metrics").text
    for name in ("eft_first_token_seconds_count", "eft_queue_seconds_sum", 'eft_resident_bytes{process="engine"}'):
        assert name in text
    assert 'eft_requests_total{path="/v1/chat/completions",status="200"}' in text
    http.get("/made-up-by-a-client")
    assert "made-up" not in http.get("/metrics").text
