"""Greedy replies that share decodes are those that each blend gives on its own."""

import pytest

from eft_gguf import Blend, ContextError, Filter, OptionError, Sampling
from eft_gguf.blend.equation import coefficients
from eft_gguf.engine.greedy import GreedySequence, greedy_sequences
from tests.engine.test_engine import PROMPT, make, run, sequence  # noqa: F401 (make is a fixture)
from tests.small_members import SMALL, small_members

BLENDS = [
    *(Blend(knowledge, behaviour) for knowledge, behaviour in [(1, 0), (0, 1), (0, 0), (1, 1)]),
    *(Blend(1, behaviour) for behaviour in (0.4, 0.7, 0.9, 1.3, 2.0)),
    *(Blend(knowledge, 1) for knowledge in (0.5, 1.2, 2.0)),
    Blend(filter=Filter(untuned_floor=-3)),
    Blend(0, 1, filter=Filter(base_min_p=0.2)),
    Blend(filter=Filter(base_top_p=0.7)),
    Blend(1.5, 1.5, filter=Filter(tuned_top_p=0.6, untuned_floor=-5)),
]
MESSAGES = [{"role": "user", "content": "What is the capital of Peru?"}]


@pytest.fixture(scope="module", params=SMALL)
def eft(request, tmp_path_factory):
    members = small_members(request.param, tmp_path_factory.mktemp("family"))
    with members.open() as eft:
        yield eft


@pytest.mark.parametrize("prompt", ["The capital of Gabon is", MESSAGES])
def test_each_reply_is_what_complete_gives_under_its_blend(eft, prompt):
    replies = eft.greedy_replies(prompt, BLENDS, max_tokens=24)
    for blend, reply in zip(BLENDS, replies, strict=True):
        alone = eft.complete(prompt, blend=blend, sampling=Sampling(temperature=0, max_tokens=24))
        assert (reply.text, reply.tokens, reply.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
        assert reply.timings.generated_tokens == len(alone.tokens)
        assert reply.timings.prompt_tokens == alone.timings.prompt_tokens
    assert len({reply.text for reply in replies}) >= 4


def greedy(engine, *blends, max_tokens=12):
    own = [GreedySequence(coefficients(blend.knowledge, blend.behaviour, [1]), blend.filter) for blend in blends]
    greedy_sequences(engine, [PROMPT] * 3, own, max_tokens=max_tokens)
    return own


def test_what_blends_read_alike_is_decoded_once(make):  # noqa: F811
    engine = make()
    first = greedy(engine, Blend())[0].generated
    once = engine.ensemble.take_counts()
    assert once == [len(PROMPT) + len(first) - 1] * 3
    engine = make()
    # So small a change turns no choice.
    assert [one.generated for one in greedy(engine, Blend(), Blend(1, 1 + 1e-6), Blend())] == [first] * 3
    assert engine.ensemble.take_counts() == once


def test_branches_decode_only_the_models_that_they_need_and_only_what_parts_them(make):  # noqa: F811
    engine = make()
    base, tuned, blended = greedy(engine, Blend(1, 0), Blend(0, 1), Blend())
    counts = engine.ensemble.take_counts()

    def nodes(*replies):
        """Tokens that were read: all ways into the tree but the last token of each reply, each once."""
        return len({tuple(reply.generated[:end]) for reply in replies for end in range(1, len(reply.generated))})

    assert base.generated != tuned.generated != blended.generated
    assert counts == [len(PROMPT) + nodes(*read) for read in ((base, blended), (blended,), (tuned, blended))]


def test_replies_end_where_the_context_is_full(make):  # noqa: F811
    alone, engine = make(ctx=256), make(ctx=256)
    expected = run(alone, sequence(alone, max_tokens=None))[0]
    reply = greedy(engine, Blend(), max_tokens=None)[0]
    assert reply.generated == expected
    assert reply.finish_reason == ("stop" if expected[-1] in engine.ensemble.end_tokens else "length")


def test_prompts_and_options_are_checked_before_anything_is_decoded(eft):
    with pytest.raises(ContextError, match="the prompt has"):
        eft.greedy_replies("word " * 4000, [Blend()])
    with pytest.raises(OptionError, match="unknown trait 'rude'"):
        eft.greedy_replies("word", [Blend(), Blend(traits={"rude": 1})])
    with pytest.raises(OptionError, match="max_tokens"):
        eft.greedy_replies("word", [Blend()], max_tokens=0)
    assert eft.greedy_replies("word", []) == []
