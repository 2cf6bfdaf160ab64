"""Objects closed for drawing: a reply has the properties that its schema names, and no others unless it asks for them.

By the standard an object may have any further properties. A model that is drawn from would go on with them, and hardly
anybody wants that. Only what is surely no looser elsewhere is closed: every reply still follows the schema as it was.
"""

from __future__ import annotations

import json
from typing import Any

_COMBINED = ("allOf", "anyOf", "oneOf", "$ref", "if", "not", "dependentSchemas")
_SAY_MORE = ("additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties", "propertyNames")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("prefixItems",)
_NOTES = (
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "deprecated",
    "$schema",
    "$id",
    "$defs",
    "definitions",
)


def closed(schema: str) -> str:
    """A schema in which objects have no properties but those that it names, wherever that cannot contradict it."""
    root = json.loads(schema)
    # Where parts are combined, what one leaves open another may ask for; a definition may be such a part.
    _close(root, True, not _combines(root))
    return json.dumps(root)


def _combines(schema: Any) -> bool:
    """Whether any schema in this one is combined with another on the same level."""
    if isinstance(schema, list):
        return any(map(_combines, schema))
    if not isinstance(schema, dict):
        return False
    several = "allOf" in schema or (any(key in schema for key in _COMBINED) and len(_meant(schema)) > 1)
    return several or any(map(_combines, schema.values()))


def _meant(schema: dict[str, Any]) -> list[str]:
    """The keywords that say something of a value."""
    return [key for key in schema if key not in _NOTES and not key.startswith("x-")]


def _close(schema: Any, alone: bool, definitions: bool) -> None:
    """alone: nothing else counts for the same value.  definitions: they are nowhere combined."""
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    combined = any(key in schema for key in _COMBINED)
    if isinstance(properties, dict) and alone and not combined and not any(key in schema for key in _SAY_MORE):
        required = schema.get("required", [])
        if isinstance(required, list) and all(name in properties for name in required):
            schema["additionalProperties"] = False
    for one in properties.values() if isinstance(properties, dict) else ():
        _close(one, alone, definitions)
    for keyword in _SINGLE:
        _close(schema.get(keyword), alone, definitions)
    for keyword in _LISTS:
        for one in schema[keyword] if isinstance(schema.get(keyword), list) else ():
            _close(one, alone, definitions)
    for keyword in ("anyOf", "oneOf"):
        for one in schema[keyword] if isinstance(schema.get(keyword), list) else ():
            _close(one, alone and keyword == "anyOf" and _meant(schema) == [keyword], definitions)
    for keyword in ("$defs", "definitions"):
        for one in schema[keyword].values() if isinstance(schema.get(keyword), dict) else ():
            _close(one, definitions, definitions)
