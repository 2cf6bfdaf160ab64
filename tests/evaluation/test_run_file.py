"""A run goes on where it stopped, and only with the same inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eft_gguf import OptionError
from eft_gguf.evaluation.run_file import Run, differences, read_run

INPUTS = {"family": {"path": "/here/family.toml", "sha256": "12"}, "max_tokens": 64, "settings": [[1, 0.5]]}


def test_what_is_done_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = Run(path, "gate", INPUTS, {"machine": "this"})
    run.add("report/1", {"text": "é\n"})
    run.finish({"verdict": "first"})
    moved = INPUTS | {"family": {"path": "/there/family.toml", "sha256": "12"}, "settings": [(1, 0.5)]}
    again = Run(path, "gate", moved, {"machine": "another"})
    assert again.done == {"report/1": {"text": "é\n"}}
    assert again.head["about"] == {"machine": "this"}
    again.finish({"verdict": "second"})
    head, done, result = read_run(path)
    assert head["inputs"] == INPUTS and done == again.done and result == {"verdict": "second"}


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Run(path, "gate", INPUTS, {}).add("a", 1)
    whole = path.read_text()
    path.write_text(whole + '{"key": "b", "val')
    run = Run(path, "gate", INPUTS, {})
    assert run.done == {"a": 1} and path.read_text() == whole
    run.add("b", 2)
    assert Run(path, "gate", INPUTS, {}).done == {"a": 1, "b": 2}


def test_other_inputs_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Run(path, "gate", INPUTS, {}).add("a", 1)
    before = path.read_bytes()
    other = INPUTS | {"max_tokens": 80, "family": {"sha256": "34"}}
    with pytest.raises(OptionError, match="with other inputs") as error:
        Run(path, "gate", other, {})
    assert 'family.sha256: "12", now "34"; max_tokens: 64, now 80' in error.value.message
    with pytest.raises(OptionError, match="is a run of gate, not of tokens"):
        Run(path, "tokens", INPUTS, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "no JSON\n", "[1]\n", json.dumps({"format": 99, "inputs": {}}) + "\n", '"a"\n'])
def test_files_that_are_no_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(OptionError, match="is no run"):
        Run(path, "gate", INPUTS, {})
    assert path.read_text() == text


def test_without_a_file_it_is_kept_in_memory() -> None:
    run = Run(None, "gate", INPUTS, {})
    run.add("a", 1)
    run.finish({})
    assert run.done == {"a": 1}


def test_differences_name_the_place() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "d": 2}) == ["c: 2, now null", "d: null, now 2"]
