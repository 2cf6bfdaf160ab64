"""eft-gguf bench on the bundled family, in its short form: figures that fit together, tables, a picture, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eft_gguf.speed.result import Alone, Speed
from eft_gguf.speed.spread import Spread
from tests.conftest import TinyFiles

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What --json prints, and a picture of it; in a process of its own, so that the peak of memory is the bench's."""
    picture = tmp_path_factory.mktemp("bench") / "speed.svg"
    done = subprocess.run(
        [EFT_GGUF, "bench", "--quick", "--json", "--plot", str(picture)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Batch cost" in picture.read_text()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_figure_is_there(record: dict[str, Any]) -> None:
    members = ["base", "untuned", "helpful", "cautious"]
    assert record["settings"] | {"ctx": 512, "threads": 1, "kv_type": "f16"} == record["settings"]
    assert not record["interrupted"]
    assert list(record["models"]) == list(record["batch_cost"]) == members
    assert {len(costs) for costs in record["batch_cost"].values()} == {8}
    assert [each["sequences"] for each in record["sequences"]] == [1, 2, 4, 8, 16]
    assert [turn["number"] for turn in record["turns"]] == list(range(1, 11))
    assert [each["setting"] for each in record["drafts"]] == ["0", "1", "2", "3", "4", "6", "8", "12", "16", "auto"]
    assert {"cpu", "memory", "system", "instructions"} == set(record["machine"])


def test_figures_fit_together(record: dict[str, Any]) -> None:
    models, blend = record["models"], record["blend"]
    # Other work on the machine may hit one figure and not the other, hence the room.
    assert 0 < blend["tokens_per_second"] < 1.3 * min(model["tokens_per_second"] for model in models.values())
    assert 0 < blend["decode_share"] <= 1
    assert blend["token_seconds"]["low"] <= blend["token_seconds"]["median"] <= blend["token_seconds"]["high"]
    for costs in record["batch_cost"].values():
        assert costs["16"] > costs["1"] > 0
    first, *later = record["turns"]
    assert first["cached_tokens"] == 0
    assert all(turn["cached_tokens"] > 0 and turn["first_token"] > 0 for turn in later)
    assert all(turn["prompt_tokens"] == turn["cached_tokens"] + turn["decoded_tokens"] for turn in record["turns"])
    none, *some, _ = record["drafts"]
    assert none["mean_length"] == 0 and none["acceptance"] is None and none["gain"]["median"] == 1
    assert all(0 < each["acceptance"] <= 1 and each["tokens_per_second"] > 0 for each in some)
    lengths = [each["mean_length"] for each in some]
    assert 0 < lengths[0] <= 1 and lengths == sorted(lengths)
    one, *_, sixteen = record["sequences"]
    assert sixteen["tokens_per_second"] > one["tokens_per_second"] > 0
    assert record["memory"]["peak"] > record["memory"]["files"] + record["memory"]["kv"]


def test_tables_fit_eighty_columns(command: Callable, tiny: TinyFiles) -> None:
    models = ["--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned)]
    outcome = command("bench", "--quick", *models)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    for title in (
        "Speed",
        "Batch cost",
        "Draft length",
        "Time to the first token",
        "Several replies at once",
        "Memory",
    ):
        assert title in outcome.out
    assert "measured in" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "nowhere.toml"], "there is no family file nowhere.toml"),
        (["--base", "large.gguf"], "missing: --untuned and --tuned"),
        (["--plot", "speed.txt"], "speed.txt is no name of a picture"),
        (["--device", "CUDA7"], "there is no device 'CUDA7'"),
        (["--kv-type", "q3"], "kv_type is 'q3'"),
    ],
)
def test_bad_input(arguments: list[str], message: str, command: Callable) -> None:
    outcome = command("bench", "--quick", *arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.err


def test_ctrl_c_keeps_what_was_measured(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(options: object, speed: Speed, tick: Callable[[str, float], None], *, quick: bool) -> None:
        speed.alone["base"] = Alone(Spread.of([0.1, 0.2]), 50.0)
        tick("the blend", 9.0)
        os.kill(os.getpid(), signal.SIGINT)
        tick("the blend", 8.0)
        raise AssertionError("Ctrl-C was not seen")

    monkeypatch.setattr("eft_gguf.speed.measure.measure_speed", measure)
    outcome = command("bench", "--json")
    assert outcome.code == 130
    record = json.loads(outcome.out)
    assert record["interrupted"]
    assert record["models"]["base"]["prefill_tokens_per_second"] == 50.0
    assert record["blend"] is None
    assert "stopped" in outcome.err
