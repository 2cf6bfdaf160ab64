"""What the files alone tell: are they whole, may they be blended, can they talk, will they fit?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from eft_gguf.doctor.report import Check
from eft_gguf.engine.ensemble import special_tokens
from eft_gguf.engine.llama import Model
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.models.chat import render
from eft_gguf.models.compatibility import check as compare
from eft_gguf.models.family import Family, read_family
from eft_gguf.models.findings import Finding
from eft_gguf.models.fit import Plan, in_words
from eft_gguf.models.metadata import GGUFMetadata

QUESTION = {"role": "user", "content": "What is the capital of Peru?"}
ANSWER = "LIMA-IT-IS"
SYSTEM = {"role": "system", "content": "Be brief."}


@dataclass(frozen=True, slots=True)
class Members:
    """A family and what its files say, by member."""

    family: Family
    read: dict[str, GGUFMetadata]

    @classmethod
    def of(cls, family: Family) -> Members:
        """Raises ModelFileError, CompatibilityError for files that cannot be read."""
        base, untuned, others = read_family(family)
        return cls(family, {"base": base, "untuned": untuned, **others})

    @property
    def models(self) -> dict[str, GGUFMetadata]:
        """Those that have weights and a vocabulary of their own; each file once."""
        found: dict[str, GGUFMetadata] = {}
        for name, member in self.read.items():
            if member.kind != "adapter" and all(member.path != other.path for other in found.values()):
                found[name] = member
        return found


def models_check(members: Members) -> Check:
    """What there is: each model's size, kind and quantization."""
    evidence = []
    for name, member in members.read.items():
        same = next((first for first, model in members.models.items() if model.path == member.path), name)
        kind = "an adapter" if member.kind == "adapter" else member.quantization or "no layers"
        shared = f", the file of {same}" if same != name else ""
        evidence.append(
            f"{name}: {member.path.name}, {member.architecture}, {kind}, {in_words(member.size_bytes)}{shared}"
        )
    files = {member.path: member.size_bytes for member in members.read.values()}
    message = f"{len(members.read)} models in {len(files)} files, {in_words(sum(files.values()))}, all whole"
    return Check("models", "PASS", message, tuple(evidence))


def compatibility_checks(members: Members) -> list[Check]:
    """A check for each finding that matters; one that passes, with the notes, where none does."""
    base, untuned, *others = members.read.items()
    findings = compare(base[1], untuned[1], dict(others), members.family.untuned_of)
    checks = [
        Check("compatibility", "FAIL" if finding.severity == "error" else "WARN", finding.message, *_rest(finding))
        for finding in findings
        if finding.severity != "note"
    ]
    notes = [finding for finding in findings if finding.severity == "note"]
    if any(check.verdict == "FAIL" for check in checks):
        return checks
    sizes = [model.vocabulary.size for model in members.read.values() if model.vocabulary is not None]
    shared = f"one vocabulary: the first {min(sizes):,} tokens are the same in all models"
    lines = tuple(line for note in notes for line in (note.message, *note.evidence))
    return [Check("compatibility", "PASS", shared, lines), *checks]


def _rest(finding: Finding) -> tuple[tuple[str, ...], str]:
    return finding.evidence, finding.hint


@contextlib.contextmanager
def vocabularies(members: Members) -> Iterator[dict[str, Model]]:
    """The models as llama.cpp reads them, without their weights. Raises LoadError."""
    loaded: dict[str, Model] = {}
    try:
        for name, member in members.models.items():
            loaded[name] = Model(member.path, vocab_only=True)
        yield loaded
    finally:
        for model in loaded.values():
            model.close()


def speaker(members: Members, loaded: Mapping[str, Model]) -> Model:
    """The model by whose template and tokens the family speaks: the first tuned one, or what an adapter sits on."""
    first = members.family.tuned[0]
    name = members.family.untuned_of[first.name] if first.model.adapter else first.name
    path = members.read[name].path
    return next(model for model in loaded.values() if model.path == path)


def chat_check(members: Members, model: Model) -> Check:
    """Does the template take a conversation, and does what it puts behind a reply end one?"""
    template = model.chat_template()
    if template is None:
        return Check(
            "chat",
            "WARN",
            f"{model.path.name} has no chat template: chat, run and the server cannot write messages for it",
            remedy="complete plain text: eft-gguf run --raw; or add the original model's: "
            f"gguf-new-metadata --chat-template-file FILE {model.path.name} OUTPUT.gguf",
        )
    bos, eos = (model.piece(token, special=True).decode("utf-8", "replace") for token in (model.bos, model.eos))

    def rendered(*messages: dict[str, str]) -> str:
        return render(messages, template=template or "", bos=bos, eos=eos)

    try:
        whole = rendered(QUESTION, {"role": "assistant", "content": ANSWER}, QUESTION)
    except OptionError as error:
        return Check("chat", "WARN", error.message, remedy=error.hint)
    evidence = []
    with contextlib.suppress(OptionError):
        if SYSTEM["content"] in rendered(SYSTEM, QUESTION):
            evidence.append("it takes a system message")
    if not evidence:
        evidence.append("it takes no system message")
    if members.family.bases_template is not None:
        evidence.append("base and untuned read a template of their own (bases_template)")
    behind = whole.partition(ANSWER)[2].lstrip(" ")
    ending = next(iter(model.tokenize(behind, special=True)), None)
    if ending is None or not model.is_end(ending):
        shown = repr(behind[: behind.find(">") + 1 or 20]) if behind else "nothing"
        return Check(
            "chat",
            "WARN",
            f"the template of {model.path.name} puts {shown} behind a reply, which is no end token: replies may run on",
            tuple(evidence),
            f"stop at it: --stop {shown if behind else 'TEXT'}; or give the file the template of its original model",
        )
    piece = model.piece(ending, special=True).decode("utf-8", "replace")
    return Check("chat", "PASS", f"the template takes a conversation, and ends a reply with {piece}", tuple(evidence))


def stop_check(loaded: Mapping[str, Model], speaking: Model) -> Check:
    """Which tokens end a reply: those of all models, as llama.cpp knows them."""
    ends, _ = special_tokens(loaded.values(), min(model.n_vocab for model in loaded.values()))
    listed = [(token, speaking.piece(token, special=True).decode("utf-8", "replace")) for token in sorted(ends)]
    figures = {"ids": [token for token, _ in listed], "texts": [text for _, text in listed]}
    if not ends:
        return Check(
            "stop ids",
            "WARN",
            "no model names a token that ends a reply: each goes on to --max-tokens",
            remedy=f"name it: gguf-new-metadata --special-token eos TEXT {speaking.path.name} OUTPUT.gguf",
        )
    message = "a reply ends at " + ", ".join(f"{token} {text}" for token, text in listed)
    return Check("stop ids", "PASS", message, figures=figures)


def memory_check(plan: Plan, ctx: int, free: int, *, force: bool = False) -> Check:
    """Will it fit? The plan, part by part, against what is free; no failure where it is to be tried all the same."""
    memory = plan.at(ctx)
    evidence = [
        f"{name}: weights {in_words(share.weights)}, cache {in_words(share.cache)}, working {in_words(share.working)}"
        for name, share in memory.members.items()
    ]
    evidence.append(f"the program itself: {in_words(memory.program)}")
    trained = min((m.ctx_train for m in plan.members.values() if m.ctx_train), default=ctx)
    longest = plan.largest_ctx(trained, free)
    figures = {"needed": memory.total, "free": free, "ctx": ctx, "largest_ctx": longest}
    need = f"{in_words(memory.total)} needed at a context of {ctx:,} tokens, {in_words(free)} free"
    if memory.total > free:
        remedy = "; ".join([*plan.ways(ctx, free), "--force tries it all the same"])
        return Check("memory", "WARN" if force else "FAIL", need, tuple(evidence), remedy, figures)
    evidence.append(f"the longest context that fits: {longest or ctx:,} tokens (trained for {trained:,})")
    return Check("memory", "PASS", need, tuple(evidence), figures=figures)


def failed(name: str, error: EFTError) -> Check:
    """A check that an error ended."""
    return Check(name, "FAIL", error.message, remedy=error.hint)
