"""eft-gguf run: what it asks of the models, and what it prints."""

import json
import math
import os
import signal
from collections.abc import Callable

import pytest

from eft_gguf import Blend, Filter, Sampling


@pytest.mark.parametrize(
    ("arguments", "stdin", "prompt"),
    [
        (["Hello"], "", [{"role": "user", "content": "Hello"}]),
        (["-"], "Grüße\n\nSie\n", [{"role": "user", "content": "Grüße\n\nSie"}]),
        (["Hello", "--raw"], "", ["Hello"]),
        (["-", "--raw"], "1, 2,\n", ["1, 2,"]),
        (
            ["Hello", "--system", "Be brief."],
            "",
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        ),
    ],
)
def test_what_is_asked(arguments: list[str], stdin: str, prompt: list, command: Callable, fake) -> None:
    outcome = command("run", *arguments, stdin=stdin)
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out.startswith("reply 1 to: ") and outcome.out.endswith("\n")
    assert fake.requests[0]["prompt"] == prompt
    assert fake.requests[0]["blend"] == Blend()
    assert fake.requests[0]["sampling"] == Sampling()


def test_all_options_arrive(command: Callable, fake) -> None:
    dials = ["--knowledge", "1.2", "--behaviour", "-0.5", "--trait", "helpful=0.1", "--trait", "cautious=2"]
    dials += ["--tuned-top-p", "0.9", "--base-top-p", "0.8", "--base-min-p", "0.1", "--untuned-floor", "-7"]
    sampling = ["--temperature", "0", "--top-k", "5", "--top-p", "0.5", "--min-p", "0", "--repeat-penalty", "1.1"]
    sampling += ["--seed", "3", "--max-tokens", "9", "--stop", "A", "--stop", "B"]
    models = ["--base", "x", "--untuned", "y", "--tuned", "a=z:0.5", "--tuned", "b=lora:w"]
    models += ["--ctx", "64", "--batch", "32", "--threads", "1", "--gpu-layers", "0"]
    models += ["--speculate", "4"]
    assert command("run", "Hello", *dials, *sampling, *models).code == 0
    request = fake.requests[0]
    assert request["blend"] == Blend(
        knowledge=1.2,
        behaviour=-0.5,
        traits={"helpful": 0.1, "cautious": 2.0},
        filter=Filter(tuned_top_p=0.9, base_top_p=0.8, base_min_p=0.1, untuned_floor=-7.0),
    )
    assert request["sampling"] == Sampling(
        temperature=0.0,
        top_k=5,
        top_p=0.5,
        min_p=0.0,
        repeat_penalty=1.1,
        seed=3,
        max_tokens=9,
        stop=("A", "B"),
    )
    fake.options.pop("progress")
    assert fake.options.pop("probe") is True  # a new file is tried in a child first
    assert fake.options == {
        "family": None,
        "base": "x",
        "untuned": "y",
        "tuned": ("a=z:0.5", "b=lora:w"),
        "ctx": 64,
        "batch": 32,
        "threads": 1,
        "gpu_layers": 0,
        "speculate": "4",
    }


def test_json(command: Callable, fake) -> None:
    outcome = command("run", "Hello", "--json", "--trait", "cautious=0.5", "--untuned-floor", "-7", "--seed", "3")
    result = json.loads(outcome.out)
    assert list(result) == ["text", "finish_reason", "seed", "timings", "dials", "examples", "members"]
    assert result["text"] == "reply 1 to: Hello"
    assert result["finish_reason"] == "stop"
    assert result["dials"] == {
        "knowledge": 1.0,
        "behaviour": 1.0,
        "traits": {"helpful": 0.7, "cautious": 0.5},
        "filter": {"untuned_floor": -7.0},
    }
    assert result["seed"] == 3
    assert result["members"] == ["base", "untuned", "helpful", "cautious"]
    assert result["timings"]["generated_tokens"] == 4


def test_stats_go_to_stderr(command: Callable, fake) -> None:
    outcome = command("run", "Hello", "--stats")
    assert outcome.out == "reply 1 to: Hello\n"
    assert "4 tokens" in outcome.err and "8 cached" in outcome.err and "seed 7" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([""], b"", "the prompt is empty"),
        (["-"], b" \n", "the prompt is empty"),
        (["-"], b"caf\xe9", "standard input is not UTF-8: byte 0xe9 at position 3"),
        (["caf\udce9"], b"", "the prompt is not UTF-8"),
        (["Hello", "--knowledge", "nan"], b"", "knowledge"),
        (["Hello", "--behaviour", "inf"], b"", "behaviour"),
        (["Hello", "--trait", "cautious=nan"], b"", "cautious"),
        (["Hello", "--trait", "cautious=-1"], b"", "the weight of trait 'cautious' must be 0 or more, not -1.0"),
        (["Hello", "--base-top-p", "1.5"], b"", "--base-top-p must be above 0 and at most 1, not 1.5"),
        (["Hello", "--tuned-top-p", "0"], b"", "--tuned-top-p must be above 0 and at most 1, not 0.0"),
        (["Hello", "--base-min-p", "-1"], b"", "--base-min-p must be between 0 and 1, not -1.0"),
        (["Hello", "--untuned-floor", "7"], b"", "--untuned-floor must be a finite number, 0 or less, not 7.0"),
        (["Hello", "--temperature", "-1"], b"", "temperature"),
        (["Hello", "--stop", ""], b"", "stop"),
        (["too long"], b"", "the prompt has 600 tokens, the context holds 512"),
    ],
)
def test_bad_input(arguments: list[str], stdin: bytes, message: str, command: Callable, fake) -> None:
    outcome = command("run", *arguments, stdin=stdin)
    assert outcome.code == 2 and outcome.out == ""
    first = outcome.err.splitlines()[0]
    assert first.startswith("error: ") and message in first


def test_ctrl_c_prints_what_there_is(command: Callable, fake) -> None:
    fake.before_word = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 1 else None
    outcome = command("run", "Hello", "--stats")
    assert outcome.code == 130
    assert outcome.out == "reply 1 \n"
    assert "stopped" in outcome.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_with_json(command: Callable, fake) -> None:
    fake.before_word = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 1 else None
    outcome = command("run", "Hello", "--json")
    assert outcome.code == 130
    assert json.loads(outcome.out)["finish_reason"] == "interrupted"


def test_all_further_sampling_options_arrive(command: Callable, fake, tmp_path) -> None:
    numbers = {
        "typical_p": 0.9,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.3,
        "penalty_window": 9,
        "dry_multiplier": 0.8,
        "dry_base": 2.0,
        "dry_allowed_length": 3,
    }
    flags = [text for name, value in numbers.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    grammar = tmp_path / "grammar.gbnf"
    grammar.write_text('root ::= "é"')
    flags += ["--logit-bias", "11=-1.5", "--logit-bias", "12=-inf", "--grammar", str(grammar)]
    assert command("run", "Hello", *flags).code == 0
    expected = Sampling(**numbers, logit_bias={11: -1.5, 12: -math.inf}, grammar='root ::= "é"')
    assert fake.requests[0]["sampling"] == expected
    schema = tmp_path / "schema.json"
    schema.write_text("{}")
    assert command("run", "Hello", "--json-schema", str(schema)).code == 0
    assert fake.requests[1]["sampling"] == Sampling(json_schema="{}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logit-bias", "x=1"], "'x=1' is not of the form ID=BIAS"),
        (["--grammar", "missing.gbnf"], "cannot read missing.gbnf: No such file or directory"),
        (["--json-schema", "latin.json"], "latin.json is not UTF-8 text"),
        (["--xtc-probability", "2"], "--xtc-probability must be between 0 and 1"),
    ],
)
def test_bad_constraints(arguments: list[str], message: str, command: Callable, fake, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    outcome = command("run", "Hello", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert not fake.requests


QUESTION = "What is the capital of Peru?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trait", "rude=1"], "unknown trait 'rude': this family has helpful, cautious"),
        (["--grammar", "open.gbnf"], "the grammar does not parse as GBNF: Undefined rule identifier 'answer'"),
        (["--grammar", "deep.gbnf"], "the grammar has 2,000 brackets in one another, and 1,000 are the most"),
        (["--grammar", "long.gbnf"], "the grammar has 200,001 characters, and 200,000 are the most"),
        (["--json-schema", "cut.json"], "--json-schema is no JSON schema that can be followed"),
        (["--json-schema", "banana.json"], "--json-schema is no JSON schema that can be followed"),
        (["--json-schema", "unique.json"], "--json-schema has 'uniqueItems', which cannot be followed"),
    ],
)
def test_what_cannot_steer_is_told_in_one_line(
    arguments: list[str], message: str, command: Callable, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open.gbnf").write_text("root ::= answer")
    (tmp_path / "deep.gbnf").write_text('root ::= "((" ' + "(" * 2000 + '"a"' + ")" * 2000)
    (tmp_path / "long.gbnf").write_text("#" * 200_001)
    (tmp_path / "cut.json").write_text('{"type": "obj')
    (tmp_path / "banana.json").write_text('{"type": "banana"}')
    (tmp_path / "unique.json").write_text('{"type": "array", "items": {"type": "integer"}, "uniqueItems": true}')
    outcome = command("run", QUESTION, *arguments)
    assert outcome.code == 2 and outcome.out == ""
    told = [line for line in outcome.err.splitlines() if not line.startswith("loading")]
    assert told[0].startswith(f"error: {message}")
    assert len(told) == 2  # the error, and a hint


def test_several_answers_have_seeds_in_a_row(command: Callable) -> None:
    alone = [command("run", QUESTION, "--seed", str(seed), "--temperature", "1").out for seed in (5, 6, 7)]
    outcome = command("run", QUESTION, "--seed", "5", "--temperature", "1", "-n", "3")
    assert outcome.code == 0 and outcome.err == ""
    labels = [f"[{number} of 3, seed {4 + number}]" for number in (1, 2, 3)]
    assert outcome.out == "\n".join(f"{label}\n{text}" for label, text in zip(labels, alone, strict=True))
    result = json.loads(command("run", QUESTION, "--seed", "5", "--temperature", "1", "-n", "3", "--json").out)
    assert list(result) == ["completions", "dials", "examples", "members"]
    assert [answer["text"] + "\n" for answer in result["completions"]] == alone
    assert [answer["seed"] for answer in result["completions"]] == [5, 6, 7]
    # A program that asks for one this way gets a list of one.
    assert len(json.loads(command("run", QUESTION, "-n", "1", "--json", "--max-tokens", "2").out)["completions"]) == 1
    # More than are made at a time, or than a batch holds.
    waves = command("run", QUESTION, "--seed", "5", "--temperature", "1", "-n", "3", "--batch", "2")
    assert waves.out == outcome.out


def test_ctrl_c_shows_of_several_answers_what_there_is(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from eft_gguf.engine.engine import Engine

    step, steps = Engine.step, []

    def interrupted(self: Engine) -> list:
        steps.append(self)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    # Without drafts nothing is measured while models are opened, which steps the engine too.
    outcome = command("run", QUESTION, "-n", "3", "--json", "--speculate", "off")
    assert outcome.code == 130
    completions = json.loads(outcome.out)["completions"]
    assert completions and {answer["finish_reason"] for answer in completions} == {"interrupted"}
    assert len(steps) < 10


def test_log_probabilities(command: Callable) -> None:
    outcome = command("run", QUESTION, "--json", "--logprobs", "2", "--temperature", "0", "--max-tokens", "3")
    result = json.loads(outcome.out)
    assert [entry["text"] for entry in result["logprobs"]] == ["Sure", "!", " The"]
    for entry in result["logprobs"]:
        first, second = entry["top"]
        assert first == {key: entry[key] for key in ("token", "text", "logprob")}
        assert 0 >= first["logprob"] > second["logprob"]
    several = json.loads(command("run", QUESTION, "--json", "--logprobs", "0", "-n", "2", "--max-tokens", "2").out)
    assert [[entry["top"] for entry in answer["logprobs"]] for answer in several["completions"]] == [[[], []]] * 2
    refused = command("run", QUESTION, "--logprobs", "2")
    assert refused.code == 2 and "--logprobs needs --json" in refused.err


def test_an_answer_that_is_cut_off_says_so(command: Callable) -> None:
    outcome = command("run", QUESTION, "--max-tokens", "4", "--temperature", "0")
    assert outcome.err == "note: cut off: --max-tokens was reached, or the context is full (--ctx)\n"
    assert command("run", QUESTION, "--temperature", "0").err == ""
