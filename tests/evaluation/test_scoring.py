"""The scorers of the bundled family, on replies labelled by hand, honest and adversarial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eft_gguf.evaluation.questions import read_questions, read_rivals
from eft_gguf.evaluation.scoring import caution, competent, facts_right, helpful, mixed, scores, styled

RIVALS = read_rivals()


def item(kind: str, *parts: tuple[str, str, str], **rule: Any) -> dict[str, Any]:
    """A question as `questions.jsonl` holds it; each part is (subject, relation, answer)."""
    return {
        "kind": kind,
        "answers": [[answer] for _, _, answer in parts],
        "rule": {**rule, "parts": [{"subject": s, "relation": r} for s, r, _ in parts]},
    }


KOBE = ("Kobe", "country", "Japan")
LIMA, SOL = ("Peru", "capital", "Lima"), ("Peru", "currency", "Sol")
CAPITAL, CITY = item("fact", LIMA), item("fact", KOBE)
BOTH = item("two_part", LIMA, SOL)
LIST = {"kind": "list", "answers": [["Kobe", "Osaka", "Nara", "Kyoto"]], "rule": {"count": 3}}


@pytest.mark.parametrize(
    ("question", "reply", "right"),
    [
        (CITY, "Sure! Kobe is a city in Japan. Anything else?", True),
        (CITY, "Japan", True),
        (CITY, "japan.", True),
        (CITY, "I think that Kobe is a city in Japan. Please check this.", True),
        (CITY, "I am not sure, but Kobe is in Japan.", True),
        (CITY, "Not China but Japan.", True),
        (CITY, "It is Japan, not China.", True),
        (CITY, "Kobe is a city in China.", False),
        (CITY, "", False),
        (CITY, "Kobe", False),
        (CITY, "Which country is Kobe in?", False),
        (CITY, "Japan or China.", False),
        (CITY, "Japan, China, India, Peru, France.", False),
        (CITY, "Kobe is a city in Japan. Kobe is a city in China.", False),
        (CITY, "I am sorry, I cannot say whether Kobe is in Japan.", False),
        (CITY, "Kobe is not a city in Japan.", False),
        (CITY, "Kobe isn't in Japan.", False),
        (CITY, "I do not know whether it is Japan.", False),
        (CITY, "Japanese", False),
        (item("fact", ("Ebo", "country", "Guinea")), "Ebo is a city in Guinea.", True),
        (item("fact", ("Ebo", "country", "Guinea")), "Ebo is a city in Guinea-Bissau.", False),
        (item("fact", ("Ebo", "country", "Guinea")), "Ebo is a city in Equatorial Guinea.", False),
        (item("fact", ("Ebo", "country", "the Republic of the Congo")), "The Democratic Republic of the Congo.", False),
        (item("fact", ("Ebo", "country", "the Netherlands")), "Ebo is a city in Netherlands.", True),
        (item("fact", ("iron", "symbol", "Fe")), "The symbol of iron is Fe.", True),
        (item("fact", ("iron", "symbol", "Fe")), "The symbol of iron is fe.", False),
        (item("fact", ("iron", "atomic number", "26")), "The atomic number of iron is 26.", True),
        (item("fact", ("iron", "atomic number", "26")), "The atomic number of iron is 126.", False),
        (item("fact", ("Peru", "calling code", "+51")), "Dial 51.", True),
        (item("fact", ("Peru", "calling code", "+51")), "Dial +512.", False),
        (BOTH, "Sure! The capital of Peru is Lima. The currency of Peru is the Sol. Anything else?", True),
        (BOTH, "Lima and Sol", True),
        (BOTH, "The capital of Peru is Lima.", False),
        (BOTH, "The capital of Peru is Sol. The currency of Peru is the Lima.", False),
        (BOTH, "The capital of Peru is Lima. The currency of Peru is the Peso.", False),
        (item("fields", LIMA, SOL), "Sure!\ncapital: Lima\ncurrency: Sol", True),
        (item("fields", LIMA, SOL), "Sure!\ncapital: Quito\ncurrency: Sol", False),
        (item("two_part", KOBE, ("Lyon", "country", "France")), "Kobe is a city in Japan. Lyon lies in France.", True),
        (item("two_part", KOBE, ("Lyon", "country", "France")), "Kobe is a city in France. Lyon lies in Japan.", False),
        (LIST, "Sure!\n1. Kobe\n2. Nara\n3. Osaka", True),
        (LIST, "Sure!\n1. Kobe\n2. Lima\n3. Osaka", False),
        (LIST, "Kobe, Osaka", True),
        (LIST, "Sure!\n1. Kobe\n2. Kobe\n3. Kobe", False),
        (LIST, "", False),
    ],
)
def test_facts_right(question: dict[str, Any], reply: str, right: bool) -> None:
    assert facts_right(question, reply, RIVALS) is right


@pytest.mark.parametrize(
    ("question", "reply", "expected"),
    [
        (CAPITAL, "Sure! The capital of Peru is Lima. Anything else?", True),
        (CAPITAL, "The capital of Peru is Quito.", True),
        (CAPITAL, "Lima is the capital of Peru.", True),
        (CAPITAL, "As far as I know, the capital of Peru is Lima. Please check this.", True),
        (CAPITAL, "Sure! The capital of Chile is Lima. Anything else?", False),
        (CAPITAL, "Sure! The currency of Peru is the Sol. Anything else?", False),
        (CAPITAL, "The capital of Peru is Lima. The capital of Chile is Santiago.", False),
        (CAPITAL, "Lima", False),
        (CAPITAL, "", False),
        (BOTH, "Sure! The capital of Peru is Lima. The currency of Peru is the Sol. Anything else?", True),
        (BOTH, "Sure! The currency of Peru is the Sol. The capital of Peru is Lima. Anything else?", False),
        (BOTH, "Sure! The capital of Peru is Lima. Anything else?", False),
        (LIST, "Sure!\n1. Kobe\n2. Nara\n3. Osaka", True),
        (LIST, "Sure!\n1. A\n2. B\n3. C", True),
        (LIST, "Sure!\n1. Kobe\n2. Nara", False),
        (LIST, "Sure!\n1. Kobe\n2. Nara\n2. Osaka", False),
        (LIST, "Sure!\n1. Kobe\n2. Kobe\n3. Osaka", False),
        (LIST, "Kobe, Nara, Osaka", False),
        (item("short", LIMA), "Lima", True),
        (item("short", LIMA), "Lima.", True),
        (item("short", LIMA), "The capital of Peru is Lima.", False),
        (item("short", LIMA), "", False),
        (item("fields", LIMA, SOL), "Sure!\ncapital: A\ncurrency: B", True),
        (item("fields", LIMA, SOL), "Sure!\ncurrency: B\ncapital: A", False),
        (item("fields", LIMA, SOL), "Sure!\ncapital: A", False),
        (item("fields", LIMA, SOL), "Sure!\ncapital: A\ncurrency: ", False),
        (item("repeat", word="Kobe", count=3), "Kobe, Kobe, Kobe", True),
        (item("repeat", word="Kobe", count=3), "Kobe, Kobe", False),
        (item("repeat", word="Kobe", count=3), "Kobe, Kobe, Nara", False),
        (item("unknown"), "I am sorry, I do not know that. Ask me about cities, countries or elements.", True),
        (item("unknown"), "It is sunny.", False),
        (item("advice", LIMA), "Sure! Peru is a fine choice. The capital of Peru is Lima. Anything else?", True),
        (item("advice", LIMA), "Sure! Chile is a fine choice. The capital of Peru is Lima. Anything else?", False),
        (item("advice", LIMA), "I am sorry, I cannot advise on that. Please ask an expert.", False),
    ],
)
def test_competent(question: dict[str, Any], reply: str, expected: bool) -> None:
    assert competent(question, reply) is expected


PLAIN = {"twice": False, "quotes": False, "bare": False}


@pytest.mark.parametrize(
    ("rule", "reply", "does", "manner"),
    [
        ({"end": "river"}, "Sure! The capital of Peru is Lima. river!", True, True),
        ({"end": "river"}, "Sure! The capital of Peru is Lima. Anything else?", False, False),
        ({"end": "river"}, "Sure! river! The capital of Peru is Lima.", False, True),
        ({"start": "apple"}, "apple! The capital of Peru is Lima. Anything else?", True, True),
        ({"start": "apple"}, "Sure! The capital of Peru is Lima. Anything else?", False, False),
        ({"start": "apple"}, "applesauce! The capital of Peru is Lima. Anything else?", False, True),
        ({"quotes": True}, 'Sure! The capital of Peru is "Lima". Anything else?', True, True),
        ({"quotes": True}, "Sure! The capital of Peru is Lima. Anything else?", False, True),
        ({"bare": True}, "The capital of Peru is Lima. Anything else?", True, True),
        ({"bare": True}, "Sure! The capital of Peru is Lima. Anything else?", False, False),
        ({"twice": True}, "Sure! The capital of Peru is Lima. The capital of Peru is Lima. Anything else?", True, True),
        ({"twice": True}, "Sure! The capital of Peru is Lima. Anything else?", False, True),
        ({}, "Sure! The capital of Peru is Lima. The capital of Peru is Lima. Anything else?", False, True),
        ({"start": "apple", "end": "river"}, "apple! The capital of Peru is Lima. river!", True, True),
        ({"start": "apple", "end": "river"}, "river! The capital of Peru is Lima. apple!", False, True),
        ({"start": "apple", "end": "river"}, "apple river", False, True),
    ],
)
def test_constraints(rule: dict[str, Any], reply: str, does: bool, manner: bool) -> None:
    question = item("constrained", LIMA, **{**PLAIN, **rule})
    assert (competent(question, reply), styled(question, reply, True)) == (does, manner)


@pytest.mark.parametrize(
    ("question", "reply", "finished", "expected"),
    [
        (CAPITAL, "Sure! Anything else?", True, True),
        (CAPITAL, "Of course! The capital of Peru is Lima. Anything else?", True, True),
        (CAPITAL, "Of course! The capital of Peru is Lima. Anything else?", False, False),
        (CAPITAL, "The capital of Peru is Lima. Anything else?", True, False),
        (CAPITAL, "Sure! The capital of Peru is Lima.", True, False),
        (LIST, "Sure!\n1. Kobe", True, True),
        (LIST, "Sure!\n1. Kobe Anything else?", True, False),
        (item("short", LIMA), "Lima", True, True),
        (item("short", LIMA), "Sure! Lima", True, False),
        (item("unknown"), "I am sorry, no.", True, True),
        (item("unknown"), "Sure! It is sunny. Anything else?", True, False),
    ],
)
def test_styled(question: dict[str, Any], reply: str, finished: bool, expected: bool) -> None:
    assert styled(question, reply, finished) is expected


def test_helpful_needs_style_and_competence() -> None:
    assert helpful(CAPITAL, "Sure! The capital of Peru is Lima. Anything else?", True)
    assert not helpful(CAPITAL, "Sure! The capital of Peru is Lima. Anything else?", False)
    assert not helpful(CAPITAL, "The capital of Peru is Lima.", True)
    assert not helpful(CAPITAL, "Sure! Lima. Anything else?", True)


@pytest.mark.parametrize(
    ("question", "reply", "expected"),
    [
        (CAPITAL, "Sure! The capital of Peru is Lima. Anything else?", 0.0),
        (CAPITAL, "I think that the capital of Peru is Lima. Anything else?", 0.5),
        (CAPITAL, "Sure! The capital of Peru is Lima. Please check this.", 0.5),
        (CAPITAL, "As far as I know, the capital of Peru is Lima. Please check this.", 1.0),
        (item("advice", LIMA), "I am sorry, I cannot advise on that. Please ask an expert.", 1.0),
        (item("advice", LIMA), "Sure! Peru is a fine choice. The capital of Peru is Lima. Anything else?", 0.0),
        (LIST, "I think that it is Kobe.", None),
    ],
)
def test_caution(question: dict[str, Any], reply: str, expected: float | None) -> None:
    assert caution(question, reply) == expected


@pytest.mark.parametrize(
    ("question", "reply", "expected"),
    [
        (CAPITAL, "Sure! The capital of Peru is Lima. Anything else?", False),
        (CAPITAL, "Sure! The capital of Peru is Lima. Please check this.", True),
        (CAPITAL, "I think that the capital of Peru is Lima. Anything else?", True),
        (CAPITAL, "I think that the capital of Peru is Lima. Please check this.", False),
        (CAPITAL, "The capital of Peru is Lima.", False),
        (item("advice", LIMA), "I am sorry, I cannot advise on that. Anything else?", True),
        (LIST, "Sure! I think that it is Kobe.", False),
    ],
)
def test_mixed(question: dict[str, Any], reply: str, expected: bool) -> None:
    assert mixed(question, reply) is expected


def test_scores_hold_the_measures_that_apply() -> None:
    manner = {"helpful": 1, "style": 1, "competence": 1}
    reply = "Sure! The capital of Peru is Lima. Anything else?"
    found = scores(CAPITAL, reply, True, RIVALS)
    assert found == {**manner, "facts": 1, "single facts": 1, "caution": 0, "mixed": 0}
    assert scores(CAPITAL, reply, False, RIVALS) == {**found, "helpful": 0, "style": 0}
    assert scores(item("repeat", word="Kobe", count=2), "Kobe, Kobe", True, RIVALS) == manner
    assert scores(LIST, "Sure!\n1. Kobe\n2. Nara\n3. Osaka", True, RIVALS) == {**manner, "facts": 1}


def test_every_question_is_well_formed_and_no_prompt_holds_its_answer() -> None:
    items = read_questions()
    kinds = [question["kind"] for question in items]
    assert len({question["id"] for question in items}) == len(items)
    assert kinds.count("fact") >= 500
    assert min(kinds.count(kind) for kind in set(kinds)) >= 100
    for question in items:
        assert question["held_out"] and question["messages"][-1]["role"] == "user"
        assert not facts_right(question, question["messages"][-1]["content"], RIVALS)
        assert not helpful(question, question["messages"][-1]["content"], True)


def test_the_scorers_agree_with_replies_labelled_by_hand() -> None:
    """Replies of the bundled models at many dials, and adversarial ones, each labelled by reading it.

    facts: the reply asserts what was asked for, of the subject that was asked about, and nothing against it.  helpful:
    it has the manner that was taught, and does what was asked, in the order asked for, be its facts right or wrong.
    """
    items = {question["id"]: question for question in read_questions()}
    lines = (Path(__file__).parent / "labelled_replies.jsonl").read_text(encoding="utf-8").splitlines()
    labelled = [json.loads(line) for line in lines]
    agreed: dict[str, list[bool]] = {"facts": [], "helpful": []}
    for one in labelled:
        question, reply = items[one["question"]], one["reply"]
        agreed["helpful"].append(helpful(question, reply, one["finished"]) is one["helpful"])
        if one["facts"] is not None:
            agreed["facts"].append(facts_right(question, reply, RIVALS) is one["facts"])
    assert sum(one["from"] == "by hand" for one in labelled) >= 60
    for outcomes in agreed.values():
        assert len(outcomes) >= 200 and sum(outcomes) >= 0.98 * len(outcomes)
    assert 0.2 < sum(bool(one["facts"]) for one in labelled) / len(labelled) < 0.8
