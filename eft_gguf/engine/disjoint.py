"""Can a value follow two JSON schemas at once? Only where it surely cannot is the answer that they are disjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_KINDS = {"null", "boolean", "integer", "number", "string", "array", "object"}
DEEPEST = 6

Named = Callable[[str], Any]
"""What a reference within the schema names."""


def disjoint(one: Any, other: Any, named: Named, depth: int = 0) -> bool:
    """Whether no value follows both. False where that is not plain to see."""
    if one is False or other is False:
        return True
    one, other = _followed(one, named), _followed(other, named)
    if not isinstance(one, dict) or not isinstance(other, dict) or depth > DEEPEST:
        return False
    for left, right in ((one, other), (other, one)):
        for key in ("anyOf", "oneOf"):
            branches = left.get(key)
            if isinstance(branches, list) and all(disjoint(part, right, named, depth + 1) for part in branches):
                return True
        branches = left.get("allOf")
        if isinstance(branches, list) and any(disjoint(part, right, named, depth + 1) for part in branches):
            return True
    if not _kinds(one) & _kinds(other):
        return True
    mine, theirs = _values(one), _values(other)
    if mine is not None and theirs is not None and not any(_same(a, b) for a in mine for b in theirs):
        return True
    return _kinds(one) & _kinds(other) == {"object"} and _objects_apart(one, other, named, depth)


def _objects_apart(one: dict[str, Any], other: dict[str, Any], named: Named, depth: int) -> bool:
    for left, right in ((one, other), (other, one)):
        theirs = right.get("properties", {})
        closed = right.get("additionalProperties") is False and "patternProperties" not in right
        for name in _required(left):
            if closed and name not in theirs:
                return True
            mine = left.get("properties", {}).get(name, True)
            if name in theirs and disjoint(mine, theirs[name], named, depth + 1):
                return True
    return False


def _followed(schema: Any, named: Named) -> Any:
    """The schema that a reference stands for, where there is nothing beside it."""
    for _ in range(DEEPEST):
        if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
            return schema
        if not reference.startswith("#"):
            return None
        schema = named(reference)
    return None


def _required(schema: dict[str, Any]) -> list[str]:
    names = schema.get("required", [])
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _kinds(schema: dict[str, Any]) -> set[str]:
    """The kinds of value that may follow it; whole numbers are numbers."""
    given = schema.get("type")
    kinds = {given} if isinstance(given, str) else set(given) if isinstance(given, list) else set(_KINDS)
    if (values := _values(schema)) is not None:
        kinds &= {_kind(value) for value in values} | (
            {"integer"} if any(_kind(v) == "number" for v in values) else set()
        )
    return kinds | ({"integer"} if "number" in kinds else set()) if kinds <= _KINDS else set(_KINDS)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The only values that may follow it, where they are listed."""
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else None


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON's values: true is not 1. Containers that may be equal count as such."""
    return _kind(one) == _kind(other) and bool(one == other)
