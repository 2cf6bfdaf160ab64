"""Do two tokenizers cut text into the same tokens with the same ids?

The prompt is cut once, by the tuned model's tokenizer, and the ids go to all. So ids must mean the same token
everywhere; where merges or scores differ, a model is fed cuts that it never saw in training.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eft_gguf.models.findings import Finding
from eft_gguf.models.metadata import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, GGUFMetadata, Vocabulary

SAME_SERIES = "take all models from one series with one tokenizer, such as two sizes of Qwen2.5"
OTHER_CONVERSION = "fetch or convert both from the same source, with the same version of llama.cpp"
SHOWN = 40  # characters of a token in a message
LISTED = 4  # ids of evidence
SAMPLED = 64  # tokens by which a shift of all ids is told from chance
TYPES = {
    NORMAL: "text",
    UNKNOWN: "unknown",
    CONTROL: "control",
    USER_DEFINED: "user-defined",
    UNUSED: "unused",
    BYTE: "byte",
}
RULES = ("add_bos_token", "add_eos_token", "add_space_prefix")


def compare(names: str, member: GGUFMetadata, other_member: GGUFMetadata) -> list[Finding]:
    """Findings about two models' tokenizers; `names` is what to call the two."""
    one, other = member.vocabulary, other_member.vocabulary
    assert one is not None and other is not None
    index = one.first_difference(other)
    if index is not None:
        return [_different(names, one, other, index)]
    if one.model != other.model:
        message = f"{names} have different kinds of tokenizers: {one.model!r:.40} and {other.model!r:.40}"
        return [Finding("error", message, SAME_SERIES)]
    if one.pre != other.pre:
        message = f"{names} cut text differently: tokenizer.ggml.pre is {one.pre!r:.40} and {other.pre!r:.40}"
        hint = (
            "if one was only converted with a wrong name, mend it: "
            f"gguf-new-metadata --pre-tokenizer {one.pre:.40} {other_member.path} OUTPUT.gguf"
        )
        return [Finding("error", message, hint)]
    findings = [_sizes(names, one, other)] if one.size != other.size else []
    findings += _types(names, one, other) + _merges(names, one, other) + _scores(names, one, other)
    return findings + _special(names, one, other) + _rules(names, member, other_member)


def _different(names: str, one: Vocabulary, other: Vocabulary, index: int) -> Finding:
    message = (
        f"{names} have different vocabularies: token {index:,} is {shown(one, index)} in the first, "
        f"{shown(other, index)} in the second"
    )
    shared = min(one.size, other.size)
    evidence = [_pair(one, other, at) for at in range(index, min(index + LISTED, shared))]
    for left, right, which in ((one, other, "second"), (other, one, "first")):
        place = left.tokens.find(right.token(index))
        if place is not None and place > index and _shifted(left, right, index, place - index):
            evidence.append(f"from there on the {which}'s ids are lower by {place - index:,}")
    return Finding("error", message, SAME_SERIES, tuple(evidence))


def _shifted(left: Vocabulary, right: Vocabulary, start: int, shift: int) -> bool:
    """Whether tokens of `right` from `start` on stand in `left` so many ids higher: nearly all of a sample do."""
    end = min(right.size, left.size - shift)
    sample = np.unique(np.linspace(start, end - 1, min(SAMPLED, max(end - start, 1))).astype(int))
    same = sum(left.token(at + shift) == right.token(at) for at in sample.tolist())
    return end > start and same > 0.8 * len(sample)


def _sizes(names: str, one: Vocabulary, other: Vocabulary) -> Finding:
    larger, shared = (one, other.size) if one.size > other.size else (other, one.size)
    counts = f"{names} have {one.size:,} and {other.size:,} tokens, the same up to {shared - 1:,}"
    extra = [index for index in range(shared, larger.size) if not larger.is_padding(index)]
    if not extra:
        return Finding("note", f"{counts}; the rest is padding")
    return Finding(
        "warning",
        f"{counts}; token {extra[0]:,}, {shown(larger, extra[0])}, is in only one of them",
        "the blend can neither read nor write such tokens: see that the chat template does without them",
        tuple(f"token {index:,}: {shown(larger, index)}" for index in extra[:LISTED]),
    )


def _types(names: str, one: Vocabulary, other: Vocabulary) -> list[Finding]:
    if one.types is None or other.types is None:
        return []
    shared = min(one.size, other.size)
    differ = np.flatnonzero(one.types[:shared] != other.types[:shared])
    # What fills a vocabulary up is called unused by some converters, and user-defined or control by others.
    differ = differ[~np.isin(one.types[differ], (UNUSED,)) & ~np.isin(other.types[differ], (UNUSED,))]
    if not len(differ):
        return []
    evidence = [
        f"token {index:,}, {shown(one, index)}: {_type(one, index)} in the first, {_type(other, index)} in the second"
        for index in map(int, differ[:LISTED])
    ]
    message = f"{names} take {len(differ):,} token(s) for different kinds, as control or text; each goes by its own"
    return [Finding("note", message, "", tuple(evidence))]


def _merges(names: str, one: Vocabulary, other: Vocabulary) -> list[Finding]:
    if one.merges is None and other.merges is None:
        return []
    if one.merges is None or other.merges is None:
        which = "first" if one.merges is None else "second"
        return [Finding("warning", f"{names}: the {which} has no merges, so that it cannot cut text", OTHER_CONVERSION)]
    index = one.merges.first_difference(other.merges)
    if index is None and len(one.merges) == len(other.merges):
        return []
    evidence = (
        () if index is None else (f"merge {index:,}: {_text(one.merges[index])!r}, {_text(other.merges[index])!r}",)
    )
    message = (
        f"{names} join letters to tokens by different merges, {len(one.merges):,} and {len(other.merges):,}: "
        "one of them will read text cut otherwise than in its training"
    )
    return [Finding("warning", message, OTHER_CONVERSION, evidence)]


def _scores(names: str, one: Vocabulary, other: Vocabulary) -> list[Finding]:
    # Tokenizers other than SentencePiece's have no use for scores, and converters write anything there.
    if one.model != "llama" or one.scores is None or other.scores is None or one.types is None:
        return []
    shared = min(len(one.scores), len(other.scores))
    text = np.isin(one.types[:shared], (NORMAL,))
    differ = np.flatnonzero((one.scores[:shared] != other.scores[:shared]) & text)
    if not len(differ):
        return []
    evidence = [
        f"token {index:,}, {shown(one, index)}: {one.scores[index]:g}, {other.scores[index]:g}"
        for index in map(int, differ[:LISTED])
    ]
    message = (
        f"{names} have different scores for {len(differ):,} tokens: one of them will read text cut otherwise than in "
        "its training"
    )
    return [Finding("warning", message, OTHER_CONVERSION, tuple(evidence))]


def _special(names: str, one: Vocabulary, other: Vocabulary) -> list[Finding]:
    roles = sorted(role for role in {*one.special, *other.special} if one.special.get(role) != other.special.get(role))
    evidence = [f"{role}: {_role(one, role)}, {_role(other, role)}" for role in roles]
    if not roles:
        return []
    message = f"{names} name different special tokens: {', '.join(roles)}; a reply ends at any model's end token"
    return [Finding("note", message, "", tuple(evidence))]


def _rules(names: str, member: GGUFMetadata, other_member: GGUFMetadata) -> list[Finding]:
    findings = []
    for rule in RULES:
        key = f"tokenizer.ggml.{rule}"
        left, right = member.fields.get(key), other_member.fields.get(key)
        # A file that says nothing means llama.cpp's default for its tokenizer, which is the same for both.
        if left is None or right is None or left == right:
            continue
        message = (
            f"{names} differ in {rule}: {str(left).lower()} and {str(right).lower()}; the tuned model's is followed"
        )
        hint = (
            "for text without a template that puts one model off its training; if one file is wrong, mend it: "
            f"gguf-set-metadata FILE.gguf {key} 0 or 1"
        )
        findings.append(Finding("warning", message, hint, (f"{key}: {left}, {right}",)))
    return findings


def _role(vocabulary: Vocabulary, role: str) -> str:
    index = vocabulary.special.get(role)
    return "none" if index is None else f"{index:,} {shown(vocabulary, index)}"


def _pair(one: Vocabulary, other: Vocabulary, index: int) -> str:
    return f"token {index:,}: {shown(one, index)}, {shown(other, index)}"


def _type(vocabulary: Vocabulary, index: int) -> str:
    assert vocabulary.types is not None
    number = int(vocabulary.types[index])
    return TYPES.get(number, str(number))


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def shown(vocabulary: Vocabulary, index: int) -> str:
    """A token's text, quoted and not too long."""
    text = _text(vocabulary.token(index))
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def present(vocabulary: Vocabulary, texts: Iterable[str]) -> dict[str, int | None]:
    """The ids of tokens by their texts, None for those that are not in the vocabulary."""
    return {text: vocabulary.tokens.find(text.encode()) for text in texts}
