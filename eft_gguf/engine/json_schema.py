"""JSON schemas made ready for llguidance: what it would leave out in silence is refused, easy cases are rewritten.

A reply must never break the schema without a word. llguidance refuses most keywords that it cannot follow; refused here
are the rest, by name. What means the same in other words is put into those that it knows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from eft_gguf.engine.disjoint import disjoint
from eft_gguf.engine.patterns import anchored
from eft_gguf.errors import OptionError

LONGEST, DEEPEST = 2_000_000, 100
"""Characters, and brackets in one another: llguidance's reader of JSON ends at 128."""
EXACT = 2**53
"""Whole numbers beyond it have no exact place among the floats that JSON's readers use."""

_NOT_FOLLOWED = (
    *("not", "if", "contains", "propertyNames", "dependencies", "dependentRequired", "dependentSchemas"),
    *("$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"),
    # of drafts before the fourth
    *("divisibleBy", "disallow", "extends"),
)
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_WITH = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
"""Keywords that say nothing without another."""
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
_OTHER_FORMATS = frozenset(
    {
        *("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"),
        *("json-pointer", "relative-json-pointer", "regex"),
    }
)
"""The standard's, which cannot be followed. Names that are not the standard's mean nothing, by its own word."""


def prepared(schema: str | Mapping[str, Any]) -> str:
    """The schema as a text that says the same and holds nothing that would be left out. Raises OptionError."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(dict(schema), allow_nan=False)
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text):,} characters, and {LONGEST:,} are the most")
        if _depth(text) > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} brackets in one another")
        given = json.loads(text, parse_constant=_no_constant)
        if not isinstance(given, dict):
            raise ValueError(f"a schema is an object, not {given!r:.40}")
        # Text may hold halves of characters, which UTF-8 cannot write.
        return json.dumps(_Preparation(given).root(), allow_nan=False)
    except OptionError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise OptionError(
            f"json_schema is no JSON schema that can be followed: {reason:.160}",
            hint='for example {"type": "object", "properties": {"answer": {"type": "string"}}}',
        ) from None


def refused(keyword: str, why: str = "") -> OptionError:
    """The error that names a keyword."""
    return OptionError(
        f"json_schema has {keyword!r}, which cannot be followed here while a reply is drawn{why and f': {why}'}",
        hint="leave it out, and check the reply for it",
    )


class _Preparation:
    """Walks through all schemas in a schema, and through what its references name."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._seen: set[int] = set()

    def root(self) -> dict[str, Any]:
        changed: dict[str, Any] = self._schema(self._given)
        return changed

    def _schema(self, schema: Any) -> Any:
        """The schema in place: references lead to the same objects."""
        if not isinstance(schema, dict) or id(schema) in self._seen:
            return schema
        self._seen.add(id(schema))
        _require_followed(schema)
        _reword(schema)
        for key in _BY_NAME:
            if key in schema:
                if not isinstance(schema[key], dict):
                    raise ValueError(f"{key} must be an object, not {schema[key]!r:.40}")
                for name in list(schema[key]):
                    schema[key][name] = self._schema(schema[key][name])
        if patterns := schema.get("patternProperties"):
            schema["patternProperties"] = {anchored(name): value for name, value in patterns.items()}
            if len(schema["patternProperties"]) < len(patterns):
                raise refused("patternProperties", "two patterns say the same")
        for key in _LISTS + _SINGLE:
            if isinstance(schema.get(key), list):
                schema[key] = [self._schema(part) for part in schema[key]]
            elif isinstance(schema.get(key), dict):
                schema[key] = self._schema(schema[key])
        if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/"):
            self._schema(self._named(reference))
        if isinstance(parts := schema.get("oneOf"), list) and self._apart(parts):
            # Of branches that exclude each other a value that fits one fits one only.
            schema["allOf"] = [*schema.get("allOf", []), {"anyOf": schema.pop("oneOf")}]
        return schema

    def _apart(self, parts: list[Any]) -> bool:
        return len(parts) < 200 and all(disjoint(one, other, self._named) for one, other in combinations(parts, 2))

    def _named(self, reference: str) -> Any:
        """What a reference within the schema names; None where that is nothing."""
        found: Any = self._given
        for part in unquote(reference.removeprefix("#")).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict):
                found = found.get(key)
            else:
                return None
        return found


def _require_followed(schema: dict[str, Any]) -> None:
    """Raise OptionError for what would be left out; take out what says nothing."""
    for key, other in _WITH.items():
        if key in schema and other not in schema:
            del schema[key]
    for key in ("unevaluatedProperties", "unevaluatedItems"):
        # Beside keywords that evaluate nothing further it is additionalProperties, or items.
        plain = "additionalProperties" if key == "unevaluatedProperties" else "items"
        if key in schema and not {"allOf", "anyOf", "oneOf", "$ref", "if", plain} & schema.keys():
            schema[plain] = schema.pop(key)
    for key in ("dependencies", "dependentRequired", "dependentSchemas"):
        if schema.get(key) == {}:
            del schema[key]
    for key in ("propertyNames", "unevaluatedProperties", "unevaluatedItems"):
        if schema.get(key) is True or schema.get(key) == {}:
            del schema[key]
    if "uniqueItems" in schema:
        most = schema.get("maxItems")
        if schema["uniqueItems"] is True and not (isinstance(most, int) and most <= 1):
            raise refused("uniqueItems")
        del schema["uniqueItems"]
    for key in _NOT_FOLLOWED:
        if key in schema:
            raise refused(key)
    if schema.get("format") in _OTHER_FORMATS:
        raise refused("format", repr(schema["format"]))
    for key in ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        if key in schema:
            _require_exact(key, schema[key])


def _require_exact(key: str, value: Any) -> None:
    if isinstance(value, int) and abs(value) > EXACT:
        raise refused(key, f"the number {value!r:.40} is too large to be exact")
    if isinstance(value, float) and (not math.isfinite(value) or abs(value) > EXACT):
        raise refused(key, f"the number {value!r} is too large to be exact")
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _require_exact(key, part)


def _reword(schema: dict[str, Any]) -> None:
    # An option of llguidance's own, by which a schema could have keywords left out.
    schema.pop("x-guidance", None)
    if "format" in schema and schema["format"] not in _FORMATS:
        del schema["format"]
    for bound in ("minimum", "maximum"):
        # The fourth draft has true and false there, for the bound beside it.
        exclusive = "exclusive" + bound.capitalize()
        if isinstance(schema.get(exclusive), bool):
            excluded = schema.pop(exclusive)
            if excluded and bound in schema:
                schema[exclusive] = schema.pop(bound)
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = anchored(pattern)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r'"(?:\\.|[^"\\])*"|[\[{\]}]', text):
        if len(bracket) == 1:
            depth += 1 if bracket in "[{" else -1
            deepest = max(deepest, depth)
    return deepest
