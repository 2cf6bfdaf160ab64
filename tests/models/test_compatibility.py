"""Which models may be blended, and what is said about those that may not."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eft_gguf.errors import CompatibilityError
from eft_gguf.models.compatibility import check, require
from eft_gguf.models.findings import Finding
from eft_gguf.models.header import Tensor
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from tests.gguf_files import CONTROL, NORMAL, TOKENS, UNUSED, write_adapter, write_model
from tests.tiny_architectures import write_architecture


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
        make("large", architecture="qwen2"),
        make("small"),
        make("chatty", template="{{ 1 }}"),
    )
    assert check(base, untuned, {"tuned": tuned}) == []
    assert require(base, untuned, {"tuned": tuned}) == []


def test_special_ids_and_templates_may_differ(make: Maker) -> None:
    base = make("large", special={"bos": 1, "eos": 2}, template=None)
    found = check(base, make("small"), {"tuned": make("chatty", special={"bos": 1, "eos": 4})})
    assert only(found, "note").evidence == ("eos: 2 '</s>', 4 'b'",)


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
    assert finding.evidence == ("token 5: 'Ġthe', 'Ġcat'", "token 6: 'Ġcat', 'Ġthe'", "token 7: 'é', 'é'")
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
    again = make("padded too", tokens=padded, types=[1] * 10 + [UNUSED])
    assert only(require(tuned, again, {"tuned": make("chatty")}), "note").message.count("11 and 8") == 1


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


def test_an_adapter_of_a_tied_embedding_is_refused(make: Maker) -> None:
    """llama.cpp would end the process with it."""
    base, tied, adapter = make("large"), make("small"), make.adapter()
    adapter = replace(adapter, tensors={"token_embd.weight.lora_a": Tensor(0, 16, 64)})
    finding = only(check(base, tied, {"tuned": adapter}), "error")
    assert "adapts the embedding, which is the output layer too in untuned (small.gguf)" in finding.message
    untied = replace(tied, tensors={**tied.tensors, "output.weight": Tensor(0, 16, 64)})
    assert check(base, untied, {"tuned": adapter}) == []


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


def test_ids_shifted_by_an_added_token(make: Maker) -> None:
    tuned = make("shifted", tokens=[*TOKENS[:3], "<new>", *TOKENS[3:]])
    finding = only(check(make("large"), make("small"), {"tuned": tuned}), "error")
    assert "token 3: 'a', '<new>'" in finding.evidence
    assert "from there on the first's ids are lower by 1" in finding.evidence


def test_unrelated_vocabularies_are_not_called_shifted(make: Maker) -> None:
    """Both have the letters in a row, as all byte-level vocabularies do, but nothing else in common."""
    letters = [chr(number) for number in range(33, 73)]
    one = [*TOKENS, *letters, *(f"one{number}" for number in range(200))]
    other = [*letters, *TOKENS, *(f"other{number}" for number in range(200))]
    finding = only(
        check(make("large", tokens=one), make("small", tokens=other), {"tuned": make("t", tokens=one)}), "error"
    )
    assert not any("lower by" in line for line in finding.evidence)


def test_kinds_of_tokens(make: Maker) -> None:
    tuned = make("marked", types=[NORMAL] * 7 + [CONTROL])
    finding = only(check(make("large"), make("small"), {"tuned": tuned}), "note")
    assert finding.evidence == ("token 7, 'é': text in the first, control in the second",)
    unused = make("unused", types=[NORMAL] * 7 + [UNUSED])
    assert check(make("large"), make("small"), {"tuned": unused}) == []


def test_merges(make: Maker) -> None:
    def found(*merges: str) -> Finding:
        return only(
            check(make("large", merges=["a b", "t h"]), make("small", merges=["a b", "t h"]), merged(merges)), "warning"
        )

    def merged(merges: tuple[str, ...]) -> dict[str, GGUFMetadata]:
        return {"tuned": make("other", merges=merges)}

    assert found("a b", "h t").evidence == ("merge 1: 't h', 'h t'",)
    assert "by different merges, 2 and 1" in found("a b").message
    assert "the second has no merges" in found().message
    assert found().hint


def test_scores(make: Maker) -> None:
    pieces = {"model": "llama", "pre": None}
    base, untuned = make("large", **pieces, scores=[0.0] * 8), make("small", **pieces, scores=[0.0] * 8)
    tuned = make("other", **pieces, scores=[0.0] * 4 + [-1.0] + [0.0] * 3)
    finding = only(check(base, untuned, {"tuned": tuned}), "warning")
    assert finding.evidence == ("token 4, 'b': 0, -1",)


def test_rules_of_what_is_put_before_a_text(make: Maker) -> None:
    models = [
        make(name, flags={"tokenizer.ggml.add_bos_token": bos}) for name, bos in [("large", True), ("small", True)]
    ]
    tuned = make("chatty", flags={"tokenizer.ggml.add_bos_token": False})
    finding = only(check(*models, {"tuned": tuned}), "warning")
    assert "differ in add_bos_token: true and false; the tuned model's is followed" in finding.message
    assert "gguf-set-metadata FILE.gguf tokenizer.ggml.add_bos_token" in finding.hint
    assert check(*models, {"tuned": make("silent")}) == []


def test_quantizations_of_a_pair(make: Maker) -> None:
    base, untuned = make("large", halves=True), make("small")
    assert check(base, untuned, {"tuned": make("chatty")}) == []
    finding = only(check(base, untuned, {"tuned": make("coarse", halves=True)}), "warning")
    assert (
        "untuned (small.gguf) and tuned (coarse.gguf) come at different quantizations, F32 and F16" in finding.message
    )
    assert "Q8_0 or F16" in finding.hint


def test_one_file_twice(make: Maker) -> None:
    base, untuned = make("large"), make("small")
    assert "no behaviour to scale" in only(check(base, untuned, {"tuned": untuned}), "note").message
    assert "knowledge has nothing to scale" in only(check(base, base, {"tuned": untuned}), "note").message


def test_a_template_of_another_model(make: Maker) -> None:
    wrong = make("wrong", template="{{ messages }}<|im_start|>assistant<|im_end|>")
    finding = only(check(make("large"), make("small"), {"tuned": wrong}), "warning")
    assert "control tokens that its vocabulary does not have" in finding.message
    assert finding.evidence == ("'<|im_end|>' is no token", "'<|im_start|>' is no token")
    assert "gguf-new-metadata --chat-template-file" in finding.hint


def test_a_template_of_added_tokens(make: Maker) -> None:
    tuned = make("added", tokens=[*TOKENS, "<|im_start|>"], template="{{ messages }}<|im_start|>")
    found = require(make("large"), make("small"), {"tuned": tuned})
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert found[1].evidence == ("'<|im_start|>' is token 8 of 8",)


def test_traits_of_different_templates(make: Maker) -> None:
    traits = {"kind": make("kind"), "stern": make("stern", template="{{ messages }}")}
    message = only(check(make("large"), make("small"), traits), "warning").message
    assert message.startswith(
        "trait stern (stern.gguf) was tuned with another chat template than trait kind (kind.gguf)"
    )
    assert (
        "no chat template"
        in only(check(make("large"), make("small"), {"t": make("none", template=None)}), "note").message
    )


def test_lengths_of_context(make: Maker) -> None:
    finding = only(check(make("large", ctx=128), make("small"), {"tuned": make("chatty")}), "note")
    assert finding.message.endswith("the shortest counts: 64")
    assert finding.evidence == ("base: 128 tokens", "untuned: 64 tokens", "tuned: 64 tokens")


def test_models_that_cannot_go_back(tmp_path: Path) -> None:
    large = read_metadata(write_architecture(tmp_path / "large.gguf", "Mamba", large=True))
    small, tuned = (read_metadata(write_architecture(tmp_path / f"{n}.gguf", "Mamba", seed=n)) for n in (1, 2))
    message = only(check(large, small, {"tuned": tuned}), "note").message
    assert message.startswith("base (large.gguf), untuned (1.gguf), tuned (2.gguf): layers with a state")


def test_three_large_vocabularies_take_half_a_second(make: Maker) -> None:
    """262,144 tokens and as many merges, as Gemma's files have; reading them included, in processor time."""
    tokens = [f"Ġ{number:x}" for number in range(262_144)]
    merges = [f"Ġ {token[1:]}" for token in tokens]
    large = make("large", tokens=tokens, merges=merges).path
    paths = [large, *(Path(shutil.copy(large, large.with_name(f"{name}.gguf"))) for name in ("small", "chatty"))]
    started = time.process_time()
    base, untuned, tuned = map(read_metadata, paths)
    assert check(base, untuned, {"tuned": tuned}) == []
    assert time.process_time() - started < 0.5
