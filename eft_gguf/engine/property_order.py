"""JSON with its properties in the order of a schema: replies are drawn in that order, and a text may have another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_COMBINED = ("allOf", "anyOf", "oneOf")
_DEEPEST = 64


def in_order(text: str, schema: str) -> str | None:
    """The same JSON value, properties that the schema names first and in its order; None where either is no JSON."""
    try:
        value, root = json.loads(text), json.loads(schema)
        return json.dumps(_ordered(value, [root], root, 0), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _ordered(value: Any, schemas: list[Any], root: Any, depth: int) -> Any:
    """`value` in the order of what all of these schemas, and those in them, say of it."""
    if depth > _DEEPEST or not isinstance(value, (dict, list)):
        return value
    known = [one for schema in schemas for one in _parts(schema, root, 0)]
    if isinstance(value, list):
        items = [one["items"] for one in known if isinstance(one.get("items"), dict)]
        return [_ordered(entry, items, root, depth + 1) for entry in value]
    tables = [one["properties"] for one in known if isinstance(one.get("properties"), dict)]
    named = dict.fromkeys(key for table in tables for key in table)
    others = [one["additionalProperties"] for one in known if isinstance(one.get("additionalProperties"), dict)]
    keys = [*(key for key in named if key in value), *(key for key in value if key not in named)]
    return {
        key: _ordered(value[key], [table[key] for table in tables if key in table] or others, root, depth + 1)
        for key in keys
    }


def _parts(schema: Any, root: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """A schema, what it refers to, and what it is combined of."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        yield from _parts(_found(reference, root), root, depth + 1)
    for keyword in _COMBINED:
        several = schema.get(keyword)
        for one in several if isinstance(several, list) else ():
            yield from _parts(one, root, depth + 1)


def _found(reference: str, root: Any) -> Any:
    place = root
    for part in reference.removeprefix("#").strip("/").split("/") if reference.strip("#/") else ():
        part = part.replace("~1", "/").replace("~0", "~")
        place = place.get(part) if isinstance(place, dict) else None
    return place
