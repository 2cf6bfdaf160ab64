"""schemathesis: requests made up from the server's OpenAPI document, valid and not: none may end in a 500."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402

from tests.server.conftest import Served  # noqa: E402

EXAMPLES = 25
BOUNDS = {"max_tokens": 3, "max_completion_tokens": 3, "n": 1}
"""What keeps a valid request short; the values themselves are tested elsewhere."""


@pytest.fixture(scope="session")
def document(server: Served) -> object:
    return schemathesis.openapi.from_dict(httpx.get(f"{server.url}/openapi.json").json())


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_ends_in_a_500(server: Served, document: object, mode: object) -> None:
    operations = [result.ok() for result in document.get_all_operations()]  # type: ignore[attr-defined]
    assert len(operations) > 10
    seen: list[int] = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for operation in operations:
            strategy = operation.as_strategy(generation_mode=mode)
            try:
                exercise(client, server.url, strategy, seen)
            except Unsatisfiable:
                continue  # nothing can be made up for one that takes nothing
    assert len(seen) > 5 * EXAMPLES, "hardly anything was asked"
    expected = 200 if mode == schemathesis.GenerationMode.POSITIVE else 400
    assert expected in seen


def exercise(client: httpx.Client, url: str, strategy: st.SearchStrategy, seen: list[int]) -> None:
    @given(case=strategy)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def check(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url=url)
        body = sent.get("json")
        body = bounded(body) if isinstance(body, dict) else body
        answer = client.request(sent["method"], sent["url"], json=body, params=sent.get("params"))
        seen.append(answer.status_code)
        assert answer.status_code < 500, (sent, answer.text)

    check()


def bounded(body: dict) -> dict:
    """A request that takes no longer than it must."""
    changed = {**body, **{name: value for name, value in BOUNDS.items() if isinstance(body.get(name), int)}}
    if isinstance(body.get("options"), dict):
        changed["options"] = {**body["options"], "num_predict": 3}
    if "messages" in body or "prompt" in body:
        changed.setdefault("max_tokens", 3)
    return changed
