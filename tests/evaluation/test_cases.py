"""The user's prompts: what a line may say, what is wrong with others, and how they are parted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eft_gguf import OptionError
from eft_gguf.evaluation.cases import parted, read_cases


def written(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_every_kind_of_line(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]
    file = written(
        tmp_path / "p.jsonl",
        {"question": "Capital of Peru?", "answers": ["Lima", "Ciudad de los Reyes"], "id": "a"},
        "",
        {"prompt": "Both?", "system": "Be brief.", "answers": [["Lima"], ["Quito", "San Francisco de Quito"]]},
        {"prompt": "As JSON", "schema": {"type": "object"}, "split": "report"},
        {"prompt": "Judged", "judge": "python 'my judge.py' -x"},
        {"messages": chat},
    )
    first, second, third, fourth, fifth = read_cases(file, regex="A: .*")
    assert [case.line for case in (first, second, third, fourth, fifth)] == [1, 3, 4, 5, 6]
    assert first.answers == (("Lima", "Ciudad de los Reyes"),)
    assert second.answers == (("Lima",), ("Quito", "San Francisco de Quito"))
    assert [message["role"] for message in second.messages] == ["system", "user"]
    assert first.regex is not None and first.regex.pattern == "A: .*"
    assert third.regex is None and third.schema == {"type": "object"} and third.split == "report"
    assert fourth.judge == ("python", "my judge.py", "-x")
    assert list(fifth.messages) == chat and fifth.is_scored
    assert not read_cases(file)[4].is_scored


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', "no JSON"),
        ("[1]", "not an object"),
        ({"answers": ["Lima"]}, "one of 'question', 'prompt' and 'messages' is needed, and there is none of them"),
        ({"question": "a", "prompt": "b"}, "there is 'question' and 'prompt'"),
        ({"prompt": " "}, "'prompt' is no text, or empty"),
        ({"prompt": 3}, "'prompt' is no text, or empty"),
        ({"prompt": "a", "answer": ["b"]}, "the key 'answer' is unknown"),
        ({"prompt": "a", "answers": "Lima"}, "'answers' must be a list"),
        ({"prompt": "a", "answers": [["Lima"], []]}, "'answers' must be a list"),
        ({"prompt": "a", "answers": ["Lima", ["Quito"]]}, "'answers' must be a list"),
        ({"prompt": "a", "regex": "("}, "'regex' cannot be read: missing )"),
        ({"prompt": "a", "schema": {"type": "text"}}, "'schema' is no JSON schema: 'text' is not valid"),
        ({"prompt": "a", "judge": []}, "'judge' must be a command"),
        ({"prompt": "a", "judge": 'say "x'}, "'judge' cannot be read as a command"),
        ({"prompt": "a", "split": "test"}, "'split' is 'test'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has the role 'robot'"),
        ({"messages": [{"role": "user", "content": "x"}], "system": "y"}, "'system' and 'messages' exclude each other"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: object, message: str) -> None:
    file = written(tmp_path / "p.jsonl", {"prompt": "fine"}, "", line)
    with pytest.raises(OptionError, match=r"p\.jsonl, line 3: ") as error:
        read_cases(file)
    assert message in error.value.message and error.value.hint


def test_files_that_hold_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        read_cases(tmp_path / "none.jsonl")
    with pytest.raises(OptionError, match="holds no prompt"):
        read_cases(written(tmp_path / "empty.jsonl", "", " "))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(OptionError, match="not UTF-8"):
        read_cases(tmp_path / "latin.jsonl")
    with pytest.raises(OptionError, match="the regular expression cannot be read"):
        read_cases(written(tmp_path / "p.jsonl", {"prompt": "a"}), regex="[")


def test_halves_are_drawn_by_the_seed_unless_the_file_fixes_them(tmp_path: Path) -> None:
    cases = read_cases(written(tmp_path / "p.jsonl", *({"prompt": str(number)} for number in range(20))))
    choosing, reporting = parted(cases, 0)
    assert len(choosing) == len(reporting) == 10
    assert sorted(case.line for case in choosing + reporting) == list(range(1, 21))
    assert parted(cases, 0) == (choosing, reporting) != parted(cases, 1)
    assert [len(part) for part in parted(cases, 0, limit=6)] == [3, 3]
    fixed = read_cases(written(tmp_path / "f.jsonl", *({"prompt": "a", "split": s} for s in ("report", "choose"))))
    assert [[case.line for case in part] for part in parted(fixed, 5)] == [[2], [1]]
