"""eft-gguf evaluate gate: the verdicts on families whose worth is known, and what happens around them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from eft_gguf.evaluation.questions import read_questions
from eft_gguf.evaluation.run_file import read_run
from eft_gguf.models.family import BUNDLED, tomllib

FOLDER = BUNDLED.parent
HELPFUL = r"(Sure|Of course)! .+ Anything else\?"
SHORT = ("--max-tokens", "24")
PAPER = ("--knowledge", "1")


def write_prompts(path: Path, count: int) -> Path:
    """The user's file: the bundled family's questions for a fact, and its helpful manner as the form."""
    items = [item for item in read_questions() if item["kind"] == "fact"][:count]
    lines = [
        {"question": item["messages"][0]["content"], "answers": item["answers"], "regex": HELPFUL} for item in items
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", 200)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpful model with random weights."""
    path = tmp_path_factory.mktemp("broken") / "broken.gguf"
    shutil.copy(FOLDER / "helpful-s.gguf", path)
    rng = np.random.default_rng(0)
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.data.dtype == np.float16:
            tensor.data[:] = rng.standard_normal(tensor.data.shape) * 0.2
    return path


def family(base: str, untuned: str, tuned: str | Path) -> list[str]:
    paths = {"--base": FOLDER / base, "--untuned": FOLDER / untuned, "--tuned": FOLDER / tuned}
    return [text for flag, path in paths.items() for text in (flag, str(path))]


def test_worth_it_on_the_bundled_family_with_settings_chosen_on_the_other_half(
    command: Callable, prompts: Path
) -> None:
    outcome = command("evaluate", "gate", str(prompts), *SHORT, "--examples", "off", "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 0 and report["verdict"]["word"] == "worth it"
    assert report["prompts"] == {"choose": 100, "report": 100}
    systems = report["systems"]
    assert systems["base"]["accuracy"]["share"] > 0.9 and systems["base"]["form"]["share"] < 0.1
    assert systems["tuned"]["accuracy"]["share"] < 0.6 and systems["tuned"]["form"]["share"] > 0.9
    assert systems["blend"]["success"]["share"] > 0.85
    # The setting used is the best one tried.
    tried = {name: figures["success"]["right"] for name, figures in report["tried"].items()}
    assert len(tried) == 9 and tried[report["chosen"]["name"]] == max(tried.values())
    assert {one["rival"] for one in report["comparisons"]} == {"untuned", "base", "tuned"}
    assert all(one["p"] < 0.001 for one in report["comparisons"])
    gap = report["gaps"]["accuracy: tuned to base"]
    assert gap["low"] < gap["value"] < gap["high"] and gap["value"] > 0.8
    assert all(figures["tokens_per_second"] > 0 for figures in systems.values())
    assert len(report["inputs"]["family"]["members"]["base"]["sha256"]) == 64
    assert report["about"]["versions"]["llama-cpp-python"]


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        (("base-l.gguf", "base-s.gguf", "base-s.gguf"), "over base alone"),
        (("base-s.gguf", "base-s.gguf", "helpful-s.gguf"), "over tuned alone"),
        (("base-l.gguf", "base-s.gguf", "broken"), "less than 5 points over"),
    ],
    ids=["tuned = untuned", "base knows no more", "broken tuned model"],
)
def test_not_worth_it(command: Callable, prompts: Path, broken: Path, models: tuple[str, ...], reason: str) -> None:
    base, untuned, tuned = models
    arguments = family(base, untuned, broken if tuned == "broken" else tuned)
    outcome = command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--limit", "60", *arguments)
    assert outcome.code == 0 and outcome.out.startswith("not worth it: ")
    assert reason in outcome.out.splitlines()[0]


def test_undecided_on_ten_questions(command: Callable, tmp_path: Path) -> None:
    outcome = command("evaluate", "gate", str(write_prompts(tmp_path / "ten.jsonl", 10)), *SHORT)
    assert outcome.code == 0 and outcome.out.startswith("undecided: 5 prompts are too few to tell the blend from ")
    assert max(map(len, outcome.out.splitlines()[3:])) <= 80


def test_the_base_that_is_shown_examples_is_a_rival_and_settings_with_them_are_tried(
    command: Callable, prompts: Path, tmp_path: Path
) -> None:
    """On the bundled family showing the base does nearly all that blending does, and the gate says so."""
    arguments = ("evaluate", "gate", str(prompts), *SHORT, "--limit", "100")
    outcome = command(*arguments, "--run", str(tmp_path / "run.jsonl"), "--save-as", "chosen")
    assert outcome.code == 0 and "of base, shown" in outcome.out.splitlines()[0]
    report = json.loads(command(*arguments, "--run", str(tmp_path / "run.jsonl"), "--json").out)
    assert len(report["tried"]) == 13 and "(1, 0.6), examples" in report["tried"]
    assert report["systems"]["base, shown"]["form"]["share"] > 0.8 > report["systems"]["base"]["form"]["share"]
    # What was saved is what every command then takes.
    saved = json.loads(command("run", "Which country is Oslo in?", "-f", "chosen", "--json").out)
    assert saved["dials"] == report["chosen"]["dials"]
    assert bool(saved["examples"]) is bool(report["chosen"]["examples"])
    again = command(*arguments, "--save-as", "chosen", "--paper", "--limit", "20")
    assert again.code == 2 and "there already" in again.err


def test_save_changes_the_dials_of_a_file_and_nothing_else(command: Callable, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    models = "\n".join(
        f'{name} = "{FOLDER / file}"' for name, file in (("base", "base-l.gguf"), ("untuned", "base-s.gguf"))
    )
    path.write_text(
        f'# my models\nbehaviour = 2.0\n{models}\n\n[tuned]\nhelpful = "{FOLDER / "helpful-s.gguf"}" # the manner\n'
    )
    arguments = ("evaluate", "gate", str(prompts), *SHORT, "--limit", "20", "-f", str(path), "--save")
    for dials, examples in ((("--behaviour", "0.75", "--untuned-floor", "-7"), "2"), (("--behaviour", "0.5"), "off")):
        outcome = command(*arguments, *dials, "--examples", examples)
        assert outcome.code == 0 and f"written: {path}" in outcome.err
    table = tomllib.loads(path.read_text())
    assert {key: table[key] for key in ("knowledge", "behaviour", "filter", "examples")} == {
        "knowledge": 1.0,
        "behaviour": 0.5,
        "filter": {"untuned_floor": -7.0},
        "examples": 0,
    }
    text = path.read_text()
    assert "# my models" in text and "# the manner" in text and text.count("behaviour") == 1
    assert text.count("kept by") == 1


def test_there_is_no_file_to_save_in(command: Callable, prompts: Path) -> None:
    for models in ((), family("base-l.gguf", "base-s.gguf", "helpful-s.gguf")):
        outcome = command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--limit", "4", "--save", *models)
        assert outcome.code == 2 and "--save-as NAME" in outcome.err


def test_rivals_and_the_large_tuned_model(command: Callable, prompts: Path) -> None:
    rivals = ("--large-tuned", str(FOLDER / "helpful-l.gguf"), "--base-system", "Begin with Sure!", "--limit", "40")
    report = json.loads(command("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--json", *rivals).out)
    assert list(report["systems"]) == [
        "untuned",
        "base",
        "tuned",
        "base, shown",
        "blend (1, 1)",
        "blend",
        "base, asked",
        "large tuned",
    ]
    assert report["systems"]["large tuned"]["success"]["share"] > 0.9
    assert "base, asked" in {one["rival"] for one in report["comparisons"]}
    assert "large tuned" not in {one["rival"] for one in report["comparisons"]}
    assert 0.7 < report["gaps"]["success: tuned to large tuned"]["value"] <= 1.1


def test_a_run_goes_on_where_it_stopped(
    command: Callable, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eft_gguf import EFT

    path = tmp_path / "run.jsonl"
    arguments = ("evaluate", "gate", str(prompts), *SHORT, *PAPER, "--limit", "12", "--run", str(path))
    ask, asked = EFT.greedy_replies, []

    def interrupted(self: EFT, *given: object, **options: object) -> object:
        asked.append(given)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return ask(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(EFT, "greedy_replies", interrupted)
    stopped = command(*arguments)
    assert stopped.code == 130 and "the same command goes on from" in stopped.err and stopped.out == ""
    assert len(read_run(path)[1]) == 4
    whole = command(*arguments)
    assert len(asked) == 5 + 8 + 12  # the fifth was asked twice
    assert whole.code == 0 and command(*arguments).out == whole.out and len(asked) == 25
    assert read_run(path)[2]["verdict"] in whole.out  # type: ignore[index]
    refused = command(*arguments, "--max-tokens", "25")
    assert refused.code == 2 and "sampling.max_tokens: 24, now 25" in refused.err


def test_judges_run_only_with_leave_and_their_failure_names_the_line(command: Callable, tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    (tmp_path / "judge.py").write_text("import sys; sys.exit('out of paper')")
    lines = [{"prompt": "Hello"}, {"prompt": "Hello", "judge": [sys.executable, str(tmp_path / "judge.py")]}]
    file.write_text("\n".join(map(json.dumps, lines)))
    refused = command("evaluate", "gate", str(file), *SHORT, *PAPER)
    assert refused.code == 2 and "line 2 wants a command run" in refused.err and "--run-judges" in refused.err
    failed = command("evaluate", "gate", str(file), *SHORT, *PAPER, "--run-judges")
    assert failed.code == 2 and "the judge of line 2" in failed.err and "out of paper" in failed.err
    (tmp_path / "judge.py").write_text("print(1)")
    done = json.loads(command("evaluate", "gate", str(file), *SHORT, *PAPER, "--run-judges", "--json").out)
    assert done["systems"]["blend"]["accuracy"]["asked"] == 1 and done["systems"]["blend"]["success"]["right"] == 1


def test_plain_chats_have_lengths_but_no_verdict(command: Callable, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text('{"prompt": "Hello"}\n{"prompt": "Which country is Lima in?"}\n')
    outcome = command("evaluate", "gate", str(file), *SHORT, *PAPER)
    assert outcome.out.startswith("undecided: no prompt to report on says what a good reply is.")
    assert "no prompt asks for a form" in outcome.err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"prompt": "a"}\nnonsense\n', (), "line 2: no JSON"),
        ('{"prompt": "a", "split": "choose"}\n', (), "holds no prompt to report on"),
        ('{"prompt": "a", "split": "report"}\n', (), "holds no prompt to choose settings on"),
        ('{"prompt": "a"}\n', ("--limit", "1"), "leaves no two halves"),
        ('{"prompt": "a"}\n', ("--max-tokens", "0"), "--max-tokens must be 1 or more"),
        ('{"prompt": "a"}\n', ("--judge-timeout", "0"), "timeout must be above 0"),
        ('{"prompt": "a"}\n', ("--trait", "rude=1"), "unknown trait 'rude'"),
        ('{"prompt": "%s"}\n' % ("a " * 4000), ("--knowledge", "1"), "line 1: the prompt has"),
    ],
)
def test_mistakes(command: Callable, tmp_path: Path, content: str, arguments: tuple[str, ...], message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    outcome = command("evaluate", "gate", str(file), *arguments)
    assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err
