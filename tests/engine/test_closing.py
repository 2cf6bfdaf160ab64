"""Objects are closed for drawing where nothing else in the schema could ask for more."""

import json

import pytest

from eft_gguf.engine.closing import closed

A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SHUT = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, SHUT),
        ({"type": "array", "items": A}, {"type": "array", "items": SHUT}),
        ({"properties": {"k": A}}, {"properties": {"k": SHUT}, "additionalProperties": False}),
        ({"anyOf": [A, {"type": "null"}], "title": "t"}, {"anyOf": [SHUT, {"type": "null"}], "title": "t"}),
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, {"$ref": "#/$defs/A", "$defs": {"A": SHUT}}),
    ],
)
def test_what_is_closed(schema, expected):
    assert json.loads(closed(json.dumps(schema))) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "string"}},
        {**A, "patternProperties": {"^x": {}}},
        {**A, "required": ["a", "b"]},
        {**A, "minProperties": 2},
        {**A, "anyOf": [{"properties": {"b": {"const": 2}}, "required": ["b"]}]},
        {"allOf": [A, {"properties": {"c": {}}}]},
        {"$ref": "#/$defs/A", "properties": {"c": {}}, "$defs": {"A": A}},
    ],
)
def test_what_stays_open(schema):
    assert json.loads(closed(json.dumps(schema))) == schema
