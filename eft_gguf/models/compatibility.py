"""May these models be blended? Findings, each with evidence and the way out.

The blend adds the logits of one token id across models, so that an id has to mean the same token in all of
them. Models padded to different sizes are fine: only the ids that all of them have are blended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eft_gguf.errors import CompatibilityError
from eft_gguf.models.cache import is_recurrent
from eft_gguf.models.findings import SEVERITIES, Finding
from eft_gguf.models.metadata import GGUFMetadata
from eft_gguf.models.tokenizers import compare, present

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
CONTROL_TEXT = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>|<\|?/?[a-z]+_(?:start|end)\|?>")
"""How control tokens are written in templates."""


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
            if other.path != base.path:
                findings += compare(f"{_named('base', base)} and {_named(role, other)}", base, other)
    if all(finding.severity != "error" for finding in findings):
        models = {"base": base, "untuned": untuned} | {_role(n): m for n, m in tuned.items()}
        findings += _differences(base, untuned, tuned, untuned_of or {})
        findings += _templates(models, untuned) + _lengths(models) + _rollback(models)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


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
        return [Finding("error", f"{name} holds no language model, its type is {member.kind!r:.40}", hint)]
    if not member.tensors:
        hint = "give a file with weights; files with only a vocabulary are for tests of tokenizers"
        return [Finding("error", f"{name} holds no weights", hint)]
    if member.vocabulary is None or member.vocabulary.size == 0:
        return [Finding("error", f"{name} holds no vocabulary", "convert it again, with its tokenizer")]
    return []


def _check_adapter(role: str, adapter: GGUFMetadata, own: str, untuned: GGUFMetadata) -> list[Finding]:
    if adapter.architecture == untuned.architecture:
        # llama.cpp takes such an adapter for one of the output layer too, and aborts the process at the first decode.
        if EMBEDDING + ".lora_a" in adapter.tensors and OUTPUT not in untuned.tensors:
            message = (
                f"{_named(role, adapter)} adapts the embedding, which is the output layer too in "
                f"{_named(own, untuned)}: llama.cpp cannot compute that"
            )
            return [Finding("error", message, "train an adapter of linear layers only, or merge this one")]
        return []
    message = (
        f"{_named(role, adapter)} adapts models of architecture {adapter.architecture!r}, "
        f"{_named(own, untuned)} is {untuned.architecture!r}"
    )
    return [Finding("error", message, "give as untuned the model that the adapter was trained on")]


def _differences(
    base: GGUFMetadata, untuned: GGUFMetadata, tuned: Mapping[str, GGUFMetadata], untuned_of: Mapping[str, str]
) -> list[Finding]:
    """Is there a difference for each dial to scale, and is it free of noise that only one side has?"""
    findings = []
    if base.path == untuned.path:
        message = f"base and untuned are one file ({base.path.name}): the dial knowledge has nothing to scale"
        findings.append(Finding("note", message))
    for name, member in tuned.items():
        own_name = untuned_of.get(name, "untuned")
        own = tuned.get(own_name, untuned)
        if member.kind == "adapter" or name.startswith("untuned."):
            continue
        if member.path == own.path:
            message = f"{_role(name)} and {own_name} are one file ({own.path.name}): there is no behaviour to scale"
            findings.append(Finding("note", message))
        elif member.quantization != own.quantization:
            kinds = f"{own.quantization} and {member.quantization}"
            message = (
                f"{_named(own_name, own)} and {_named(_role(name), member)} come at different quantizations, {kinds}: "
                "what the coarser one loses is taken for behaviour"
            )
            hint = (
                "fetch both at the same one, Q8_0 or F16 as they are small; or, from F16 files: eft-gguf convert pair"
            )
            findings.append(Finding("warning", message, hint, (f"most layers: {kinds}",)))
    return findings


def _templates(models: Mapping[str, GGUFMetadata], untuned: GGUFMetadata) -> list[Finding]:
    """Can the template that chats are written by be read by all? It is the first tuned model's."""
    traits = {role: model for role, model in models.items() if role not in ("base",) and not role.startswith("untuned")}
    sources = {role: untuned if model.kind == "adapter" else model for role, model in traits.items()}
    role, source = next(iter(sources.items()))
    named = _named(role, source)
    if source.chat_template is None:
        hint = "complete plain text (eft-gguf run --raw), or add one: gguf-new-metadata --chat-template-file FILE"
        return [Finding("note", f"{named} has no chat template", hint)]
    findings = []
    for other, model in sources.items():
        if model.chat_template is not None and model.chat_template != source.chat_template:
            message = (
                f"{_named(other, model)} was tuned with another chat template than {named}, whose template is used"
            )
            findings.append(Finding("warning", message, f"put {other} first if its manners matter more"))
    vocabulary = source.vocabulary
    assert vocabulary is not None
    ids = present(vocabulary, sorted(set(CONTROL_TEXT.findall(source.chat_template))))
    # Many templates serve several models, and know tokens of tools that a vocabulary need not have.
    if ids and all(index is None for index in ids.values()):
        message = f"the chat template of {named} writes control tokens that its vocabulary does not have"
        hint = (
            "it is another model's: mend it, with the template of the original model in FILE: "
            f"gguf-new-metadata --chat-template-file FILE {source.path} OUTPUT.gguf"
        )
        findings.append(Finding("warning", message, hint, tuple(f"{text!r} is no token" for text in ids)))
    sizes = {role: model.vocabulary.size for role, model in models.items() if model.vocabulary is not None}
    least = min(sizes, key=lambda role: sizes[role])
    beyond = {text: index for text, index in ids.items() if index is not None and index >= sizes[least]}
    if beyond:
        message = f"the chat template of {named} writes tokens that {least} does not have: {', '.join(beyond)}"
        evidence = tuple(f"{text!r} is token {index:,} of {sizes[least]:,}" for text, index in beyond.items())
        hint = 'in a family file, write bases_template = "plain"; or complete plain text (eft-gguf run --raw)'
        findings.append(Finding("warning", message, hint, evidence))
    return findings


def _lengths(models: Mapping[str, GGUFMetadata]) -> list[Finding]:
    lengths = {role: model.ctx_train for role, model in models.items() if model.ctx_train}
    if len(set(lengths.values())) < 2:
        return []
    least = min(lengths, key=lambda role: lengths[role])
    evidence = tuple(f"{role}: {length:,} tokens" for role, length in lengths.items())
    message = f"the models were trained for contexts of different lengths; the shortest counts: {lengths[least]:,}"
    return [Finding("note", message, "", evidence)]


def _rollback(models: Mapping[str, GGUFMetadata]) -> list[Finding]:
    stuck = [_named(role, model) for role, model in models.items() if is_recurrent(model)]
    if not stuck:
        return []
    message = (
        f"{', '.join(stuck)}: layers with a state cannot be taken back to an earlier token, so an edited chat is read "
        "again from its start"
    )
    return [Finding("note", message)]
