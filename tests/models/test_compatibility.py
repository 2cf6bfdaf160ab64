"""Which models may be blended, and what is said about those that may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eft_gguf.errors import CompatibilityError
from eft_gguf.models.compatibility import Finding, check, require
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from tests.gguf_files import TOKENS, UNUSED, write_adapter, write_model


class Maker:
    """Writes models of the same vocabulary, but for what a test wants otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, **other: Any) -> GGUFMetadata:
        return read_metadata(write_model(self.folder / f"{name}.gguf", **other))

    def adapter(self, **other: Any) -> GGUFMetadata:
        return read_metadata(write_adapter(self.folder / "lora.gguf", **other))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def only(findings: list[Finding], severity: str) -> Finding:
    (finding,) = findings
    assert finding.severity == severity
    assert "\n" not in finding.message
    return finding


def test_models_of_one_vocabulary(make: Maker) -> None:
    base, untuned, tuned = (
        make("large", architecture="qwen2", ctx=128),
        make("small"),
        make("chatty", template="{{ 1 }}"),
    )
    assert check(base, untuned, {"tuned": tuned}) == []
    assert require(base, untuned, {"tuned": tuned}) == []


def test_special_ids_and_templates_may_differ(make: Maker) -> None:
    base = make("large", special={"eos": 2}, template=None)
    assert check(base, make("small"), {"tuned": make("chatty", special={"bos": 1, "eos": 4})}) == []


def test_a_shifted_token_is_named(make: Maker) -> None:
    tokens = list(TOKENS)
    tokens[5], tokens[6] = tokens[6], tokens[5]
    base, untuned, tuned = make("large"), make("small"), make("shifted", tokens=tokens)
    finding = only(check(base, untuned, {"tuned": tuned}), "error")
    assert finding.message == (
        "base (large.gguf) and tuned (shifted.gguf) have different vocabularies: "
        "token 5 is 'Ġthe' in the first, 'Ġcat' in the second"
    )
    assert "one series" in finding.hint
    with pytest.raises(CompatibilityError) as caught:
        require(base, untuned, {"tuned": tuned})
    assert (caught.value.message, caught.value.hint) == (finding.message, finding.hint)


def test_untuned_is_compared_too(make: Maker) -> None:
    findings = check(make("large"), make("other", tokens=["x", *TOKENS[1:]]), {"tuned": make("chatty")})
    assert "base (large.gguf) and untuned (other.gguf)" in only(findings, "error").message
    assert "token 0 is '<unk>' in the first, 'x' in the second" in findings[0].message


def test_every_trait_is_compared_and_named(make: Maker) -> None:
    traits = {"kind": make("kind"), "stern": make("stern", tokens=[*TOKENS[:-1], "x"])}
    finding = only(check(make("large"), make("small"), traits), "error")
    assert "trait stern (stern.gguf)" in finding.message
    assert f"token {len(TOKENS) - 1} is 'é'" in finding.message


def test_long_and_strange_tokens_stay_on_one_line(make: Maker) -> None:
    base, untuned = make("large", tokens=["x" * 500, "</s>"]), make("small", tokens=[b"\n\xff", "</s>"])
    message = only(check(base, untuned, {"tuned": base}), "error").message
    assert len(message) < 300
    assert "'\\n\ufffd'" in message


def test_padding_at_the_end_is_fine(make: Maker) -> None:
    padded = [*TOKENS, "[PAD8]", "[PAD9]", "fill"]
    tuned = make("padded", tokens=padded, types=[1] * 10 + [UNUSED])
    findings = require(make("large"), make("small"), {"tuned": tuned})
    assert only(findings, "note").message.endswith("have 8 and 11 tokens, the same up to 7; the rest is padding")
    # whichever is the larger one
    assert only(require(tuned, tuned, {"tuned": make("chatty")}), "note").message.count("11 and 8") == 1


def test_added_tokens_are_warned_of(make: Maker) -> None:
    tuned = make("added", tokens=[*TOKENS, "[PAD8]", "<|im_start|>"])
    finding = only(require(make("large"), make("small"), {"tuned": tuned}), "warning")
    assert "token 9, '<|im_start|>', is in only one of them" in finding.message
    assert finding.hint


def test_different_kinds_of_tokenizers(make: Maker) -> None:
    finding = only(check(make("large"), make("small", model="llama"), {"tuned": make("chatty")}), "error")
    assert "'gpt2' and 'llama'" in finding.message
    assert finding.hint


def test_different_cuts_before_bpe(make: Maker) -> None:
    finding = only(check(make("large"), make("small", pre="llama-bpe"), {"tuned": make("chatty")}), "error")
    assert "'qwen2' and 'llama-bpe'" in finding.message
    assert "gguf-new-metadata --pre-tokenizer qwen2" in finding.hint


def test_an_adapter_needs_the_architecture_of_untuned(make: Maker) -> None:
    base, untuned = make("large", architecture="llama"), make("small", architecture="qwen2")
    assert check(base, untuned, {"tuned": make.adapter(architecture="qwen2")}) == []
    finding = only(check(base, untuned, {"tuned": make.adapter(architecture="llama")}), "error")
    assert "'llama'" in finding.message and "untuned (small.gguf) is 'qwen2'" in finding.message


def test_only_tuned_can_be_an_adapter(make: Maker) -> None:
    model, adapter = make("model"), make.adapter()
    for base, untuned, role in [(adapter, model, "base"), (model, adapter, "untuned")]:
        finding = only(check(base, untuned, {"tuned": model}), "error")
        assert finding.message == f"{role} (lora.gguf) is an adapter, not a model"
        assert "lora:" in finding.hint


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"kind": "mmproj"}, "no language model, its type is 'mmproj'"),
        ({"tensors": 0}, "holds no weights"),
        ({"tokens": None}, "holds no vocabulary"),
        ({"tokens": [], "special": {}}, "holds no vocabulary"),
    ],
)
def test_files_that_are_no_whole_model(make: Maker, other: dict[str, Any], words: str) -> None:
    model = make("model")
    finding = only(check(model, model, {"tuned": make("other", **other)}), "error")
    assert finding.message.startswith("tuned (other.gguf)")
    assert words in finding.message


def test_errors_come_first(make: Maker) -> None:
    traits = {
        "padded": make("padded", tokens=[*TOKENS, "[PAD8]"]),
        "wrong": make("wrong", tokens=["x", *TOKENS[1:]]),
        "added": make("added", tokens=[*TOKENS, "new"]),
    }
    severities = [finding.severity for finding in check(make("large"), make("small"), traits)]
    assert severities == ["error", "warning", "note"]


def test_a_further_untuned_model_is_compared_and_its_adapter_held_to_it(make: Maker) -> None:
    base, small = make("base"), make("small")
    other = make("other", tokens=[*TOKENS[:-1], b"\xc4\xa0elsewhere"])
    finding = only(check(base, small, {"kind": make("kind"), "untuned.kind": other}), "error")
    assert "base (base.gguf) and untuned.kind (other.gguf) have different vocabularies" in finding.message
    adapter = make.adapter(architecture="gemma3")
    own = make("own", architecture="gemma3")
    untuned_of = {"kind": "untuned.kind"}
    assert check(base, small, {"kind": adapter, "untuned.kind": own}, untuned_of) == []
    finding = only(check(base, small, {"kind": adapter, "untuned.kind": small}, untuned_of), "error")
    assert "untuned.kind (small.gguf) is 'llama'" in finding.message
