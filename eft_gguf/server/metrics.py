"""Figures for Prometheus: requests, tokens, latencies, the queue, memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eft_gguf.server.process import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """All of a server's figures, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("eft_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self.request_seconds = Histogram(
            "eft_request_seconds",
            "From request to the end of its response.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter("eft_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.cached_tokens = Counter(
            "eft_cached_prompt_tokens", "Of these, those that were in the KV cache.", registry=registry
        )
        self.generated_tokens = Counter("eft_generated_tokens", "Tokens of replies.", registry=registry)
        self.drafted = Counter("eft_draft_tokens", "Tokens that were drafted.", registry=registry)
        self.accepted = Counter("eft_accepted_draft_tokens", "Drafted tokens that were accepted.", registry=registry)
        self.queue_seconds = Histogram(
            "eft_queue_seconds", "What a reply waited for its turn.", buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "eft_first_token_seconds", "From order to a reply's first token.", buckets=SECONDS, registry=registry
        )
        self.between_tokens = Histogram(
            "eft_between_tokens_seconds",
            "From token to token, the mean of a reply.",
            buckets=(0.001, 0.0025, *SECONDS),
            registry=registry,
        )
        registry.register(_Gauges(engine))

    def count_reply(self, timings: Mapping[str, Any]) -> None:
        """Add what a reply cost: `Timings.as_dict`."""
        if timings:
            self.prompt_tokens.inc(timings["prompt_tokens"])
            self.cached_tokens.inc(timings["cached_tokens"])
            self.generated_tokens.inc(timings["generated_tokens"])
            self.queue_seconds.observe(timings["queue_seconds"])
            self.drafted.inc(timings["speculation"]["drafted"])
            self.accepted.inc(timings["speculation"]["accepted"])
            count = timings["generated_tokens"]
            if count:
                self.first_token.observe(timings["queue_seconds"] + timings["prefill_seconds"])
            if timings["tokens_per_second"]:
                self.between_tokens.observe(1 / timings["tokens_per_second"])

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)


class Counting:
    """ASGI middleware: counts requests by path and status, and how long they take."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # Paths as they are declared: what clients make up must not become a label each.
            path = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(path, status).inc()
            self._metrics.request_seconds.labels(path).observe(time.monotonic() - started)


class _Gauges(Collector):
    """What is read at the moment it is asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        for name, text, value in (
            ("eft_ready", "1 where the models are loaded.", float(engine.state == "ready")),
            ("eft_replies_running", "Replies that have a place in the engine.", engine.figures.running),
            ("eft_replies_waiting", "Replies that wait for one.", engine.figures.waiting),
            ("eft_orders", "Replies and readings that were asked for and are not done.", engine.under_way),
            ("eft_engine_restarts", "How often the engine was started anew.", engine.restarts),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        memory = GaugeMetricFamily("eft_resident_bytes", "Memory in use, model files included.", labels=["process"])
        for name, size in memory_in_use(engine).items():
            memory.add_metric([name], size)
        yield memory


def memory_in_use(engine: Engine) -> dict[str, int]:
    """Resident bytes by process."""
    found = {"server": psutil.Process().memory_info().rss}
    if engine.pid is not None:
        with contextlib.suppress(psutil.Error):
            found["engine"] = psutil.Process(engine.pid).memory_info().rss
    return found
