"""A text with its properties in another order than the schema's says the same."""

import json

import pytest

from eft_gguf import EFT, OptionError, Sampling
from eft_gguf.engine.property_order import in_order

NEXT = {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}
N = {"type": "object", "properties": {"v": {"type": "integer"}, "next": NEXT}, "required": ["v", "next"]}
NODE = {"$defs": {"N": N}, "$ref": "#/$defs/N"}
PAIR = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["b"]}


@pytest.mark.parametrize(
    ("schema", "text", "ordered"),
    [
        (PAIR, '{"b": 1, "x": 3, "a": 2}', '{"a": 2, "b": 1, "x": 3}'),
        ({"type": "array", "items": PAIR}, '[{"b": 1, "a": 2}, 3]', '[{"a": 2, "b": 1}, 3]'),
        ({"type": "object", "additionalProperties": PAIR}, '{"k": {"b": 1, "a": 2}}', '{"k": {"a": 2, "b": 1}}'),
        ({"allOf": [PAIR, {"properties": {"c": {}}}]}, '{"c": 1, "b": 1}', '{"b": 1, "c": 1}'),
        (NODE, '{"next": {"next": null, "v": 2}, "v": 1}', '{"v": 1, "next": {"v": 2, "next": null}}'),
        ({"$ref": "#"}, "{}", "{}"),
        (PAIR, "no JSON", None),
    ],
)
def test_properties_are_put_in_the_order_of_the_schema(schema, text, ordered):
    assert in_order(text, json.dumps(schema)) == ordered


def test_a_reply_may_be_a_text_in_another_order_and_never_an_invalid_one(tiny):
    with EFT.open(**tiny.family(), threads=1, speculate="off") as eft:
        for schema in (json.dumps(PAIR), PAIR):
            sampling = Sampling(json_schema=schema)
            assert eft.allows('{"b":1,"a":2}', sampling) and eft.allows('{"a":1,"b":2}', sampling)
            assert not eft.allows('{"a":1}', sampling) and not eft.allows('{"b":"1","a":2}', sampling)
        with pytest.raises(OptionError):
            eft.allows("{}", Sampling(json_schema={"not": {}}))
