"""Replies under a JSON schema, whatever the dials are: steering stays on, and each reply validates."""

import json
from collections import Counter

import pytest

from eft_gguf import EFT, Blend, Filter, OptionError, Sampling

QUESTION = [{"role": "user", "content": "Where is Lima?"}]
# Every value has an end: a model that is hot goes on for long where a schema lets it.
SCHEMA = {
    "type": "object",
    "properties": {
        "country": {"enum": ["Peru", "Chile", "Japan"]},
        "note": {"type": "string", "maxLength": 12},
        "sure": {"type": "boolean"},
        "stars": {"type": "integer", "minimum": 0, "maximum": 5},
    },
    "required": ["country", "note", "sure", "stars"],
    "additionalProperties": False,
}
BLENDS = [
    Blend(),
    Blend(0, 1),
    Blend(1, 0),
    Blend(1, 0.5),
    Blend(1.3, 1.5),
    Blend(traits={"helpful": 0.5, "cautious": 0.5}),
    Blend(filter=Filter(untuned_floor=-7)),
    Blend(filter=Filter(tuned_top_p=0.95)),
    Blend(filter=Filter(base_min_p=0.05)),
    Blend(filter=Filter(base_top_p=0.9, untuned_floor=-5)),
]


@pytest.fixture(scope="module")
def eft():
    with EFT.bundled(threads=1) as eft:
        yield eft


def test_two_hundred_of_two_hundred_replies_validate(eft):
    jsonschema = pytest.importorskip("jsonschema")
    countries: Counter[tuple[int, str]] = Counter()
    for number in range(200):
        which = number % len(BLENDS)
        sampling = Sampling(temperature=1.2, seed=number, json_schema=SCHEMA)
        reply = eft.complete(QUESTION, blend=BLENDS[which], sampling=sampling)
        assert reply.finish_reason == "stop"
        value = json.loads(reply.text)
        jsonschema.validate(value, SCHEMA)
        countries[which, value["country"]] += 1
    # Steering goes on under the schema: the blend finds the country more often than the tuned model alone.
    assert countries[0, "Peru"] > countries[1, "Peru"]


def test_a_reply_that_is_cut_off_says_so_and_is_the_beginning_of_one(eft):
    sampling = Sampling(temperature=1.2, seed=3, json_schema=SCHEMA)
    whole = eft.complete(QUESTION, sampling=sampling)
    cut = eft.complete(QUESTION, sampling=Sampling(temperature=1.2, seed=3, json_schema=SCHEMA, max_tokens=9))
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert whole.text.startswith(cut.text)
    with pytest.raises(ValueError):
        json.loads(cut.text)


def test_what_a_reply_may_be_is_told_without_making_one(eft):
    valid = '{"country": "Peru", "note": "in Lima", "sure": true, "stars": 5}'
    assert eft.allows(valid, Sampling(json_schema=SCHEMA))
    assert not eft.allows(valid.replace("5", "6"), Sampling(json_schema=SCHEMA))
    assert eft.allows("anything", Sampling())
    with pytest.raises(OptionError, match="'not'"):
        eft.allows("1", Sampling(json_schema={"not": {}}))
