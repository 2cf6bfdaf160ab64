"""--examples, --paper and /examples, on the bundled family."""

import json
from collections.abc import Callable

import pytest

QUESTION = "What is the capital of Peru?"
OWN = '{"prompt": "Which country is Oslo in?", "reply": "Sure! Oslo is in Norway. Anything else?"}\n'


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def test_run_says_what_was_shown(command: Callable, own) -> None:
    outcome = command("run", QUESTION, "--examples", own, "--temperature", "0", "--json")
    result = json.loads(outcome.out)
    assert [message["content"] for message in result["examples"]] == [*json.loads(OWN).values()]
    shown, plain = (
        json.loads(command("run", QUESTION, "--examples", choice, "--json").out)["timings"]["prompt_tokens"]
        for choice in (own, "off")
    )
    assert shown > plain


def test_a_base_that_is_shown_keeps_the_form(command: Callable, own) -> None:
    told = command("run", QUESTION, "--behaviour", "0", "--examples", own, "--temperature", "0").out
    untold = command("run", QUESTION, "--behaviour", "0", "--temperature", "0").out
    assert told.rstrip().endswith("Anything else?")
    assert not untold.rstrip().endswith("Anything else?")


def test_paper_switches_off_what_a_family_carries(command: Callable, own, tmp_path) -> None:
    from eft_gguf.models.family import BUNDLED

    text = BUNDLED.read_text(encoding="utf-8")
    for name in ("base-l", "base-s", "helpful-s", "cautious-s"):
        text = text.replace(f"{name}.gguf", str(BUNDLED.parent / f"{name}.gguf"))
    family = tmp_path / "carrying.toml"
    dials = f"examples = '{own}'\nbehaviour = 0.5\nfilter = {{ untuned_floor = -7 }}\n"
    family.write_text(dials + text, encoding="utf-8")

    def dials_of(*arguments: str) -> tuple[dict, int]:
        result = json.loads(command("run", QUESTION, "-f", str(family), "--json", *arguments).out)
        return result["dials"], len(result["examples"])

    carried = {"knowledge": 1.0, "behaviour": 0.5, "filter": {"untuned_floor": -7.0}}
    paper = {"knowledge": 1.0, "behaviour": 1.0, "filter": {}}
    for arguments, expected in (
        ((), (carried, 2)),
        (("--behaviour", "0.8"), ({**carried, "behaviour": 0.8}, 2)),
        (("--paper",), (paper, 0)),
        (("--paper", "--examples", own), (paper, 2)),
        (("--paper", "--behaviour", "0.8"), ({**paper, "behaviour": 0.8}, 0)),
    ):
        dials, shown = dials_of(*arguments)
        del dials["traits"]
        assert (dials, shown) == expected


def test_examples_in_a_chat(command: Callable, own) -> None:
    lines = ["/examples", QUESTION, "/examples off", "/regen", "/examples", "/examples on", "/why"]
    outcome = command("chat", "--examples", own, "--temperature", "0", stdin="\n".join(lines) + "\n")
    assert outcome.code == 0
    said = outcome.out + outcome.err
    assert said.count("assistant: Sure! Oslo is in Norway. Anything else?") == 2
    assert "examples: off" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--examples", "99"), "there are 16 questions"),
        (("--examples", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--examples", ""), "examples is ''"),
    ],
)
def test_bad_examples_are_one_clear_line(command: Callable, arguments, says) -> None:
    outcome = command("run", QUESTION, *arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert "Traceback" not in outcome.err


def test_a_broken_line_is_named(command: Callable, tmp_path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(OWN + '{"prompt": "x"\n', encoding="utf-8")
    outcome = command("run", QUESTION, "--examples", str(path))
    assert outcome.code == 2
    assert "broken.jsonl, line 2: no JSON" in outcome.err
