"""The grammar of a JSON schema: what follows it is valid, and what it can't promise is refused."""

import json
import re

import pytest

from eft_gguf import OptionError
from eft_gguf.engine.chain import Grammar
from eft_gguf.engine.json_schema import _bounds, _whole_numbers, schema_to_gbnf
from eft_gguf.engine.llama import Model


@pytest.fixture(scope="module")
def model(tiny):
    model = Model(tiny.base, vocab_only=True)
    yield model
    model.close()


def follows(model, schema, text):
    """Whether a reply may be `text`, whole."""
    grammar = Grammar(model, schema_to_gbnf(schema))
    try:
        for token in model.tokenize(text, special=False):
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.allows(model.eos)
    finally:
        grammar.close()


@pytest.mark.parametrize("text", ['"a\nb"', '"a\tb"', '"\x1f"', '"\x7f"', '"a\\xb"', '"\\u12g4"', '"a', "a"])
def test_a_string_holds_nothing_that_json_forbids(model, text):
    assert not follows(model, {"type": "string"}, text)


@pytest.mark.parametrize("text", ['""', '"a b"', '"a\\nb"', '"\\u00e9"', '"\\"\\\\\\/"', '"é日한𝄞"'])
def test_a_string_holds_what_json_allows(model, text):
    json.loads(text)
    assert follows(model, {"type": "string"}, text)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "maxLength": 3}, ['""', '"abc"', '"\\n\\né"'], ['"abcd"']),
        ({"type": "string", "minLength": 2}, ['"ab"', '"abcdefgh"'], ['""', '"a"']),
        ({"type": "string", "minLength": 1, "maxLength": 5000}, ['"a"'], ['""']),
        ({"type": "integer", "minimum": 0, "maximum": 5}, ["0", "5"], ["6", "-1", "05", "10", ""]),
        ({"type": ["string", "null"], "maxLength": 1}, ["null", '"a"'], ['"ab"', "1"]),
        ({"type": "array", "items": {"type": "integer", "minimum": 7}, "maxItems": 1}, ["[]", "[7]"], ["[6]", "[7,7]"]),
        ({"type": "string", "pattern": "^a.[^b]$"}, ['"aéx"'], ['"a"x"', '"ax"x"', '"a\\nx"', '"axb"', '"a\tx"']),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ["2", '"b"']),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, ["true"], ["1"]),
        (
            {"type": "object", "properties": {"not": {"type": "integer", "maximum": 1}}, "required": ["not"]},
            ['{"not":1}', '{ "not": -3}'],
            ['{"not":2}', "{}"],
        ),
    ],
)
def test_keywords_count(model, schema, right, wrong):
    for text in right:
        assert follows(model, schema, text), text
    for text in wrong:
        assert not follows(model, schema, text), text
    assert schema_to_gbnf(json.dumps(schema)) == schema_to_gbnf(schema)


@pytest.mark.parametrize("low", [None, -1000, -105, -20, -1, 0, 1, 9, 10, 37, 100])
@pytest.mark.parametrize("high", [None, -1000, -99, -1, 0, 5, 9, 19, 100, 109, 1000])
def test_bounds_of_whole_numbers_are_kept_exactly(low, high):
    if low is not None and high is not None and low > high:
        return
    # What is used of GBNF here is a regular expression but for its quotes and spaces.
    allowed = re.compile(re.sub(r'[" ]', "", _whole_numbers(low, high)))
    for number in range(-1100, 1101):
        inside = (low is None or number >= low) and (high is None or number <= high)
        assert (allowed.fullmatch(str(number)) is not None) == inside, number
    for text in ("", "-", "00", "01", "-0", "-01", "1 ", "1.0"):
        assert not allowed.fullmatch(text), text


@pytest.mark.parametrize(
    ("schema", "bounds"),
    [
        ({"minimum": 0.5, "maximum": 2.5}, (1, 2)),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 4}, (2, 3)),
        ({"exclusiveMinimum": 1.5, "exclusiveMaximum": 4.5}, (2, 4)),
        ({"minimum": 3, "exclusiveMinimum": 1}, (3, None)),
        ({"maximum": -3}, (None, -3)),
    ],
)
def test_bounds_of_every_kind(schema, bounds):
    assert _bounds(schema) == bounds


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "number", "minimum": 0}, "minimum"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "array", "items": {}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "maxItems": 3}, "maxItems"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "maxLength"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "number", "maximum": 1}}}, "maximum"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(schema, keyword):
    with pytest.raises(OptionError, match=f"json_schema has '{keyword}', which cannot be followed"):
        schema_to_gbnf(schema)
    schema_to_gbnf({"type": "array", "items": {"type": "string"}, "uniqueItems": False})


@pytest.mark.parametrize(
    "schema",
    [
        *("{", "[1]", "3", {"type": "banana"}, {"$ref": "#/nowhere"}),
        *({"type": "integer", "minimum": low, "maximum": 2} for low in (3, "1", True, None)),
    ],
)
def test_what_is_no_schema_is_refused(schema):
    with pytest.raises(OptionError, match="no JSON schema"):
        schema_to_gbnf(schema)
