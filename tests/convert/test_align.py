"""Vocabularies made equal: padding is added, cut or named, and no used token changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eft_gguf import EFT
from eft_gguf.convert.align import align, plan_alignment
from eft_gguf.convert.check import logits
from eft_gguf.convert.gguf_file import GGUFFile
from eft_gguf.convert.quantize import quantize_model
from eft_gguf.convert.writing import write_gguf
from eft_gguf.engine.llama import Model
from eft_gguf.errors import CompatibilityError, OptionError
from eft_gguf.models.metadata import GGUFMetadata, Vocabulary, read_metadata
from tests.tiny_models import write_tiny_model

PLAIN = 3 + 256 + 1  # tokens of a tiny model without padding


def vocabulary(path: Path) -> Vocabulary:
    found = read_metadata(path).vocabulary
    assert found is not None
    return found


def same_vocabulary(one: Path, other: Path) -> bool:
    first, second = vocabulary(one), vocabulary(other)
    return first.size == second.size and first.first_difference(second) is None


def computed(path: Path) -> np.ndarray:
    with closing(Model(path)) as model:
        return np.stack(list(logits(model, [5, 80, 81, 82, 83])))


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Path]:
    """Three models whose vocabularies are filled up to different lengths."""
    folder = tmp_path / "family"
    folder.mkdir()
    return {
        "tuned": write_tiny_model(folder / "tuned.gguf", seed=2, padding=8),
        "untuned": write_tiny_model(folder / "untuned.gguf", seed=1, end_token="<|endoftext|>"),
        "base": write_tiny_model(folder / "base.gguf", seed=0, padding=3),
    }


def test_smaller_vocabularies_are_filled_up(family: dict[str, Path], tmp_path: Path) -> None:
    plans = plan_alignment(family, tmp_path)
    assert [(plan.rows_before, plan.rows) for plan in plans] == [
        (PLAIN + 8,) * 2,
        (PLAIN, PLAIN + 8),
        (PLAIN + 3, PLAIN + 8),
    ]
    assert [plan.changes for plan in plans] == [False, True, True]
    assert plans[1].keys == {"tokenizer.ggml.eos_token_id": 2}
    align(plans)
    assert not (tmp_path / "tuned.gguf").exists()  # nothing to do there
    for role in ("untuned", "base"):
        made = tmp_path / f"{role}.gguf"
        assert same_vocabulary(made, family["tuned"])
        before, after = GGUFFile(family[role]), GGUFFile(made)
        for name, tensor in before.tensors.items():
            np.testing.assert_array_equal(after.raw(name)[: tensor.elements // tensor.shape[-1]], before.raw(name))
        size = vocabulary(family[role]).size
        old, new = computed(family[role]), computed(made)
        np.testing.assert_allclose(new[:, :size], old, atol=1e-4)
        # What was added is never the likeliest.
        assert (new[:, size:].max(axis=1) < old.max(axis=1)).all()
    assert vocabulary(tmp_path / "untuned.gguf").special["eos"] == 2
    with EFT.open(base=tmp_path / "base.gguf", untuned=tmp_path / "untuned.gguf", tuned=family["tuned"]) as eft:
        assert eft.warnings == []


def test_unused_rows_are_cut(family: dict[str, Path], tmp_path: Path) -> None:
    plans = plan_alignment(family, tmp_path, cut=True)
    align(plans)
    for role in ("tuned", "base"):
        made = tmp_path / f"{role}.gguf"
        assert vocabulary(made).size == PLAIN
        np.testing.assert_allclose(computed(made), computed(family[role])[:, :PLAIN], atol=1e-4)


def test_quantized_rows_stay_as_they_are(family: dict[str, Path], tmp_path: Path) -> None:
    quantize_model(family["untuned"], tmp_path / "small.gguf", "Q8_0")
    (plan_tuned, plan) = plan_alignment(
        {"tuned": family["tuned"], "untuned": tmp_path / "small.gguf"}, tmp_path / "made"
    )
    (tmp_path / "made").mkdir()
    align([plan_tuned, plan])
    before, after = GGUFFile(tmp_path / "small.gguf"), GGUFFile(tmp_path / "made" / "small.gguf")
    for name in ("token_embd.weight", "output.weight"):
        np.testing.assert_array_equal(after.raw(name)[:PLAIN], before.raw(name))


def rewritten(path: Path, output: Path, **tokens: str) -> Path:
    """A model with other texts for some ids, marked as normal text."""
    from gguf import GGUFWriter

    file = GGUFFile(path)
    texts = [file.values["tokenizer.ggml.tokens"][index] for index in range(len(file.values["tokenizer.ggml.tokens"]))]
    types = file.values["tokenizer.ggml.token_type"].tolist()
    for index, text in tokens.items():
        texts[int(index[1:])], types[int(index[1:])] = text.encode(), 1
    writer = GGUFWriter(None, file.architecture)
    file.copy_keys(writer, {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types})
    write_gguf(output, writer, [file.as_planned(name) for name in file.tensors])
    return output


def test_a_token_of_one_model_names_the_row_of_another(family: dict[str, Path], tmp_path: Path) -> None:
    tuned = rewritten(family["tuned"], tmp_path / "tuned.gguf", **{f"t{PLAIN + 1}": "<tool>"})
    (tmp_path / "made").mkdir()
    plans = plan_alignment({"tuned": tuned, "base": family["base"]}, tmp_path / "made")
    assert plans[1].renamed == {PLAIN + 1: "<tool>"}
    align(plans)
    assert same_vocabulary(tmp_path / "made" / "base.gguf", tuned)


def test_a_used_token_is_never_changed(family: dict[str, Path], tmp_path: Path) -> None:
    other = rewritten(family["base"], tmp_path / "other.gguf", t100="something")
    with pytest.raises(CompatibilityError, match=r"token 100 is .* a used token is not changed"):
        plan_alignment({**family, "base": other}, tmp_path)
    twice = rewritten(family["base"], tmp_path / "twice.gguf", **{f"t{PLAIN + 1}": "<tool>"})
    tuned = rewritten(family["tuned"], tmp_path / "tuned.gguf", **{f"t{PLAIN + 5}": "<tool>"})
    with pytest.raises(CompatibilityError, match="<tool>"):
        plan_alignment({"tuned": tuned, "base": twice}, tmp_path)


def test_outputs_are_kept_apart(family: dict[str, Path], tmp_path: Path) -> None:
    """Files of one name, from two folders."""
    (tmp_path / "more").mkdir()
    other = Path(shutil.copy(family["base"], tmp_path / "more" / "untuned.gguf"))
    plans = plan_alignment({**family, "base": other}, tmp_path)
    assert len({plan.output for plan in plans}) == 3
    with pytest.raises(OptionError, match="is what is read from"):
        align(plan_alignment(family, family["base"].parent), force=True)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from eft_gguf.cli.main import main; main()"
    words = [sys.executable, "-c", program, "convert", "align", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_the_command_shows_first_what_it_does(family: dict[str, Path], tmp_path: Path) -> None:
    made = tmp_path / "made"
    models = [part for role, path in family.items() for part in (f"--{role}", path)]
    shown = command(made, *models, "--dry-run")
    assert shown.returncode == 0
    assert "add 8 unused rows: 260 → 268" in shown.stdout
    assert not made.exists()
    refused = command(made, *models)
    assert refused.returncode == 2
    assert "pass --yes" in refused.stderr
    assert not made.exists()
    done = command(made, *models, "--yes", "--json")
    assert json.loads(done.stdout)["written"]
    assert sorted(path.name for path in made.iterdir()) == ["base.gguf", "untuned.gguf"]
    assert "exists already" in command(made, *models, "--yes").stderr
    assert command(made, "--base", family["base"]).returncode == 2


def test_metadata_is_kept(family: dict[str, Path], tmp_path: Path) -> None:
    align(plan_alignment(family, tmp_path))

    def fields(path: Path) -> dict[str, object]:
        metadata: GGUFMetadata = read_metadata(path)
        return {key: value for key, value in metadata.fields.items() if "token" not in key}

    assert fields(tmp_path / "base.gguf") == fields(family["base"])
