"""Many requests on one engine: what they share is decoded once, none waits for long, none touches another."""

import pytest

from eft_gguf import DecodeError, Sampling
from eft_gguf.blend.equation import coefficients
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.schedule import READ_BESIDE_REPLIES
from tests.engine.test_engine import PROMPT, make, run, sequence  # noqa: F401 (make is a fixture)

SYSTEM = PROMPT[:40]


def say(engine, prompt, tokens=6):
    """A reply to its end, in the middle of whatever else runs, and the sequence."""
    each = sequence(engine, prompt, max_tokens=tokens)
    engine.add(each)
    while each.finish_reason is None:
        engine.step()
    engine.remove(each)
    return each


def expected(make, *prompts, tokens=6):  # noqa: F811
    """What each prompt gets alone, with nothing in the cache."""
    return [say(make(), prompt, tokens).generated for prompt in prompts]


def test_the_tenth_turn_decodes_only_what_is_new(make):  # noqa: F811
    engine, prompt, message = make(ctx=256, sequences=2), SYSTEM, []
    for turn in range(10):
        say(engine, [7, 8, turn + 20], tokens=2)  # another conversation in between
        engine.ensemble.take_counts()
        reply = say(engine, prompt, tokens=4)
        new = len(prompt) if turn == 0 else 1 + len(message)
        assert engine.ensemble.take_counts() == [new + 3] * 3
        assert reply.timings.cached_tokens == len(prompt) - new
        message = [100 + turn, 101, 102]
        prompt = [*prompt, *reply.generated, *message]


@pytest.mark.parametrize("under_way", [False, True], ids=["finished", "under way"])
def test_a_shared_system_prompt_is_decoded_once(make, under_way):  # noqa: F811
    engine = make(sequences=4, batch=16)
    prompts = [[*SYSTEM, 5, number] for number in range(100, 103)]
    first = sequence(engine, prompts[0], max_tokens=20 if under_way else 2)
    engine.add(first)
    while len(first.generated) < 2:
        engine.step()
    assert (first.finish_reason is None) == under_way
    engine.ensemble.take_counts()
    others = [sequence(engine, prompt, max_tokens=6) for prompt in prompts[1:]]
    for each in others:
        engine.add(each)
        assert each.timings.cached_tokens == len(SYSTEM) + 1
    while any(each.finish_reason is None for each in others):
        engine.step()
    read = engine.ensemble.take_counts()[0] - 2 * 5 - (len(first.generated) - 2)
    assert read == 2  # the last token of each
    assert [each.generated for each in others] == expected(make, *prompts[1:])


def test_of_prompts_that_come_together_the_first_reads_for_all(make):  # noqa: F811
    engine = make(sequences=4, batch=16)
    prompts = [[*SYSTEM, 5, number] for number in range(100, 104)]
    several = [sequence(engine, prompt, max_tokens=6) for prompt in prompts]
    assert run(engine, *several) == expected(make, *prompts)
    # The system prompt and the 5 once, then each its own last token, and five of the six that it generates.
    assert engine.ensemble.take_counts() == [len(SYSTEM) + 1 + 4 + 4 * 5] * 3
    assert [each.timings.cached_tokens for each in several] == [0] + [len(SYSTEM) + 1] * 3
    for each in several:
        assert each.timings.prefill_done == each.timings.prefill_total


def test_one_that_waits_for_another_goes_on_where_that_is_cancelled(make):  # noqa: F811
    engine = make(sequences=2, batch=16)
    first, second = (sequence(engine, [*SYSTEM, number], max_tokens=6) for number in (5, 6))
    engine.add(first)
    engine.add(second)
    engine.step()
    engine.remove(first)
    while second.finish_reason is None:
        engine.step()
    assert [second.generated] == expected(make, [*SYSTEM, 6])
    assert engine.ensemble.take_counts()[0] == len(SYSTEM) + 1 + 5


def test_blends_that_need_other_models_share_what_they_can(make):  # noqa: F811
    engine = make(sequences=2, batch=16)
    base_alone = sequence(engine, [*SYSTEM, 5], coefficients(1, 0, [1]), max_tokens=2)
    blended = sequence(engine, [*SYSTEM, 6], max_tokens=6)
    run(engine, base_alone, blended)
    assert [blended.generated] == expected(make, [*SYSTEM, 6])
    assert engine.ensemble.take_counts() == [len(SYSTEM) + 2 + 1 + 5, *[len(SYSTEM) + 1 + 5] * 2]


def test_a_long_prompt_keeps_replies_waiting_for_a_bounded_time(make):  # noqa: F811
    engine = make(sequences=3, batch=128, ctx=512)
    replies = [sequence(engine, PROMPT[:n], max_tokens=40) for n in (5, 9)]
    for each in replies:
        engine.add(each)
    while not all(each.generated for each in replies):
        engine.step()
    engine.ensemble.take_counts()
    long = sequence(engine, [200 - n % 100 for n in range(300)], max_tokens=1)
    engine.add(long)
    done = []
    while long.finish_reason is None:
        before = [len(each.generated) for each in replies]
        engine.step()
        assert [len(each.generated) for each in replies] == [count + 1 for count in before]
        assert max(engine.ensemble.take_counts()) <= READ_BESIDE_REPLIES + 2
        done.append(long.timings.prefill_done)
    # Steady progress, which can be shown: 32 tokens a step.
    assert done == [*range(READ_BESIDE_REPLIES, 300, READ_BESIDE_REPLIES), 300]


def test_a_model_that_catches_up_keeps_others_waiting_no_longer_than_a_prompt_does(make):  # noqa: F811
    engine = make(sequences=2, batch=128, ctx=512)
    prompt = [200 - n % 100 for n in range(150)]
    changing = sequence(engine, prompt, coefficients(1, 0, [1]), max_tokens=30)
    engine.add(changing)
    while not changing.generated:
        engine.step()
    other = sequence(engine, PROMPT[:5], max_tokens=30)
    engine.add(other)
    engine.step()
    changing.factors = coefficients(1, 1, [1])
    engine.ensemble.take_counts()
    for _ in range(4):
        before = len(other.generated)
        engine.step()
        assert len(other.generated) == before + 1
        assert max(engine.ensemble.take_counts()) <= READ_BESIDE_REPLIES + 1
    while changing.finish_reason is None:
        engine.step()
    assert len(changing.generated) == 30


def test_prompts_are_read_first_come_first_served(make):  # noqa: F811
    engine = make(sequences=3, batch=16)
    several = [
        sequence(engine, [start, *PROMPT[:length]], max_tokens=1) for start, length in ((1, 45), (2, 30), (3, 5))
    ]
    for each in several:
        engine.add(each)
    order = []
    while len(order) < 3:
        engine.step()
        order += [each for each in several if each.generated and each not in order]
    assert order == several


def test_a_cancelled_reply_frees_its_place_within_a_step(make):  # noqa: F811
    engine = make(sequences=2, batch=16)
    running, reading, waiting = (sequence(engine, [n, *PROMPT], max_tokens=30) for n in (1, 2, 3))
    for each in (running, reading, waiting):
        engine.add(each)
    while not running.generated:
        engine.step()
    engine.remove(reading)  # in the middle of its prompt
    assert waiting.slot is None
    engine.step()
    assert waiting.slot is not None and waiting.timings.prefill_done > 0
    engine.remove(running)
    assert engine.running == 1
    while waiting.finish_reason is None:
        engine.step()
    assert [waiting.generated] == expected(make, [3, *PROMPT], tokens=30)
    assert running.timings.queue_seconds < waiting.timings.queue_seconds


def test_a_finished_reply_makes_room_before_its_owner_looks(make):  # noqa: F811
    engine = make()
    first, second = (sequence(engine, [n, *PROMPT], max_tokens=3) for n in (1, 2))
    engine.add(first)
    engine.add(second)
    while second.finish_reason is None:
        engine.step()
    assert [first.generated, second.generated] == expected(make, [1, *PROMPT], [2, *PROMPT], tokens=3)


def test_the_failure_of_one_touches_no_other(make, monkeypatch):  # noqa: F811
    engine = make(sequences=3)
    prompts = [[n, *PROMPT] for n in (100, 101, 102)]
    several = [sequence(engine, prompt, max_tokens=12) for prompt in prompts]
    sample, calls = Sampler.sample, []

    def sometimes(self, rows, factors):
        calls.append(self)
        if self is several[1].sampler and calls.count(self) == 5:
            raise DecodeError("the grammar allows no further token")
        return sample(self, rows, factors)

    monkeypatch.setattr(Sampler, "sample", sometimes)
    for each in several:
        engine.add(each)
    while any(each.finish_reason is None for each in several):
        engine.step()
    alone = expected(make, *prompts, tokens=12)
    assert several[1].finish_reason == "error" and "no further token" in str(several[1].error)
    assert [each.generated for each in several] == [alone[0], alone[1][:4], alone[2]]
    assert engine.running == 0
    # Its slot serves the next turn of the same conversation.
    assert say(engine, prompts[1], tokens=12).generated == alone[1]


def test_a_grammar_that_leads_nowhere_ends_its_own_reply_alone(make):  # noqa: F811
    engine = make(sequences=2)
    model = engine.ensemble.tokenizer
    letter = model.tokenize("a", special=False)[0]
    # All that the grammar allows is forbidden.
    doomed = Sampling(temperature=0, grammar='root ::= "a"', logit_bias={letter: float("-inf")})
    first, second = sequence(engine, sampling=doomed), sequence(engine, max_tokens=8)
    engine.add(first)
    engine.add(second)
    while second.finish_reason is None:
        engine.step()
    assert first.finish_reason == "error" and first.generated == []
    assert isinstance(first.error, DecodeError)
    assert [second.generated] == expected(make, PROMPT, tokens=8)


def test_the_conversation_used_least_recently_is_given_up_for_a_new_one(make):  # noqa: F811
    engine = make(sequences=3)
    conversations = [[n, *PROMPT[:20]] for n in range(1, 5)]
    for prompt in conversations[:3]:
        say(engine, prompt)
    for prompt in (conversations[0], conversations[2]):  # the second is the oldest now
        assert say(engine, prompt).timings.cached_tokens == 20
    say(engine, conversations[3])
    kept = {n: say(engine, conversations[n]).timings.cached_tokens for n in (0, 2, 3, 1)}
    assert kept == {0: 20, 2: 20, 3: 20, 1: 0}


def test_a_new_conversation_under_the_same_system_prompt_leaves_the_others_theirs(make):  # noqa: F811
    engine = make(sequences=3)
    first = say(engine, [*SYSTEM, 1])
    say(engine, [*SYSTEM, 2])
    turn = [*SYSTEM, 1, *first.generated, 9]
    assert say(engine, turn).timings.cached_tokens == len(turn) - 2
    # Made again, a reply stays in its place: the third slot is still empty.
    assert say(engine, turn).timings.cached_tokens == len(turn) - 1
    assert sum(not any(slot.cached) for slot in engine._slots) == 1
