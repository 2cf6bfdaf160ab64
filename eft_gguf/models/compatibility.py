"""May these models be blended? Findings, each with the way out.

The blend adds the logits of one token id across models, so that an id has to mean the same token in all of
them. Models padded to different sizes are fine: only the ids that all of them have are blended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eft_gguf.errors import CompatibilityError
from eft_gguf.models.metadata import GGUFMetadata, Vocabulary

SAME_SERIES = "take all models from one series with one tokenizer, such as two sizes of Qwen2.5"
SHOWN = 40  # characters of a token in a message


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Literal["error", "warning", "note"]
    message: str
    hint: str = ""


def check(
    base: GGUFMetadata,
    untuned: GGUFMetadata,
    tuned: Mapping[str, GGUFMetadata],
    untuned_of: Mapping[str, str] | None = None,
) -> list[Finding]:
    """All findings about a family, errors first.

    tuned: models or adapters by trait name, and further untuned models by theirs.
    untuned_of: the name of the untuned model that a trait was tuned from, where it is one of the latter.
    """
    findings: list[Finding] = []
    for role, member in {"base": base, "untuned": untuned}.items():
        findings += _check_model(role, member)
    for name, member in tuned.items():
        if member.kind == "adapter":
            own = (untuned_of or {}).get(name, "untuned")
            findings += _check_adapter(_role(name), member, own, tuned.get(own, untuned))
        else:
            findings += _check_model(_role(name), member)
    if not findings:
        others = {"untuned": untuned} | {_role(n): m for n, m in tuned.items() if m.kind != "adapter"}
        for role, other in others.items():
            findings += _compare("base", base, role, other)
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def require(
    base: GGUFMetadata,
    untuned: GGUFMetadata,
    tuned: Mapping[str, GGUFMetadata],
    untuned_of: Mapping[str, str] | None = None,
) -> list[Finding]:
    """The warnings and notes of `check`. Raises CompatibilityError on its first error."""
    findings = check(base, untuned, tuned, untuned_of)
    for finding in findings:
        if finding.severity == "error":
            raise CompatibilityError(finding.message, hint=finding.hint)
    return findings


def _role(name: str) -> str:
    return name if name == "tuned" or name.startswith("untuned.") else f"trait {name}"


def _named(role: str, member: GGUFMetadata) -> str:
    return f"{role} ({member.path.name})"


def _check_model(role: str, member: GGUFMetadata) -> list[Finding]:
    name = _named(role, member)
    if member.kind == "adapter":
        hint = f"only a tuned model can be an adapter: lora:{member.path}"
        return [Finding("error", f"{name} is an adapter, not a model", hint)]
    if member.kind != "model":
        hint = "give the language model itself, not the file that goes with it"
        return [Finding("error", f"{name} holds no language model, its type is {member.kind!r}", hint)]
    if not member.tensors:
        hint = "give a file with weights; files with only a vocabulary are for tests of tokenizers"
        return [Finding("error", f"{name} holds no weights", hint)]
    if member.vocabulary is None or member.vocabulary.size == 0:
        return [Finding("error", f"{name} holds no vocabulary", "convert it again, with its tokenizer")]
    return []


def _check_adapter(role: str, adapter: GGUFMetadata, own: str, untuned: GGUFMetadata) -> list[Finding]:
    if adapter.architecture == untuned.architecture:
        return []
    message = (
        f"{_named(role, adapter)} adapts models of architecture {adapter.architecture!r}, "
        f"{_named(own, untuned)} is {untuned.architecture!r}"
    )
    return [Finding("error", message, "give as untuned the model that the adapter was trained on")]


def _compare(role: str, member: GGUFMetadata, other_role: str, other_member: GGUFMetadata) -> list[Finding]:
    one, other = member.vocabulary, other_member.vocabulary
    assert one is not None and other is not None  # _check_model saw to it
    names = f"{_named(role, member)} and {_named(other_role, other_member)}"
    index = one.first_difference(other)
    if index is not None:
        message = (
            f"{names} have different vocabularies: token {index:,} is {_shown(one, index)} in the first, "
            f"{_shown(other, index)} in the second"
        )
        return [Finding("error", message, SAME_SERIES)]
    if one.model != other.model:
        message = f"{names} have different kinds of tokenizers: {one.model!r} and {other.model!r}"
        return [Finding("error", message, SAME_SERIES)]
    if one.pre != other.pre:
        message = f"{names} cut text differently: tokenizer.ggml.pre is {one.pre!r} and {other.pre!r}"
        hint = (
            "if one was only converted with a wrong name, mend it: "
            f"gguf-new-metadata --pre-tokenizer {one.pre} {other_member.path} OUTPUT.gguf"
        )
        return [Finding("error", message, hint)]
    if one.size != other.size:
        return [_sizes(names, one, other)]
    return []


def _sizes(names: str, one: Vocabulary, other: Vocabulary) -> Finding:
    larger, shared = (one, other.size) if one.size > other.size else (other, one.size)
    counts = f"{names} have {one.size:,} and {other.size:,} tokens, the same up to {shared - 1:,}"
    extra = next((index for index in range(shared, larger.size) if not larger.is_padding(index)), None)
    if extra is None:
        return Finding("note", f"{counts}; the rest is padding")
    return Finding(
        "warning",
        f"{counts}; token {extra:,}, {_shown(larger, extra)}, is in only one of them",
        "the blend can neither read nor write such tokens: see that the chat template does without them",
    )


def _shown(vocabulary: Vocabulary, index: int) -> str:
    text = vocabulary.token(index).decode("utf-8", errors="replace")
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
