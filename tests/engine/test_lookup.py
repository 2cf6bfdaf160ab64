import random

from eft_gguf.engine.lookup import Lookup


def test_what_followed_the_last_tokens_before_is_proposed():
    assert Lookup().continuation([1, 2, 3, 4, 5, 9, 1, 2, 3], 3) == [4, 5, 9]


def test_the_latest_place_counts():
    assert Lookup().continuation([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], 2) == [5, 6]


def test_nothing_is_proposed_after_what_never_stood_before():
    for ids in ([], [1], [1, 2, 3], [1, 2, 3, 4, 2, 3, 5]):
        assert Lookup().continuation(ids, 4) == []


def test_a_repetition_goes_on_as_long_as_is_asked_for():
    assert Lookup().continuation([7, 8, 7, 8, 7, 8], 5) == [7, 8, 7, 8, 7]
    assert Lookup().continuation([5, 5, 5, 5], 3) == [5, 5, 5]


def test_a_text_may_grow_between_calls():
    lookup, ids = Lookup(), [1, 2, 3, 4]
    assert lookup.continuation(ids, 2) == []
    ids += [9, 1, 2]
    assert lookup.continuation(ids, 2) == []
    ids += [3]
    assert lookup.continuation(ids, 2) == [4, 9]
    ids += [4]
    assert lookup.continuation(ids, 3) == [9, 1, 2]


def test_a_streak_counts_what_would_have_been_looked_up_rightly():
    lookup = Lookup()
    assert lookup.ahead([1, 2, 3, 4, 5, 1, 2, 3]).streak == 0
    ahead = lookup.ahead([1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    assert ahead.streak == 2 and not ahead.repeats and ahead.proposal() == 1
    for token in (1, 2):
        ahead.push(token)
    assert ahead.repeats and ahead.streak == 4
    ahead.push(9)
    assert not ahead.repeats and ahead.streak == 0 and ahead.proposal() is None
    assert lookup.streak == 2  # looking ahead changes nothing


def test_looking_ahead_finds_what_a_grown_text_will_find():
    rng = random.Random(1)
    for _ in range(300):
        text = [rng.randrange(2) for _ in range(30)]
        cut = rng.randrange(31)
        ahead = Lookup().ahead(text[:cut])
        for token in text[cut:]:
            ahead.push(token)
        grown = Lookup().ahead(text)
        assert (ahead.streak, ahead.proposal()) == (grown.streak, grown.proposal())
