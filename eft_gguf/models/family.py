"""Which files make up base, untuned and tuned: family files in TOML, and references on a command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eft_gguf.blend.equation import Blend, Filter, coefficients
from eft_gguf.errors import CompatibilityError, ModelFileError, OptionError
from eft_gguf.files import home_expanded, read_text
from eft_gguf.models.chat import PLAIN_TEMPLATE
from eft_gguf.models.examples import Example, checked_choice
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from eft_gguf.models.presets import NAME, Listed, file_of, listed, names
from eft_gguf.models.references import ADAPTER, Reference, first_on_disk, on_disk, require_files, resolve, split_weight
from eft_gguf.models.soundness import require_sound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_UNTUNED = "untuned."
"""What the name of a further untuned model begins with; that of the first trait tuned from it follows."""
DEFAULT_BLEND = Blend()
"""The dials of a family that names none; docs/steering.md has the evidence."""
BUNDLED = Path(__file__).parent.parent / "bundled" / "family.toml"
DIALS = ("knowledge", "behaviour", "filter")
KEYS = ("name", "base", "untuned", "tuned", "ctx", "bases_template", "examples", *DIALS)
DESCRIPTION = ("about", "gigabytes", "vocabulary", "checked")
"""Keys of a family file that only tell about it; see models/presets.py."""
TRAIT_KEYS = ("model", "untuned", "weight")
CALL = "name a TOML file that describes a family"
EXAMPLE = 'base = "large.gguf", untuned = "small.gguf" and a table [tuned] with trait = "small-tuned.gguf"'
Parsed = tuple[str | None, str, float]  # trait name, reference, weight
Tuned = str | Path | Sequence[str | Path] | Mapping[str, str | Path | Mapping[str, Any]]
"""Tuned models as Python names them; see `family_from_references`."""


@dataclass(frozen=True, slots=True)
class Trait:
    """A tuned model, and how much its difference from untuned counts.

    untuned: the model that it was tuned from, where that is not the family's.
    """

    name: str
    model: Reference
    weight: float = 1.0
    untuned: Reference | None = None

    def __post_init__(self) -> None:
        # The names share a table with these three, and with untuned.TRAIT, when figures per model are reported.
        taken = self.name in ("base", "untuned", "blend") or self.name.startswith(OWN_UNTUNED)
        if taken or not NAME.fullmatch(self.name):
            raise OptionError(
                f"{self.name!r} cannot name a trait",
                hint="use letters, digits, '.', '-', '_', with a letter or digit first; not base, untuned or blend",
            )
        if not math.isfinite(self.weight) or self.weight < 0:
            raise OptionError(
                f"the weight of trait {self.name} is {self.weight}", hint="give a finite number, 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Family:
    """The models to blend.

    ctx: the context length to use where none is asked for.  bases_template: the Jinja template by which base and
    untuned read a chat, where they do not know the control tokens of the tuned model's.  examples: what they are shown
    before each chat, as `examples.checked_choice` gives it.  blend: the dials where none are asked for.
    """

    name: str
    base: Reference
    untuned: Reference
    tuned: tuple[Trait, ...]
    ctx: int | None = None
    path: Path | None = None  # the file it came from
    bases_template: str | None = None
    examples: int | Path | tuple[Example, ...] = 0
    blend: Blend = DEFAULT_BLEND

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each trait where none is asked for."""
        return {trait.name: trait.weight for trait in self.tuned}

    def blended(self, dials: Mapping[str, Any]) -> Blend:
        """The family's blend with some of its dials replaced. Raises OptionError for a value out of range."""
        return replace(self.blend, **dials)

    @property
    def members(self) -> dict[str, Reference]:
        """The models by name, in the order of the equation's factors: base, untuned, the traits, further untuned ones.

        Those are called untuned.TRAIT, by the first trait that was tuned from them.
        """
        models = {"base": self.base, "untuned": self.untuned} | {trait.name: trait.model for trait in self.tuned}
        untuned_of = self.untuned_of
        for trait in self.tuned:
            if trait.untuned:
                models.setdefault(untuned_of[trait.name], trait.untuned)
        return models

    @property
    def untuned_of(self) -> dict[str, str]:
        """The untuned model that each trait is measured against: by trait name, the name of a member."""
        names = {self.untuned.path: "untuned"}
        found = {}
        for trait in self.tuned:
            path = (trait.untuned or self.untuned).path
            found[trait.name] = names.setdefault(path, OWN_UNTUNED + trait.name)
        return found

    def factors(self, blend: Blend) -> tuple[float, ...]:
        """The factor of each of `members` in a blend. Raises OptionError for a trait that is not the family's."""
        untuned_of = self.untuned_of
        number = {name: place for place, name in enumerate(dict.fromkeys(["untuned", *untuned_of.values()]))}
        weights = blend.weights(self.weights)
        return coefficients(
            blend.knowledge, blend.behaviour, weights, [number[untuned_of[trait.name]] for trait in self.tuned]
        )

    def __post_init__(self) -> None:
        if not self.tuned:
            raise OptionError(f"family {self.name} has no tuned model", hint="give at least one")
        own = [(f"the untuned model of {trait.name}", trait.untuned) for trait in self.tuned if trait.untuned]
        for role, reference in (("base", self.base), ("untuned", self.untuned), *own):
            if reference.adapter:
                raise OptionError(
                    f"{role} cannot be an adapter: {reference.text}",
                    hint="only tuned models can be; give a model",
                )
        names = [trait.name for trait in self.tuned]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OptionError(f"two tuned models are called {twice[0]!r}", hint="name them apart: TRAIT=REF")
        if self.ctx is not None and self.ctx < 1:
            raise OptionError(f"ctx of family {self.name} is {self.ctx}", hint="give a number of tokens above 0")


def load_family(spec: str | Path | None = None) -> Family:
    """The family in a TOML file, or of a name; without one, or for "bundled", that which ships with the package.

    A name is one that the user added (`eft-gguf families add`) or a preset. Presets are not fetched: ModelFileError
    says what of one is missing. Raises OptionError for a wrong file.
    """
    found = list_family(spec)
    if found.is_preset:
        found.require()
    return family_from_text(_read(found.path), found.path)


def list_family(spec: str | Path | None = None) -> Listed:
    """A family as its file describes it, without looking for its models. Raises OptionError for a wrong file."""
    path = BUNDLED if spec is None or spec == "bundled" else home_expanded(spec)
    if path != BUNDLED and not path.is_file():
        path = file_of(str(spec)) or path
    name = "bundled" if path == BUNDLED else path.stem
    return listed(name, table_from_text(_read(path), path), path)


def family_from_text(text: str, path: Path) -> Family:
    """The family that a TOML text describes; relative paths start from the folder of `path`."""
    table = table_from_text(text, path)
    with _in(path):
        return _family(table, path)


def table_from_text(text: str, path: Path) -> dict[str, Any]:
    """What a family file says, its keys and their kinds checked. Raises OptionError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no TOML file: {error}", hint=f"{CALL}; it holds {EXAMPLE}") from None
    with _in(path):
        _check_table(table)
    return table


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise OptionError(
            f"there is no family file {path}" if path.suffix == ".toml" else f"there is no family {path}",
            hint=f"give the path of a family file, a name ({', '.join(['bundled', *names()])}), "
            "or the models: --base, --untuned, --tuned",
        ) from None
    except OSError as error:
        raise OptionError(f"cannot read the family file {path}: {error.strerror}", hint=CALL) from None
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is no TOML file: {error}", hint=f"{CALL}; it holds {EXAMPLE}") from None


def family_from_references(base: str | Path, untuned: str | Path, tuned: Tuned) -> Family:
    """A family from references as the command line takes them: tuned models as `[TRAIT=]REF[:WEIGHT]`.

    A mapping's keys are the traits' names, its values references or the keys of a trait in a family file, as in
    `{"model": "tuned.gguf", "untuned": "before.gguf", "weight": 0.5}`. A single tuned model may go without a name:
    it is called "tuned".
    """
    if isinstance(tuned, Mapping):
        traits = [
            _trait(name, dict(entry), Path())
            if isinstance(entry, Mapping)
            else _referred(name, _parse_weight(str(entry)))
            for name, entry in tuned.items()
        ]
    else:
        parsed = [parse_tuned(str(text)) for text in ([tuned] if isinstance(tuned, (str, Path)) else tuned)]
        require_files((str(base), str(untuned), *(reference for _, reference, _ in parsed)))
        unnamed = next((ref for name, ref, _ in parsed if name is None), None)
        if unnamed is not None and len(parsed) > 1:
            raise OptionError(
                f"the tuned model {unnamed} has no trait name",
                hint=f"with several tuned models each needs one: helpful={unnamed}",
            )
        traits = [_referred("tuned" if name is None else name, rest) for name, *rest in parsed]
    return Family("from references", resolve(base), resolve(untuned), tuple(traits))


def parse_tuned(text: str) -> Parsed:
    """`[TRAIT=]REF[:WEIGHT]` → name or None, reference, weight (1 if not given).

    Paths may hold both signs. Of all ways to read the text, those with fewer parts before those with more,
    the first whose file exists wins; if there is none, the one with most parts is meant.
    """
    name, equals, rest = text.partition("=")
    readings: list[Parsed] = [(None, text, 1.0), (None, *split_weight(text))]
    if equals and NAME.fullmatch(name):
        readings += [(name, rest, 1.0), (name, *split_weight(rest))]
    return next((reading for reading in readings if on_disk(reading[1])), readings[-1])


def read_family(family: Family) -> tuple[GGUFMetadata, GGUFMetadata, dict[str, GGUFMetadata]]:
    """Metadata of base, untuned and all other members, as `compatibility.require` takes them; each file read once.

    Raises ModelFileError for files that cannot be used, CompatibilityError where `lora:` and a file disagree.
    """
    references = family.members.values()
    read = {path: read_metadata(path) for path in dict.fromkeys(reference.path for reference in references)}
    for model in read.values():
        require_sound(model)
    for reference in references:
        if reference.adapter and read[reference.path].kind != "adapter":
            hint = f"give it without {ADAPTER!r}"
            raise CompatibilityError(f"{reference.path} is a model, not an adapter", hint=hint)
    for trait in family.tuned:
        if not trait.model.adapter and read[trait.model.path].kind == "adapter":
            hint = f"write {ADAPTER}{trait.model.text}"
            raise CompatibilityError(f"{trait.model.path} is an adapter, not a model", hint=hint)
    base, untuned, *others = ((name, read[reference.path]) for name, reference in family.members.items())
    return base[1], untuned[1], dict(others)


def _parse_weight(text: str) -> tuple[str, float]:
    return (text, 1.0) if on_disk(text) else split_weight(text)


def _check_table(table: dict[str, Any]) -> None:
    _check_keys(table, (*KEYS, *DESCRIPTION), "")
    for key in ("base", "untuned", "tuned"):
        if key not in table:
            raise OptionError(f"the key '{key}' is missing", hint=f"a family needs {EXAMPLE}")
    for key in ("base", "untuned"):
        _texts(table[key], key)
    for name, entry in _typed(table["tuned"], dict, "tuned", "a table of traits").items():
        _check_trait(entry, f"tuned.{name}")
    for key, kind, wanted in (("name", str, "a text"), ("ctx", int, "a whole number")):
        if key in table:
            _typed(table[key], kind, key, wanted)
    for key in DESCRIPTION:
        if key in table and not (key == "gigabytes" and type(table[key]) is int):
            _typed(table[key], *((float, key, "a number") if key == "gigabytes" else (str, key, "a text")))


def _family(table: dict[str, Any], path: Path) -> Family:
    return Family(
        name=table.get("name", path.stem),
        base=_reference(table["base"], "base", path.parent),
        untuned=_reference(table["untuned"], "untuned", path.parent),
        tuned=tuple(_trait(name, entry, path.parent) for name, entry in table["tuned"].items()),
        ctx=table.get("ctx"),
        path=path,
        bases_template=_template(table.get("bases_template")),
        examples=_examples_of(table, path.parent),
        blend=_blend(table),
    )


def _examples_of(table: dict[str, Any], folder: Path) -> int | Path | tuple[Example, ...]:
    choice = table.get("examples", 0)
    if type(choice) is not int:
        _typed(choice, str, "examples", "a number, or a JSONL file in quotes")
    return checked_choice(choice, relative_to=folder)


def _blend(table: dict[str, Any]) -> Blend:
    """The dials of a family file, over those that hold where it names none."""
    dials: dict[str, Any] = {key: _number(table[key], key) for key in ("knowledge", "behaviour") if key in table}
    if "filter" in table:
        given = _typed(table["filter"], dict, "filter", "a table, as in filter = { untuned_floor = -7 }")
        known = tuple(field.name for field in fields(Filter))
        _check_keys(given, known, "filter.")
        dials["filter"] = Filter(**{name: _number(value, f"filter.{name}") for name, value in given.items()})
    return replace(DEFAULT_BLEND, **dials)


def _number(value: Any, key: str) -> float:
    return float(value if type(value) is int else _typed(value, float, key, "a number"))


def _template(text: Any) -> str | None:
    if text is None:
        return None
    wanted = '"plain", or a Jinja template over `messages`'
    template: str = _typed(text, str, "bases_template", wanted)
    if template == "plain":
        return PLAIN_TEMPLATE
    if "messages" not in template:
        raise OptionError(f"the key 'bases_template' is {template!r:.60}", hint=f"it must be {wanted}")
    return template


def _referred(name: str, reference: Sequence[Any]) -> Trait:
    text, weight = reference
    return Trait(name, resolve(text), weight)


def _trait(name: str, entry: Any, folder: Path) -> Trait:
    key = f"tuned.{name}"
    _check_trait(entry, key)
    if not isinstance(entry, dict):
        return Trait(name, _reference(entry, key, folder))
    untuned = _reference(entry["untuned"], f"{key}.untuned", folder) if "untuned" in entry else None
    model = _reference(entry["model"], f"{key}.model", folder)
    return Trait(name, model, float(entry.get("weight", 1.0)), untuned)


def _check_trait(entry: Any, key: str) -> None:
    if not isinstance(entry, dict):
        _texts(entry, key)
        return
    _check_keys(entry, TRAIT_KEYS, f"{key}.")
    if "model" not in entry:
        raise OptionError(f"the key '{key}.model' is missing", hint='write model = "tuned.gguf"')
    for name in ("model", "untuned"):
        if name in entry:
            _texts(entry[name], f"{key}.{name}")
    if type(entry.get("weight", 1.0)) is not int:
        _typed(entry.get("weight", 1.0), float, f"{key}.weight", "a number")


def _texts(value: Any, key: str) -> list[str]:
    """A reference, or several to the same model, of which the first that is here is taken."""
    wanted = "a path in quotes, or a list of them to choose from"
    several = value if isinstance(value, list) and value else [str(value) if isinstance(value, Path) else value]
    return [_typed(text, str, key, wanted) for text in several]


def _reference(value: Any, key: str, folder: Path) -> Reference:
    with _in(key):
        return resolve(first_on_disk(_texts(value, key), relative_to=folder), relative_to=folder)


def _typed(value: Any, kind: type, key: str, wanted: str) -> Any:
    if type(value) is not kind:  # exactly: True is no number of tokens
        raise OptionError(f"the key '{key}' is {value!r}", hint=f"it must be {wanted}")
    return value


def _check_keys(table: dict[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            keys = ", ".join(prefix + name for name in known)
            raise OptionError(f"the key '{prefix}{key}' is unknown", hint=f"the keys are {keys}")


@contextmanager
def _in(place: str | Path) -> Iterator[None]:
    """Put the place, a file or a key in it, before the message of what goes wrong there."""
    try:
        yield
    except (OptionError, ModelFileError) as error:
        raise type(error)(f"{place}: {error.message}", hint=error.hint) from None
