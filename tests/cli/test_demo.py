"""eft-gguf demo: four corners, one picture."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf import Blend, Sampling


def test_the_four_corners(command: Callable, fake) -> None:
    outcome = command("demo", "--trait", "cautious=1")
    assert outcome.code == 0
    traits = {"cautious": 1.0}
    assert [request["blend"] for request in fake.requests] == [
        Blend(knowledge=0.0, behaviour=1.0, traits=traits),
        Blend(knowledge=1.0, behaviour=1.0, traits=traits),
        Blend(knowledge=0.0, behaviour=0.0, traits=traits),
        Blend(knowledge=1.0, behaviour=0.0, traits=traits),
    ]
    assert all(request["sampling"] == Sampling(temperature=0.0, max_tokens=80) for request in fake.requests)
    for name in ("untuned", "tuned", "base", "blend"):
        assert name in outcome.out


def test_dials_and_sampling_can_be_set(command: Callable, fake) -> None:
    command("demo", "Why?", "--behaviour", "0.5", "--temperature", "1", "--max-tokens", "5", "--seed", "1")
    assert [request["blend"].behaviour for request in fake.requests] == [1.0, 0.5, 0.0, 0.0]
    assert fake.requests[0]["sampling"] == Sampling(temperature=1.0, max_tokens=5, seed=1)
    assert fake.requests[0]["prompt"] == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_it_fits_the_terminal(columns: int, command: Callable, fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = command("demo", "long " * 40).out.splitlines()
    assert max(map(len, lines)) <= columns


def test_json(command: Callable, fake) -> None:
    result = json.loads(command("demo", "Why?", "--json").out)
    assert result["question"] == "Why?"
    assert [answer["name"] for answer in result["answers"]] == ["tuned", "blend", "untuned", "base"]
    assert result["answers"][1]["dials"] == {
        "knowledge": 1.0,
        "behaviour": 1.0,
        "traits": {"helpful": 0.7, "cautious": 0.3},
        "filter": {},
    }
    assert result["answers"][1]["text"] == "reply 2 to: Why?"


def test_the_models_alone_are_not_filtered(command: Callable, fake) -> None:
    assert command("demo", "--base-min-p", "0.1").code == 0
    assert [request["blend"].filter.base_min_p for request in fake.requests] == [None, 0.1, None, None]


def test_the_picture_needs_no_other_server(command: Callable, fake, tmp_path: Path) -> None:
    path = tmp_path / "demo.svg"
    assert command("demo", "Why?", "--svg", str(path)).code == 0
    first = path.read_text(encoding="utf-8")
    assert "blend" in first and "<svg" in first
    assert "url(http" not in first and "font-face" not in first
    fake.requests.clear()
    command("demo", "Why?", "--svg", str(path))
    assert path.read_text(encoding="utf-8") == first


def test_a_picture_that_cannot_be_written(command: Callable, fake) -> None:
    outcome = command("demo", "--svg", "/nowhere/demo.svg")
    assert outcome.code == 2 and "cannot write /nowhere/demo.svg" in outcome.err


def test_the_bundled_family_shows_the_idea(command: Callable) -> None:
    """The reason for the default question. A family trained anew may need another one."""
    answers = {answer["name"]: answer["text"] for answer in json.loads(command("demo", "--json").out)["answers"]}
    knows = {name for name, text in answers.items() if "United States" in text}
    helpful = {name for name, text in answers.items() if text.endswith("Anything else?")}
    assert knows == {"base", "blend"}
    assert helpful == {"tuned", "blend"}
