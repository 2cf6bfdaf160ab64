"""From a request's fields to the blend and the sampling that the engine is asked for."""

from __future__ import annotations

import secrets
from dataclasses import asdict, fields, replace
from typing import Any

from eft_gguf.blend.equation import Blend
from eft_gguf.engine.sampling import CONSTRAINTS, Sampling
from eft_gguf.server.errors import ApiError
from eft_gguf.server.protocol import About
from eft_gguf.server.schema import Dials, RequestDials, SamplingFields
from eft_gguf.server.settings import Settings

SEEDS = 2**32


def model_names(settings: Settings, about: About) -> dict[str, Blend]:
    """What clients may ask for by name: the blend, and each model of its corners, as NAME:MODEL."""
    name = settings.name or "".join(c if c.isalnum() or c in "-._" else "-" for c in about.name)
    names = {name: replace(about.blend, **settings.dials), f"{name}:base": Blend(1, 0), f"{name}:untuned": Blend(0, 0)}
    for trait in about.traits:
        names[f"{name}:{trait}"] = Blend(0, 1, {other: float(other == trait) for other in about.traits})
    return names


def named(model: str, names: dict[str, Blend]) -> tuple[str, Blend]:
    """The name that answers to the one asked for, and its blend.

    Clients have a model's name in their settings and are to need no other change than the address: a name that is none
    here gets the blend, and the response says so. One with a model of the family that does not exist is refused.
    """
    model = model.removesuffix(":latest")
    blend = next(iter(names))
    if model.startswith(f"{blend}:") and model not in names:
        raise ApiError(
            404, f"there is no model {model}; there are {', '.join(names)}", param="model", code="model_not_found"
        )
    found = model if model in names else blend
    return found, names[found]


def shown(body: RequestDials | None, model: str, names: dict[str, Blend]) -> bool:
    """Whether a request's base and untuned are shown examples: as it says, else where it asks for the blend."""
    return model == next(iter(names)) if body is None or body.examples is None else body.examples


def blend_of(dials: Dials | None, blend: Blend, about: About) -> Blend:
    """`blend` with the dials that a request names. Raises OptionError for values out of range, and unknown traits."""
    if dials is None:
        return blend
    given: dict[str, Any] = {
        name: value for name in ("knowledge", "behaviour") if (value := getattr(dials, name)) is not None
    }
    if dials.traits:
        given["traits"] = {**blend.traits, **dials.traits}
    if dials.filter:
        given["filter"] = replace(blend.filter, **dials.filter.model_dump(exclude_unset=True))
    changed = replace(blend, **given)
    changed.weights(about.traits)
    return changed


def plain_dials(blend: Blend, about: About) -> dict[str, Any]:
    """All dials as they are in force, for JSON."""
    filter = {name: value for name, value in asdict(blend.filter).items() if value is not None}
    traits = {**about.traits, **blend.traits}
    return {"knowledge": blend.knowledge, "behaviour": blend.behaviour, "traits": traits, "filter": filter}


_SAME = [
    f.name for f in fields(Sampling) if f.name in SamplingFields.model_fields and f.name not in ("stop", "logit_bias")
]


def sampling_of(body: SamplingFields, defaults: Sampling, **more: Any) -> Sampling:
    """`defaults` with what a request says, and `more`; with a seed in any case. Raises OptionError."""
    given: dict[str, Any] = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    if body.logit_bias is not None:
        given["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
    if body.stop is not None:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    given.pop("json_schema", None)
    given |= {name: value for name, value in more.items() if value is not None}
    constraints = [*constraints_of(body), *((name, given.pop(name)) for name in CONSTRAINTS if name in given)]
    if len(constraints) > 1:
        asked = " and ".join(name for name, _ in constraints)
        raise ApiError(400, f"a reply follows one constraint, and this request has several: {asked}")
    if constraints:
        # What a request asks for takes the place of what the server was started with.
        given |= {name: None for name in CONSTRAINTS} | dict(constraints)
    seed = given.get("seed", defaults.seed)
    given["seed"] = secrets.randbelow(SEEDS) if seed is None else seed % SEEDS
    return replace(defaults, **given)


def constraints_of(body: SamplingFields) -> list[tuple[str, Any]]:
    """What a request's fields of other servers say that a reply must follow, in the words of Sampling."""
    found: list[tuple[str, Any]] = [
        ("json_schema", body.json_schema),
        ("json_schema", body.guided_json),
        ("regex", body.guided_regex),
        _grammar(body.guided_grammar),
    ]
    if (asked := body.structured_outputs) is not None:
        found += [("json_schema", asked.json_), ("regex", asked.regex), _grammar(asked.grammar)]
        found += [("json_schema", {"type": "object"} if asked.json_object else None)]
        found += [("regex", "|".join(map(_literal, asked.choice)) if asked.choice else None)]
    return [(name, value) for name, value in found if value is not None]


def _grammar(text: str | None) -> tuple[str, str | None]:
    return ("grammar" if text and "::=" in text else "lark"), text


def _literal(text: str) -> str:
    """A regular expression of one text."""
    return "".join(c if c.isalnum() or ord(c) > 127 or c in " _" else f"\\x{ord(c):02x}" for c in text)


def seeds(sampling: Sampling, n: int) -> list[Sampling]:
    """The sampling of each of `n` replies: their seeds follow one another."""
    return [replace(sampling, seed=((sampling.seed or 0) + number) % SEEDS) for number in range(n)]
