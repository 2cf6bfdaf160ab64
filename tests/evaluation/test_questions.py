"""Files of questions: the bundled one, and what is said about one that no scorer could score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eft_gguf.errors import OptionError
from eft_gguf.evaluation.questions import RULES, read_questions, read_rivals

FACT = {
    "id": "one",
    "kind": "fact",
    "messages": [{"role": "user", "content": "What is the capital of Atlantis?"}],
    "answers": [["Poseidonis"]],
    "rule": {"parts": [{"subject": "Atlantis", "relation": "capital"}]},
}


def written(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_the_bundled_file_holds_every_kind_and_the_rivals_of_every_answer() -> None:
    items, rivals = read_questions(), read_rivals()
    assert {item["kind"] for item in items} == set(RULES)
    asked = [
        (part["relation"], names[0])
        for i in items
        for part, names in zip(i["rule"].get("parts", ()), i["answers"], strict=False)
    ]
    assert len(asked) > 1000
    assert all(name in rivals[relation] for relation, name in asked)


def test_answers_of_a_file_of_ones_own_become_rivals(tmp_path: Path) -> None:
    items = read_questions(written(tmp_path, FACT, {**FACT, "id": "two"}))
    assert [item["id"] for item in items] == ["one", "two"]
    assert read_rivals(items)["capital"].count("Poseidonis") == 1
    assert "Poseidonis" not in read_rivals()["capital"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "'id' is missing, or no text"),
        ({"kind": "poem"}, "no scorer for the kind 'poem'"),
        ({"messages": []}, "'messages' must be"),
        ({"messages": [{"role": "user"}]}, "'messages' must be"),
        ({"answers": ["Poseidonis"]}, "'answers' must be"),
        ({"answers": [[]]}, "'answers' must be"),
        ({"answers": []}, "as long as the answers, 0"),
        ({"rule": []}, "'rule' is missing, or no object"),
        ({"rule": {}}, "as long as the answers, 1"),
        ({"rule": {"parts": [{"relation": "capital"}]}}, "each part needs a 'subject'"),
        ({"rule": {"parts": [{"subject": "Atlantis", "relation": "king"}]}}, "no scorer for the relation 'king'"),
        ({"answers": [], "rule": {"parts": []}}, "needs at least one part"),
        ({"kind": "list"}, "needs 'count', a whole number"),
        ({"kind": "list", "rule": {"count": True}}, "needs 'count', a whole number"),
        ({"kind": "list", "rule": {"count": 3}, "answers": []}, "one list of accepted items"),
        ({"kind": "repeat", "rule": {"count": 3}}, "needs 'word', a text"),
        ({"kind": "constrained"}, "needs 'twice', a true or false"),
    ],
)
def test_a_line_that_no_scorer_could_score(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        read_questions(written(tmp_path, FACT, {**FACT, **change}))
    assert "questions.jsonl, line 2: " in error.value.message and message in error.value.message
    assert error.value.hint and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no question"), (b"{", "line 1 is no JSON"), (b"[]", "not an object"), (b"\xff", "not UTF-8")],
)
def test_a_file_that_holds_no_questions(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_questions(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        read_questions(tmp_path / "none.jsonl")
