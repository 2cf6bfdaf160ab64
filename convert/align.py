"""Vocabularies of a family made equal: what fills them up is added, cut or renamed, and no used token is touched.

Series often pad the embeddings of their sizes to different lengths, and entries for the padding have other names by
another converter, or after a fine-tuning. The rows that are added say nothing by themselves: each is a copy of a
padding row that the model has, or else of the row nearest to the mean of all, whose logit is about the mean logit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from eft_gguf.errors import CompatibilityError, ModelFileError, OptionError
from eft_gguf.models.compatibility import EMBEDDING, OUTPUT
from eft_gguf.models.fields import CONVERT_AGAIN
from eft_gguf.models.metadata import NORMAL, SPECIAL_ENDING, GGUFMetadata, Vocabulary, read_metadata
from eft_gguf.models.soundness import require_sound

from .check import require_computing
from .gguf_file import GGUFFile
from .writing import CHUNK, PlannedTensor, Progress, refuse_overwriting, silent, write_gguf, written_aside

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
ROWS = ("token_embd.weight", "output.weight")
SAME_SERIES = "vocabularies of one series can be aligned; look at the family with: eft-gguf doctor"


@dataclass(frozen=True, slots=True)
class Entry:
    """A token of the family's vocabulary: its text, type and score, and whether any model uses it."""

    text: bytes
    kind: int
    score: float
    used: bool


@dataclass
class Plan:
    """What is to be done to one file. renamed: unused entries that get a name, by id.  keys: new values, by key."""

    role: str
    path: str
    output: str
    rows: int
    rows_before: int
    renamed: dict[int, str] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rows != self.rows_before or self.renamed or self.keys)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "changes": self.changes}

    def lines(self) -> list[str]:
        """For people."""
        if not self.changes:
            return [f"{self.role} ({self.path}): as it is"]
        said = [f"{self.role} ({self.path}) → {self.output}"]
        if self.rows > self.rows_before:
            said.append(f"  add {self.rows - self.rows_before:,} unused rows: {self.rows_before:,} → {self.rows:,}")
        elif self.rows < self.rows_before:
            said.append(f"  cut {self.rows_before - self.rows:,} unused rows: {self.rows_before:,} → {self.rows:,}")
        if self.renamed:
            index, text = next(iter(self.renamed.items()))
            said.append(f"  name {len(self.renamed):,} unused entries, such as {index:,}: {text}")
        for key, value in self.keys.items():
            said.append(f"  set {key}" + ("" if key == TEMPLATE else f" to {value}"))
        return said


def plan_alignment(models: Mapping[str, Path], folder: Path, *, cut: bool = False) -> list[Plan]:
    """What makes the vocabularies of a family equal, file by file, outputs in `folder`.

    models: by role, the one first whose template and special ids the others get.  cut: leave out the rows that no model
    uses, instead of adding some to the smaller ones. Raises CompatibilityError where a used token would have to change.
    """
    found = {role: read_metadata(path) for role, path in models.items()}
    for role, metadata in found.items():
        require_sound(metadata)
        if metadata.kind != "model" or metadata.vocabulary is None or not metadata.vocabulary.size:
            raise OptionError(f"{role} ({metadata.path.name}) is no model with a vocabulary", hint="leave it out")
        rows = {name: metadata.tensors[name].shape for name in (EMBEDDING, OUTPUT) if name in metadata.tensors}
        for name, shape in rows.items():
            if len(shape) != 2 or shape[0] != metadata.vocabulary.size:
                raise ModelFileError(
                    f"{metadata.path}: {name} has the shape {shape}, and there are {metadata.vocabulary.size:,} tokens",
                    hint=CONVERT_AGAIN,
                )
    entries = _merged(found)
    size = len(entries)
    if cut:
        size = max(_used(metadata.vocabulary) for metadata in found.values() if metadata.vocabulary)
    source, names = next(iter(found.values())), [metadata.path.name for metadata in found.values()]
    plans = []
    for (role, metadata), name in zip(found.items(), names, strict=True):
        output = folder / (f"{role}-{name}" if names.count(name) > 1 else name)
        plans.append(_plan(role, metadata, source, entries[:size], output))
    return plans


def align(plans: Sequence[Plan], *, force: bool = False, progress: Progress = silent) -> None:
    """Carry plans out. Raises OptionError, LoadError; what is written by then is whole."""
    todo = [plan for plan in plans if plan.changes]
    sources = [Path(plan.path) for plan in plans]
    for plan in todo:
        refuse_overwriting(Path(plan.output), force=force, sources=sources)
    entries = _merged({plan.role: read_metadata(Path(plan.path)) for plan in plans})
    for plan in todo:
        file = GGUFFile(Path(plan.path))
        with written_aside(Path(plan.output), force=force, sources=sources) as aside:
            writer = GGUFWriter(None, file.architecture)
            _write_keys(file, writer, plan, entries)
            write_gguf(aside, writer, _tensors(file, plan), progress=progress)
            progress("checking what was written", 1.0)
            require_computing(aside)
        plan.size_bytes = Path(plan.output).stat().st_size


def _merged(models: Mapping[str, GGUFMetadata]) -> list[Entry]:
    """The family's tokens. Raises CompatibilityError where models use one id for different tokens."""
    (first, start), *others = models.items()
    merged: list[Entry] = []
    for role, metadata in ((first, start), *others):
        vocabulary = metadata.vocabulary
        assert vocabulary is not None and start.vocabulary is not None
        for name, one, other in (
            ("kinds of tokenizers", start.vocabulary.model, vocabulary.model),
            ("ways to cut text", start.vocabulary.pre, vocabulary.pre),
        ):
            if one != other:
                message = f"{first} and {role} have different {name}: {one:.40}, {other:.40}"
                raise CompatibilityError(message, hint=SAME_SERIES)
        for index in range(vocabulary.size):
            entry = _entry(vocabulary, index)
            if index == len(merged):
                merged.append(entry)
            elif entry.used and merged[index].used and entry.text != merged[index].text:
                names = " and ".join(repr(text.decode(errors="replace")) for text in (merged[index].text, entry.text))
                raise CompatibilityError(
                    f"token {index:,} is {names} in {role} and those before it: a used token is not changed",
                    hint=SAME_SERIES,
                )
            elif entry.used and not merged[index].used:
                merged[index] = entry
    place: dict[bytes, int] = {}
    for index, entry in enumerate(merged):
        if entry.text in place:
            if entry.used and merged[place[entry.text]].used:
                text = entry.text.decode(errors="replace")
                raise CompatibilityError(f"{text!r} is token {place[entry.text]:,} and {index:,}", hint=SAME_SERIES)
            unused = place[entry.text] if entry.used else index
            merged[unused] = replace(merged[unused], text=f"[PAD{unused}]".encode())
        place[entry.text] = index
    return merged


def _entry(vocabulary: Vocabulary, index: int) -> Entry:
    kind = NORMAL if vocabulary.types is None else int(vocabulary.types[index])
    score = 0.0 if vocabulary.scores is None else float(vocabulary.scores[index])
    return Entry(vocabulary.token(index), kind, score, used=not vocabulary.is_padding(index))


def _used(vocabulary: Vocabulary) -> int:
    """One more than the highest id that is no padding."""
    return next((index + 1 for index in range(vocabulary.size - 1, -1, -1) if not vocabulary.is_padding(index)), 0)


def _plan(role: str, metadata: GGUFMetadata, source: GGUFMetadata, entries: Sequence[Entry], output: Path) -> Plan:
    vocabulary = metadata.vocabulary
    assert vocabulary is not None and source.vocabulary is not None
    renamed = {
        index: entry.text.decode(errors="replace")
        for index, entry in enumerate(entries[: vocabulary.size])
        if entry.text != vocabulary.token(index)
    }
    keys: dict[str, Any] = {
        PREFIX + name + SPECIAL_ENDING: index
        for name, index in source.vocabulary.special.items()
        if vocabulary.special.get(name) != index and index < len(entries)
    }
    if source.chat_template is not None and metadata.chat_template != source.chat_template:
        keys[TEMPLATE] = source.chat_template
    return Plan(
        role, str(metadata.path), str(output), len(entries), vocabulary.size, renamed, keys, metadata.size_bytes
    )


def _write_keys(file: GGUFFile, writer: GGUFWriter, plan: Plan, entries: Sequence[Entry]) -> None:
    """All keys of the file, with the vocabulary's arrays as long as planned."""
    kept = min(plan.rows, plan.rows_before)
    renewed = {**dict.fromkeys(plan.renamed), **dict.fromkeys(range(kept, plan.rows))}

    def filled(key: str, of: Any) -> list[Any] | None:
        values = file.values.get(key)
        if values is None:
            return None
        old = [values[index] for index in range(min(kept, len(values)))]
        return [of(entries[i]) if i in renewed or i >= len(old) else old[i] for i in range(plan.rows)]

    changed: dict[str, Any] = {
        PREFIX + "tokens": filled(PREFIX + "tokens", lambda entry: entry.text),
        PREFIX + "token_type": filled(PREFIX + "token_type", lambda entry: entry.kind),
        PREFIX + "scores": filled(PREFIX + "scores", lambda entry: entry.score),
        f"{file.architecture}.vocab_size": plan.rows,
        **plan.keys,
    }
    changed = {key: value for key, value in changed.items() if key in file.values and value is not None}
    for key in (PREFIX + "token_type", PREFIX + "scores"):
        if key in changed:
            changed[key] = [value.item() if isinstance(value, np.generic) else value for value in changed[key]]
    file.copy_keys(writer, changed)
    for key, value in plan.keys.items():
        if key not in file.values:
            kind = GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32
            writer.add_key_value(key, value, kind)


def _tensors(file: GGUFFile, plan: Plan) -> list[PlannedTensor]:
    return [_resized(file, name, plan) if name in ROWS else file.as_planned(name) for name in file.tensors]


def _resized(file: GGUFFile, name: str, plan: Plan) -> PlannedTensor:
    """The tensor with rows added or cut, all others byte for byte."""
    same = file.as_planned(name)
    kept = min(plan.rows, plan.rows_before)

    def blocks() -> Iterator[NDArray[Any]]:
        step = max(1, CHUNK * plan.rows_before // max(1, file.tensors[name].size_bytes))
        for start in range(0, kept, step):
            yield file.raw(name, start, min(start + step, kept))
        if plan.rows > kept:
            row = _quiet_row(file, plan.rows_before)
            yield np.repeat(file.raw(name, row, row + 1), plan.rows - kept, axis=0)

    return PlannedTensor(name, (plan.rows, *same.shape[1:]), same.kind, blocks)


def _quiet_row(file: GGUFFile, size: int) -> int:
    """A padding row's id, or else that of the row nearest to the mean of all."""
    vocabulary = read_metadata(file.path).vocabulary
    assert vocabulary is not None
    padding = [index for index in range(size - 1, max(-1, size - 2000), -1) if vocabulary.is_padding(index)]
    if padding:
        return padding[0]
    name = ROWS[1] if ROWS[1] in file.tensors else ROWS[0]
    step = max(1, CHUNK // (4 * file.tensors[name].shape[1]))
    starts = range(0, size, step)
    mean = sum(file.read(name, start, min(start + step, size)).sum(axis=0, dtype=np.float64) for start in starts) / size
    distances = [np.square(file.read(name, start, min(start + step, size)) - mean).sum(axis=1) for start in starts]
    return int(np.argmin(np.concatenate(distances)))
