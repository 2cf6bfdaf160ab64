"""What a JSON schema, a regular expression or a grammar lets a reply be: right, or refused by name."""

import json

import pytest

from eft_gguf import OptionError, Sampling
from eft_gguf.engine.constraint import constraint_of, follows
from eft_gguf.engine.llama import Model


@pytest.fixture(scope="module")
def model(tiny):
    model = Model(tiny.base, vocab_only=True)
    yield model
    model.close()


def allowed(model, text, **options):
    """Whether a reply may be `text`, whole."""
    constraint = constraint_of(Sampling(**options), model, model.n_vocab)
    try:
        return follows(constraint, model, text)
    finally:
        constraint.close()


def obj(properties, required=(), **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


ONE, TWO = {"const": 1}, {"const": 2}
NODE = {"type": "object", "properties": {"v": ONE, "kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}}
TALK = obj({"who": {"$ref": "#/$defs/WHO"}}, ["who"])
ADDED = [json.dumps({"op": "add", "value": value}) for value in (1, "x", None, [1], {"k": 1})]

CASES = [
    # lengths, bounds and formats beside enum
    ({"type": "string", "enum": ["red"], "minLength": 1, "maxLength": 12}, ['"red"'], ['"blue"']),
    ({"type": "integer", "enum": [1, 3, 5], "minimum": 1, "maximum": 5}, ["1", "3", "5"], ["2", "4"]),
    ({"type": "integer", "const": 3, "minimum": 1}, ["3"], ["4"]),
    ({"type": "string", "format": "date", "maxLength": 10}, ['"2024-01-31"'], ['"hello"']),
    # allOf
    (
        obj({"c": {"allOf": [{"$ref": "#/$defs/C"}], "default": "a"}}, ["c"], **{"$defs": {"C": {"enum": ["a"]}}}),
        ['{"c":"a"}'],
        ['{"c":{}}'],
    ),
    ({"type": "object", "properties": {"a": ONE}, "allOf": [{"required": ["a"]}]}, ['{"a":1}'], ["{}"]),
    (obj({"a": ONE}, ["a", "x"]), ['{"a":1,"x":0}'], ['{"a":1}']),
    (
        {
            "allOf": [{"$ref": "#/$defs/B"}, obj({"y": TWO}, ["y"])],
            "$defs": {"B": obj({"x": {"type": "integer", "minimum": 10}}, ["x"])},
        },
        ['{"x":10,"y":2}'],
        ['{"x":1,"y":2}', '{"x":10}'],
    ),
    ({"allOf": [obj({"a": ONE, "b": TWO}, ["a"])]}, ['{"a":1}', '{"a":1,"b":2}'], ["{}"]),
    # alternatives beside properties, references beside bounds
    (obj({"a": ONE}, ["a"], anyOf=[obj({"b": TWO}, ["b"])]), ['{"a":1,"b":2}'], ['{"b":2}', '{"a":1}']),
    ({"$ref": "#/$defs/A", "maximum": 3, "$defs": {"A": {"type": "integer"}}}, ["3"], ["9"]),
    # recursion
    ({"$defs": {"Node": NODE}, "$ref": "#/$defs/Node"}, ['{"v":1,"kids":[]}', '{"v":1,"kids":[{"v":1}]}'], ["[]"]),
    (
        obj({"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, ["v", "next"]),
        ['{"v":1,"next":{"v":2,"next":null}}'],
        ['{"v":1,"next":2}'],
    ),
    (
        obj(
            {"tree": {"$ref": "#/$defs/tree_node"}},
            ["tree"],
            **{"$defs": {"tree_node": obj({"kids": {"type": "array", "items": {"$ref": "#/$defs/tree_node"}}})}},
        ),
        ['{"tree":{"kids":[{"kids":[]}]}}'],
        ['{"tree":{"kids":[1]}}'],
    ),
    # names that are used twice
    (
        obj({"status": {"const": "open"}, "code": {"$ref": "#/$defs/status"}}, ["status", "code"])
        | {"$defs": {"status": {"const": 7}}},
        ['{"status":"open","code":7}'],
        ['{"status":"open","code":"open"}'],
    ),
    (
        obj({"a": {"$ref": "#/$defs/A/item"}, "b": {"$ref": "#/$defs/B/item"}}, ["a", "b"])
        | {"$defs": {"A": {"item": {"const": "a"}}, "B": {"item": {"const": "b"}}}},
        ['{"a":"a","b":"b"}'],
        ['{"a":"a","b":"a"}'],
    ),
    (obj({"root": {"type": "integer", "minimum": 1, "maximum": 9}}, ["root"]), ['{"root":5}'], ["5", '{"root":10}']),
    # what must be escaped
    ({"const": "C:\\dir"}, [json.dumps("C:\\dir")], ['"C:\\dir"']),
    ({"const": "a\nb"}, [json.dumps("a\nb")], ['"a\nb"']),
    ({"const": 'say "hi"'}, [json.dumps('say "hi"')], ['"say "hi""']),
    ({"enum": ["👍"]}, ['"👍"'], ['"x"']),
    (obj({'a"b': ONE}, ['a"b']), ['{"a\\"b":1}'], ['{"a"b":1}']),
    # patterns
    ({"type": "string", "pattern": r"^\d{3}-\d{4}$"}, ['"123-4567"'], ['"12a-4567"']),
    (
        {"type": "string", "pattern": r"^(https:\/\/)?example\.org$"},
        ['"https://example.org"', '"example.org"'],
        ['"exampleXorg"'],
    ),
    ({"type": "string", "pattern": "[0-9]"}, ['"a1b"'], ['"abc"']),
    ({"type": "string", "pattern": r"^C:\\[a-z]+$"}, [r'"C:\\dir"'], [r'"C:\dir"']),
    ({"type": "string", "pattern": '^[a-z"]+$'}, [r'"a\"b"'], ['"a"b"']),
    ({"type": "string", "pattern": "^$|^ab?$"}, ['""', '"a"', '"ab"'], ['"b"', '"xa"']),
    ({"type": "string", "pattern": "^a|b$"}, ['"ax"', '"xb"'], ['"xa"']),
    ({"type": "string", "pattern": "^a|b\\\\$"}, ['"ax"', r'"xb\\"'], ['"xb"']),
    # no type
    (obj({"op": {"const": "add"}, "value": {"description": "new"}}, ["op", "value"]), ADDED, ['{"op":"add"}']),
    ({}, ["1", "null", '{"v":1}', '["a"]'], ["x", ""]),
    # lengths
    ({"type": "string", "maxLength": 2001}, ['"a"'], [f'"{"a" * 2002}"']),
    ({"type": "string", "minLength": 2500}, [f'"{"a" * 2500}"'], ['"a"']),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 2000}, ["[1]"], ['["a"]']),
    ({"type": "array", "maxItems": 3}, ["[1,2,3]"], ["[1,2,3,4]"]),
    # references behind references, alternatives with null
    (
        {
            "type": "array",
            "items": {"$ref": "#/$defs/TALK"},
            "$defs": {"TALK": TALK, "WHO": {"enum": ["Ann", "Bo"], "type": "string"}},
        },
        ['[{"who":"Bo"}]'],
        ['[{"who":"Cy"}]', '[{"who":{}}]'],
    ),
    ({"anyOf": [{"enum": ["c", "f"], "type": "string"}, {"type": "null"}]}, ["null", '"c"'], ['"x"']),
    ({"type": "object", "properties": {}}, ["{}"], ["[]"]),
    # branches that exclude each other
    (
        {"oneOf": [obj({"k": {"const": "a"}}, ["k"]), obj({"k": {"const": "b"}, "n": ONE}, ["k"])]},
        ['{"k":"a"}', '{"k":"b","n":1}'],
        ['{"k":"c"}', '{"k":"b","n":2}'],
    ),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ['["a",1]'], ["[1]"]),
    ({"type": "integer", "multipleOf": 3}, ["3"], ["4"]),
    ({"type": "number", "minimum": 0}, ["0.5"], ["-1"]),
    ({"type": "number", "minimum": 2, "exclusiveMinimum": True}, ["2.5"], ["2"]),
    ({"type": "string", "format": "no-standard-has-this"}, ['"x"'], ["1"]),
    (obj({"a": ONE}, unevaluatedProperties=False), ["{}", '{"a":1}'], ['{"b":1}']),
    ({"type": "string"}, ['""', '"a b"', '"a\\nb"', '"é日𝄞"'], ['"a\nb"', '"\x1f"', '"a\\xb"', '"a', "a"]),
    ({"type": "array", "items": ONE, "x-guidance": {"lenient": True}}, ["[1,1]"], ["[2]"]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), CASES)
def test_a_schema_is_kept(model, schema, right, wrong):
    for text in right:
        assert allowed(model, text, json_schema=schema), text
    for text in wrong:
        assert not allowed(model, text, json_schema=json.dumps(schema)), text


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        (obj({"a": {"not": {"type": "string"}}}), "not"),
        (obj({"a": {}}, minProperties=1), "minProperties"),
        ({"if": {}, "then": {}}, "if"),
        ({"contains": {}}, "contains"),
        (obj({}, dependentRequired={"a": ["b"]}), "dependentRequired"),
        (obj({}, propertyNames={"maxLength": 1}), "propertyNames"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"divisibleBy": 3}, "divisibleBy"),
        ({"type": "string", "format": "uri-reference"}, "format"),
        ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
        ({"type": "string", "pattern": "[a-z&&[b]]"}, "pattern"),
        ({"const": 12345678901234567890}, "const"),
        ({"$ref": "#/x", "x": {"items": {"not": {}}}}, "not"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(model, schema, keyword):
    with pytest.raises(OptionError, match=f"json_schema has '{keyword}', which cannot be followed"):
        allowed(model, "1", json_schema=schema)


@pytest.mark.parametrize(
    "schema",
    [
        *("{", "[1]", "3", {"type": "banana"}, {"$ref": "#/nowhere"}, {"properties": 3}, '{"const": NaN}'),
        *({"type": "integer", "minimum": low, "maximum": 2} for low in (3, "1")),
        {"type": "string", "minLength": 5, "maxLength": 2},
        '{"items":' * 500 + "{}" + "}" * 500,
    ],
)
def test_what_is_no_schema_is_refused(model, schema):
    with pytest.raises(OptionError, match="no JSON schema"):
        allowed(model, "1", json_schema=schema)


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        ({"regex": "(yes|no)!?"}, ["yes", "no!"], ["", "maybe", "yes!!"]),
        ({"lark": 'start: "a" b\nb: /[0-9]+/'}, ["a1", "a42"], ["a", "b1"]),
        ({"grammar": 'root ::= "a" [0-9]+'}, ["a1", "a42"], ["a", "b1"]),
    ],
)
def test_other_constraints(model, options, right, wrong):
    for text in right:
        assert allowed(model, text, **options), text
    for text in wrong:
        assert not allowed(model, text, **options), text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "("}, "regex cannot be followed"),
        ({"regex": "(((a{100}){100}){100}){100}"}, "repetitions written out"),
        ({"json_schema": {"pattern": "(((a{100}){100}){100}){100}"}}, "repetitions written out"),
        ({"lark": "start: nowhere"}, "lark cannot be followed"),
        ({"grammar": 'root ::= "a"{3,2}'}, "at least 3 and at most 2"),
        ({"grammar": 'root ::= (("a"{1,1000}){1,1000}){1,1000}'}, "too large"),
        (
            {
                "grammar": "root ::= a0\n"
                + "".join(f'a{i} ::= a{i + 1} "x" | a{i + 1} "y"\n' for i in range(18))
                + 'a18 ::= "x"'
            },
            "too large",
        ),
    ],
)
def test_pathological_ones_are_refused_at_once(model, options, message):
    with pytest.raises(OptionError, match=message):
        allowed(model, "a", **options)


def test_masks_roll_back_and_say_what_is_forced(model):
    constraint = constraint_of(Sampling(json_schema=obj({"a": {"type": "integer"}}, ["a"])), model, model.n_vocab)
    first = constraint.mask().copy()
    tokens = model.tokenize('{"a":1', special=False)
    for token in tokens:
        assert constraint.mask()[token] and constraint.allows(token)
        constraint.take(token)
    assert not constraint.may_end() and not constraint.mask()[model.eos]
    constraint.roll_back(len(tokens))
    assert (constraint.mask() == first).all()
    for token in [*tokens, *model.tokenize("}", special=False)]:
        constraint.take(token)
    assert constraint.may_end() and constraint.mask()[model.eos]
    constraint.take(model.eos)
    assert not constraint.mask().any()
    constraint.roll_back(1)
    assert constraint.mask()[model.eos]
