"""A file over which llama.cpp ends the process costs a child, not this process; one that went well is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.eft import EFT
from eft_gguf.engine import probe
from eft_gguf.engine.llama import Context, Model
from eft_gguf.engine.probe import Trial, require_survival, trials_of
from eft_gguf.errors import DecodeError, EFTError, LoadError, ModelFileError
from eft_gguf.models.family import BUNDLED, family_from_references, load_family
from tests.hostile.gguf_layout import STRING, parse
from tests.hostile.paths import command
from tests.tiny_models import write_tiny_adapter, write_tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFT_GGUF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials each child was given."""
    counts: list[int] = []
    tried = probe._tried

    def counted(trials: list[Trial]) -> list[int]:
        counts.append(len(trials))
        return tried(trials)

    monkeypatch.setattr(probe, "_tried", counted)
    return counts


def aborting(path: Path) -> Path:
    """A model that no check of ours knows to be wrong: SentencePiece without the tokens that stand for bytes."""
    layout = parse(write_tiny_model(path).read_bytes())
    layout.put(b"tokenizer.ggml.model", STRING, b"llama")
    path.write_bytes(layout.bytes())
    return path


def test_the_end_of_the_child_is_an_error_here(tmp_path: Path) -> None:
    path = aborting(tmp_path / "wrong.gguf")
    reason = r"wrong\.gguf: llama\.cpp was ended by SIGABRT when this file was tried"
    with pytest.raises(LoadError, match=reason) as caught:
        require_survival([Trial(str(path))])
    assert "fetch or convert it again" in caught.value.hint
    with pytest.raises(LoadError):  # and is no memory of something that went well
        require_survival([Trial(str(path))])
    assert not list(tmp_path.glob("core*"))


def test_a_file_that_went_well_is_tried_once(tmp_path: Path, started: list[int]) -> None:
    model = write_tiny_model(tmp_path / "model.gguf")
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf")
    trials = [Trial(str(model)), Trial(str(model), str(adapter))]
    said: list[str] = []
    require_survival(trials, said.append)
    require_survival(trials, said.append)
    assert started == [2]
    assert said == ["trying model.gguf, adapter.gguf (once for each file)"]
    model.rename(tmp_path / "renamed.gguf")
    require_survival([Trial(str(tmp_path / "renamed.gguf"))])
    assert started == [2]
    write_tiny_model(tmp_path / "renamed.gguf", seed=5)
    require_survival([Trial(str(tmp_path / "renamed.gguf"))])
    assert started == [2, 1]


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFT_GGUF_CACHE", str(tmp_path / "file" / "cache"))
    model = write_tiny_model(tmp_path / "model.gguf")
    for _ in range(2):
        require_survival([Trial(str(model))])
    assert started == [1, 1]


def test_the_bundled_models_are_not_tried(started: list[int]) -> None:
    family = load_family()
    require_survival(trials_of(family.members, family.untuned_of))
    assert started == []
    assert all(path.parent == BUNDLED.parent for path in (member.path for member in family.members.values()))


def test_what_llama_cpp_refuses_in_good_order_is_left_to_it(tmp_path: Path, started: list[int]) -> None:
    layout = parse(write_tiny_model(tmp_path / "model.gguf").read_bytes())
    layout.put(b"general.architecture", STRING, b"nosuch")
    (tmp_path / "model.gguf").write_bytes(layout.bytes())
    require_survival([Trial(str(tmp_path / "model.gguf"))])
    require_survival([Trial(str(tmp_path / "model.gguf"))])
    assert started == [1, 1]
    with pytest.raises(LoadError, match="unknown model architecture") as caught:
        Model(tmp_path / "model.gguf")
    assert "memory" not in caught.value.hint


def test_a_child_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.05)
    model = write_tiny_model(tmp_path / "model.gguf")
    with pytest.raises(LoadError, match="did not come to an end"):
        require_survival([Trial(str(model))])


def test_repeated_tokens_are_named(tmp_path: Path) -> None:
    layout = parse(write_tiny_model(tmp_path / "model.gguf").read_bytes())
    _, tokens = layout.value(b"tokenizer.ggml.tokens")
    tokens[20] = tokens[10]
    (tmp_path / "model.gguf").write_bytes(layout.bytes())
    assert tokens[10] == b"("
    with pytest.raises(ModelFileError, match=r"the token '\(' comes twice in the vocabulary"):
        require_survival([Trial(str(tmp_path / "model.gguf"))])


def test_trials_of_a_family(tmp_path: Path) -> None:
    base, untuned = (write_tiny_model(tmp_path / f"{name}.gguf") for name in ("base", "untuned"))
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf")
    family = family_from_references(base, untuned, f"lora:{adapter}")
    assert trials_of(family.members, family.untuned_of) == [
        Trial(str(base)),
        Trial(str(untuned)),
        Trial(str(untuned), str(adapter)),
    ]


def test_the_library_tries_where_it_is_asked_to(tmp_path: Path, started: list[int]) -> None:
    paths = {name: write_tiny_model(tmp_path / f"{name}.gguf") for name in ("base", "untuned", "tuned")}
    with EFT.open(**paths, speculate="off"):
        assert started == []
    with EFT.open(**paths, speculate="off", probe=True):
        assert started == [3]


CALLS = {
    "run": ["run", "Hi", "--max-tokens", "2", "--speculate", "off"],
    "chat": ["chat", "--speculate", "off"],
    "inspect": ["inspect", "Hi", "--max-tokens", "2"],
    "doctor": ["doctor", "--quick"],
}


@pytest.mark.parametrize("call", CALLS)
def test_commands_end_in_one_line(tmp_path: Path, call: str) -> None:
    wrong = str(aborting(tmp_path / "wrong.gguf"))
    models = ["--base", wrong, "--untuned", wrong, "--tuned", wrong]
    ended = command([*CALLS[call], *models], tmp_path)
    assert ended.code == 2, ended.output
    line = [line for line in ended.output.splitlines() if "SIGABRT" in line]
    assert len(line) == 1 and "GGML" not in ended.output and "terminate" not in ended.output


def test_a_command_answers_from_sound_files_that_are_new(tmp_path: Path) -> None:
    sound = str(write_tiny_model(tmp_path / "sound.gguf"))
    ended = command([*CALLS["run"], "--base", sound, "--untuned", sound, "--tuned", sound], tmp_path)
    assert ended.code == 0, ended.output


def test_converting_ends_in_one_line(tmp_path: Path) -> None:
    wrong = aborting(tmp_path / "wrong.gguf")
    ended = command(["convert", "quantize", str(wrong), str(tmp_path / "made.gguf"), "Q8_0"], tmp_path)
    assert ended.code == 2, ended.output
    assert "SIGABRT" in ended.output and "Traceback" not in ended.output
    assert not (tmp_path / "made.gguf").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_logits_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    layout = parse(write_tiny_model(path).read_bytes())
    layout.data = b"\x00\x00\xc0\x7f" * (len(layout.data) // 4)
    path.write_bytes(layout.bytes())
    model = Model(path)
    context = Context(model, ctx=32, batch=8, sequences=1, outputs=1, threads=1)
    context.batch.add([1, 2], position=0, sequence=0, outputs=1)
    context.decode()
    with pytest.raises(DecodeError, match="logits that are no numbers") as caught:
        context.rows()
    assert "damaged" in caught.value.hint
    context.close()
    model.close()
    with EFT.open(base=path, untuned=path, tuned=path, speculate="off") as eft, pytest.raises(EFTError):
        eft.complete("Hi")


def test_a_text_that_begins_with_the_bos_token_gets_no_second_one(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    layout = parse(write_tiny_model(path).read_bytes())
    layout.put(b"tokenizer.ggml.add_bos_token", 7, 1)
    path.write_bytes(layout.bytes())
    with EFT.open(base=path, untuned=path, tuned=path, speculate="off") as eft:
        plain = eft.token_ids("The", begin=True)
        assert plain[0] == 0 and plain.count(0) == 1
        assert eft.token_ids("<|endoftext|>The", begin=True) == plain
        one, other = (eft.complete(text).timings.prompt_tokens for text in ("The", "<|endoftext|>The"))
        assert one == other == len(plain)
