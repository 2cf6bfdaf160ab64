"""`eft-gguf evaluate frontier` on the bundled models: figures that move as they must, and every way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eft_gguf import EFT
from eft_gguf.evaluation.questions import QUESTIONS, read_questions
from eft_gguf.models.family import BUNDLED
from tests.conftest import TinyFiles

SMALL = ("evaluate", "frontier", "--questions", "24", "--steps", "3", "--behaviour", "0,1")


@pytest.fixture(scope="module")
def facts_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Single facts, which every trait answers in its own manner."""
    path = tmp_path_factory.mktemp("questions") / "facts.jsonl"
    facts = [item for item in read_questions() if item["kind"] == "fact"][:40]
    path.write_text("".join(json.dumps(item) + "\n" for item in facts), encoding="utf-8")
    return str(path)


@pytest.fixture
def share(command: Callable, facts_file: str) -> Callable[..., Any]:
    outcome = command(*SMALL, "--questions", facts_file, "--json")
    assert outcome.code == 0
    points = json.loads(outcome.out)["points"]
    found = {(point["sweep"], point["value"]): point["scores"] for point in points}
    assert len(found) == 5
    return lambda measure, *point: found[point][measure]["share"]


def test_the_way_from_trait_to_trait(share: Callable) -> None:
    """Of the whole set, docs/steering.md has the figures; these bounds leave room for near-ties on other machines."""
    cautious = [share("caution", "lambda", value) for value in (0, 0.5, 1)]
    helpful = [share("helpful", "lambda", value) for value in (0, 0.5, 1)]
    assert cautious[0] < 0.05 and 0.05 < cautious[1] < 0.7 and cautious[2] > 0.9
    assert helpful[0] > 0.85 > helpful[1] > 0.2 and helpful[2] < 0.1
    assert all(share("facts", "lambda", value) > 0.75 for value in (0, 0.5, 1))
    assert share("helpful", "behaviour", 0) < 0.1
    for measure in ("helpful", "facts", "caution"):
        assert share(measure, "behaviour", 1) == share(measure, "lambda", 0)


def test_json_holds_what_a_repetition_needs(command: Callable) -> None:
    arguments = ("--from", "cautious", "--to", "helpful", "--knowledge", "0.9", "--untuned-floor", "-7", "--seed", "3")
    outcome = command(*SMALL, "--questions", "8", *arguments, "--json")
    record = json.loads(outcome.out)
    assert outcome.code == 0
    assert (record["from"], record["to"]) == ("cautious", "helpful")
    assert record["family"]["members"]["base"]["bytes"] == (BUNDLED.parent / "base-l.gguf").stat().st_size
    assert all(len(member["sha256"]) == 64 for member in record["family"]["members"].values())
    assert record["questions"]["path"] == str(QUESTIONS)
    assert (record["questions"]["asked"], record["questions"]["chosen"], record["questions"]["seed"]) == (8, 8, 3)
    assert record["sampling"] == {"temperature": 0, "max_tokens": 80}
    assert set(record["versions"]) >= {"eft-gguf", "llama-cpp-python"} and record["machine"]["cpu"]
    first, last = record["points"][0]["dials"], record["points"][-1]["dials"]
    assert first == {
        "knowledge": 0.9,
        "behaviour": 1.0,
        "traits": {"helpful": 0.0, "cautious": 1.0},
        "filter": {"untuned_floor": -7.0},
    }
    assert last["traits"] == {"helpful": 1.0, "cautious": 0.0}
    for point in record["points"]:
        helpful = point["scores"]["helpful"]
        assert helpful["asked"] == 8 and helpful["low"] <= helpful["share"] <= helpful["high"]
        kinds = [kind["helpful"]["right"] for kind in point["kinds"].values()]
        assert sum(kinds) == helpful["right"]

    again = json.loads(command(*SMALL, "--questions", "8", *arguments, "--json").out)
    assert again["points"] == record["points"]


def test_tables_fit_a_terminal_and_a_page_takes_them(command: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n<!-- frontier -->\n<!-- end of frontier -->\nafter\n", encoding="utf-8")
    outcome = command(*SMALL, "--page", str(page))
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "From helpful (λ = 0) to cautious (λ = 1)"
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == ["0", "0.5", "1", "0", "1"]
    assert next(line for line in lines if line.startswith("asked")).split()[3] == "24"
    assert f"written: {page}" in outcome.err and "24 questions in" in outcome.err
    text = page.read_text("utf-8")
    assert "| λ | facts | single facts | helpful | caution | mixed |" in text
    assert "eft-gguf" in text and "24 questions in" in text and text.endswith("after\n")


@pytest.mark.parametrize(("name", "behaviour"), [("frontier.svg", "0,1"), ("frontier.png", "none")])
def test_plots(name: str, behaviour: str, command: Callable, tmp_path: Path) -> None:
    def drawn() -> bytes:
        path = tmp_path / name
        outcome = command(*SMALL[:6], "--questions", "6", "--behaviour", behaviour, "--plot", str(path))
        assert outcome.code == 0 and f"written: {path}" in outcome.err
        return path.read_bytes()

    first = drawn()
    assert first.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
    assert drawn() == first
    if name.endswith("svg"):
        text = first.decode()
        assert all(f"<!-- {part} -->" in text for part in ("caution, %", "single facts", "λ = 0.5", "behaviour"))


def test_ctrl_c_says_what_is_done(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    replies, seen = EFT.greedy_replies, []

    def interrupted(self: EFT, messages: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(messages)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return replies(self, messages, *arguments, **options)

    monkeypatch.setattr(EFT, "greedy_replies", interrupted)
    outcome = command(*SMALL)
    assert outcome.code == 130
    assert "stopped after 5 of 24 questions" in outcome.err
    assert next(line for line in outcome.out.splitlines() if line.startswith("asked")).split()[3] == "5"
    seen[:] = [None] * 5
    outcome = command(*SMALL)
    assert (outcome.code, outcome.out) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "rude"], "unknown trait 'rude'"),
        (["--to", "rude"], "unknown trait 'rude'"),
        (["--from", "helpful", "--to", "helpful"], "both ends are the trait helpful"),
        (["--steps", "1"], "1 steps make no way"),
        (["--behaviour", "0,much"], "'0,much' is not a list of numbers"),
        (["--behaviour", "nan"], "behaviour must be a finite number"),
        (["--questions", "0"], "0 questions are none"),
        (["--questions", "-3"], "-3 questions are none"),
        (["--questions", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--plot", "picture.txt"], "picture.txt is no name of a picture"),
        (["--plot", "nowhere/picture.svg"], "there is no folder"),
        (["--page", "nowhere.md"], "cannot read nowhere.md"),
        (["--max-tokens", "0"], "--max-tokens must be"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_asked(
    arguments: list[str], message: str, command: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("evaluate", "frontier", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    first, second = outcome.err.splitlines()
    assert first.startswith("error: ") and message in first and second


def test_without_matplotlib_it_says_how_to_get_it(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = command("evaluate", "frontier", "--plot", "picture.svg")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: plots need matplotlib, which is not installed",
        "pip install 'eft-gguf[plot]'",
    ]


def test_a_family_with_one_trait_has_no_frontier(command: Callable, tiny: TinyFiles) -> None:
    models = [text for name, path in tiny.family().items() for text in (f"--{name}", str(path))]
    outcome = command("evaluate", "frontier", *models)
    assert outcome.code == 2
    assert "has one trait, tuned: a frontier lies between two" in outcome.err


def test_of_other_families_it_says_what_it_cannot_score(command: Callable) -> None:
    folder = BUNDLED.parent
    models = ["--base", str(folder / "base-m.gguf"), "--untuned", str(folder / "base-s.gguf")]
    models += ["--tuned", f"b={folder / 'cautious-s.gguf'}", "--tuned", f"a={folder / 'helpful-s.gguf'}"]
    outcome = command(*SMALL, "--questions", "4", "--json", *models)
    assert outcome.code == 0 and "the scorers know the bundled family's manners only" in outcome.err
    record = json.loads(outcome.out)
    assert (record["from"], record["to"]) == ("b", "a")
    assert "bundled family's manners" in record["notes"][0]
