"""JSON schema → GBNF: llama-cpp-python's translation, mended where a reply could follow it and still break the schema.

Mended are: strings could hold line breaks as they are, which JSON forbids; bounds of whole numbers, and what stands
beside a list of types, did not count. What no grammar here enforces is refused, rather than left out in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_cpp.llama_grammar import BuiltinRule, SchemaConverter

from eft_gguf.errors import OptionError

CHAR = r"[\x20-\x21\x23-\x5B\x5D-\x7E\x80-\uD7FF\uE000-\U0010FFFF]"
"""What may stand in a string of JSON as it is. Bytes may be drawn that are no Unicode: they would make it longer."""
NO_CHAR = r'"\\\x7F\x00-\x1F\U00110000-\UFFFFFFFF'
ESCAPED = r'"\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})'
DIGITS = 16
"""Of a whole number that has no bound, at most."""

_ANYWHERE = ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
NOT_FOLLOWED = {
    "integer": ("multipleOf",),
    "number": (*_BOUNDS, "multipleOf"),
    "array": ("uniqueItems", "contains", "minContains", "maxContains"),
    "object": ("minProperties", "maxProperties", "patternProperties", "propertyNames", "unevaluatedProperties"),
}
"""By type, the keywords that a reply could break."""


def schema_to_gbnf(schema: Any) -> str:
    """The grammar of a JSON schema: its text, or a mapping.

    Raises OptionError for what is no schema, or holds what cannot be followed.
    """
    try:
        given = json.loads(schema) if isinstance(schema, str) else json.loads(json.dumps(dict(schema)))
        if not isinstance(given, dict):
            raise TypeError(f"a schema is an object, not {given!r:.40}")
        converter = _Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        converter.visit(converter.resolve_refs(given, "schema"), "")
        return str(converter.format_grammar())
    except OptionError:
        raise
    except Exception as error:  # the translator raises many kinds, AssertionError among them
        raise OptionError(
            f"json_schema is no JSON schema that can be followed: {error or type(error).__name__}",
            hint='for example {"type": "object", "properties": {"answer": {"type": "string"}}}',
        ) from None


class _Converter(SchemaConverter):  # type: ignore[misc]
    """The translation; `visit` makes the rule of one part of a schema, and returns the rule's name."""

    def visit(self, schema: Any, name: str) -> str:
        if not isinstance(schema, dict):
            # `true` allows everything.
            return str(super().visit({} if schema is True else schema, name))
        types = schema.get("type")
        if isinstance(types, list) and not {"enum", "const", "$ref", "oneOf", "anyOf"} & schema.keys():
            return str(super().visit({"anyOf": [{**schema, "type": one} for one in types]}, name))
        _require_followed(schema, types)
        if types == "integer" and any(key in schema for key in _BOUNDS):
            return str(self._add_rule(name or "root", f"({_whole_numbers(*_bounds(schema))}) space"))
        if types == "string" and ("minLength" in schema or "maxLength" in schema):
            least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
            char = self._add_primitive("char", BuiltinRule(f"{CHAR} | {ESCAPED}"))
            times = f"{{{least},{'' if most is None else int(most)}}}"
            return str(self._add_rule(name or "root", rf'"\"" {char}{times} "\"" space'))
        return str(super().visit(schema, name))

    def _visit_pattern(self, pattern: str, name: str) -> str:
        # What is "any character", or "none of these", must be one that may stand in a string of JSON.
        return str(super()._visit_pattern(re.sub(r"(?<!\\)\[\^", lambda _: f"[^{NO_CHAR}", pattern), name))

    def _add_rule(self, name: str, rule: str) -> str:
        return str(super()._add_rule(name, CHAR if name == "dot" else rule))

    def _add_primitive(self, name: str, rule: BuiltinRule) -> str:
        return str(super()._add_primitive(name, BuiltinRule(f"{CHAR} | {ESCAPED}") if name == "char" else rule))


def _require_followed(schema: Mapping[str, Any], type: Any) -> None:
    keys = [key for key in (*_ANYWHERE, *NOT_FOLLOWED.get(type, ())) if schema.get(key, False) is not False]
    if type == "string" and "pattern" in schema:
        keys += [key for key in ("minLength", "maxLength") if key in schema]
    if type == "array" and not isinstance(schema.get("items"), dict):
        keys += [key for key in ("minItems", "maxItems") if key in schema]
    if keys:
        raise OptionError(
            f"json_schema has {keys[0]!r}, which cannot be followed here while a reply is drawn",
            hint="leave it out, and check the reply for it",
        )


def _bounds(schema: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The least and the largest whole number that a schema allows; None where there is no bound."""
    for key in _BOUNDS:
        if isinstance(schema.get(key, 0), bool) or not isinstance(schema.get(key, 0), (int, float)):
            raise TypeError(f"{key} must be a number, not {schema[key]!r:.40}")
    least = [-(-schema["minimum"] // 1)] if "minimum" in schema else []
    least += [schema["exclusiveMinimum"] // 1 + 1] if "exclusiveMinimum" in schema else []
    most = [schema["maximum"] // 1] if "maximum" in schema else []
    most += [-(-schema["exclusiveMaximum"] // 1) - 1] if "exclusiveMaximum" in schema else []
    low, high = (int(max(least)) if least else None), (int(min(most)) if most else None)
    if low is not None and high is not None and low > high:
        raise ValueError(f"no whole number lies between {low} and {high}")
    return low, high


def _whole_numbers(low: int | None, high: int | None) -> str:
    """GBNF of the whole numbers from low to high."""
    rules = []
    if low is None or low < 0:
        largest = -1 if high is None else min(high, -1)
        rules.append(f'"-" ({_natural_numbers(-largest, None if low is None else -low)})')
    if high is None or high >= 0:
        rules.append(_natural_numbers(max(low or 0, 0), high))
    return " | ".join(rules)


def _natural_numbers(low: int, high: int | None) -> str:
    """GBNF of the whole numbers from low, 0 or more, to high, without leading zeros."""
    rules = []
    first, last = len(str(low)), DIGITS if high is None else len(str(high))
    for digits in range(first, last + 1):
        start = str(low) if digits == first else "1" + "0" * (digits - 1)
        stop = str(high) if high is not None and digits == last else "9" * digits
        rules.append(_same_length(start, stop))
    return " | ".join(rules)


def _same_length(low: str, high: str) -> str:
    """GBNF of the texts of digits from low to high, which are of equal length."""
    rest = len(low) - 1
    if not rest:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    start, stop = int(low[0]), int(high[0])
    rules = []
    if int(low[1:]):
        rules.append(f'"{start}" ({_same_length(low[1:], "9" * rest)})')
        start += 1
    if high[1:] != "9" * rest:
        rules.append(f'"{stop}" ({_same_length("0" * rest, high[1:])})')
        stop -= 1
    if start <= stop:
        rules.append(f"[{start}-{stop}] [0-9]{{{rest}}}")
    return " | ".join(rules)
