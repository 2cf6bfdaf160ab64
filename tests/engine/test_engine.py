import numpy as np
import pytest

from eft_gguf import ContextError, EFTError, QueueFullError, Sampling
from eft_gguf.blend.equation import blend_logits, coefficients
from eft_gguf.engine.engine import Engine
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.sequence import Sequence
from eft_gguf.models.family import family_from_references

GREEDY = Sampling(temperature=0)
BOTH = coefficients(1, 1, [1])
PROMPT = list(range(40, 90))


class Counting(Ensemble):
    """Keeps count of the tokens given to llama.cpp, by member."""

    def decode(self, member, parts):
        self.counts = getattr(self, "counts", [0] * len(self.names))
        self.counts[member] += sum(len(part.tokens) for part in parts)
        return super().decode(member, parts)

    def take_counts(self):
        counts, self.counts = self.counts, [0] * len(self.names)
        return counts


@pytest.fixture
def make(tiny):
    opened = []

    def make(batch=64, sequences=1, ctx=128, ensemble=Counting, **options):
        family = family_from_references(**tiny.family())
        opened.append(
            ensemble(
                family.members,
                family.untuned_of,
                ctx=ctx,
                batch=batch,
                sequences=sequences,
                hardware=Hardware(threads=1, gpu_layers=0),
                progress=lambda line: None,
            )
        )
        return Engine(opened[-1], **options)

    yield make
    for each in opened:
        each.close()


def sequence(engine, prompt=PROMPT, factors=BOTH, max_tokens=12, sampling=GREEDY):
    sampler = Sampler(sampling, engine.ensemble.tokenizer, engine.ensemble.n_vocab)
    return Sequence([prompt] * len(factors), factors, sampler, max_tokens=max_tokens)


def run(engine, *sequences):
    for each in sequences:
        engine.add(each)
    while any(each.finish_reason is None for each in sequences):
        engine.step()
    for each in sequences:
        engine.remove(each)
    return [each.generated for each in sequences]


def test_each_token_is_the_one_that_the_equation_gives(make, tiny):
    engine = make()
    generated = run(engine, sequence(engine))[0]
    from eft_gguf.engine.llama import Context, Model

    rows = []
    for path in (tiny.base, tiny.untuned, tiny.tuned):
        model = Model(path)
        context = Context(model, ctx=128, batch=64, sequences=1, outputs=64, threads=1)
        ids = PROMPT + generated[:-1]
        context.batch.add(ids, position=0, sequence=0, outputs=len(generated))
        context.decode()
        rows.append([row.copy() for row in context.rows()])
        context.close()
        model.close()
    expected = [int(np.argmax(blend_logits([member[i] for member in rows], BOTH))) for i in range(len(generated))]
    assert generated == expected


@pytest.mark.parametrize("batch", [1, 7, 16])
def test_prefill_in_chunks_gives_the_same_reply(make, batch):
    whole, chunked = make(), make(batch=batch)
    assert run(whole, sequence(whole)) == run(chunked, sequence(chunked))


def test_several_sequences_in_one_step_give_what_each_gives_alone(make):
    prompts = [PROMPT, PROMPT[::-1], PROMPT[:3], [*PROMPT, *PROMPT[:20]]]
    together, alone = make(sequences=4, batch=32), make()
    expected = [run(alone, sequence(alone, prompt))[0] for prompt in prompts]
    assert run(together, *(sequence(together, prompt) for prompt in prompts)) == expected


def test_sequences_may_join_at_any_step_and_blend_in_their_own_way(make):
    engine, alone = make(sequences=2), make()
    first, second = sequence(engine), sequence(engine, PROMPT[:9], coefficients(0.3, 2, [1]))
    engine.add(first)
    for _ in range(4):
        engine.step()
    assert len(first.generated) == 4
    engine.add(second)
    while first.finish_reason is None or second.finish_reason is None:
        engine.step()
    expected = [sequence(alone), sequence(alone, PROMPT[:9], coefficients(0.3, 2, [1]))]
    assert [first.generated, second.generated] == [run(alone, each)[0] for each in expected]


def test_a_model_with_factor_zero_decodes_nothing(make):
    engine = make()
    generated = run(engine, sequence(engine, factors=coefficients(1, 0, [1])))[0]
    # The last sampled token is never decoded.
    assert engine.ensemble.take_counts() == [len(PROMPT) + len(generated) - 1, 0, 0]


def test_a_dial_changed_in_mid_reply_decodes_nothing_again_but_lets_a_model_catch_up(make):
    engine = make()
    running = sequence(engine, factors=coefficients(1, 0, [1]), max_tokens=10)
    engine.add(running)
    for _ in range(5):
        engine.step()
    assert engine.ensemble.take_counts() == [len(PROMPT) + 4, 0, 0]
    running.factors = coefficients(1, 0.5, [1])
    engine.step()
    assert engine.ensemble.take_counts() == [1, len(PROMPT) + 5, len(PROMPT) + 5]
    running.factors = coefficients(1.2, 1, [1])
    engine.step()
    assert engine.ensemble.take_counts() == [1, 1, 1]


def test_a_prompt_that_begins_alike_decodes_only_what_is_new(make):
    engine = make()
    first = sequence(engine)
    reply = run(engine, first)[0]
    engine.ensemble.take_counts()
    longer = sequence(engine, [*PROMPT, *reply, 7, 8, 9], max_tokens=1)
    expected = run(make(), sequence(engine, [*PROMPT, *reply, 7, 8, 9], max_tokens=1))
    assert run(engine, longer) == expected
    # Of the reply's last token only the logits were used: it counts as new.
    assert engine.ensemble.take_counts() == [4, 4, 4]
    assert (longer.timings.cached_tokens, longer.timings.prefill_total) == (len(PROMPT) + 11, 4)


def test_the_same_prompt_again_decodes_its_last_token_only(make):
    engine = make()
    first, second = sequence(engine), sequence(engine)
    replies = run(engine, first), run(engine, second)
    assert replies[0] == replies[1]
    assert second.timings.cached_tokens == len(PROMPT) - 1


def test_a_conversation_finds_the_slot_that_knows_it(make):
    engine = make(sequences=2)
    other = PROMPT[::-1]
    run(engine, sequence(engine))
    run(engine, sequence(engine, other))
    for prompt in (PROMPT, other):
        again = sequence(engine, prompt)
        run(engine, again)
        assert again.timings.cached_tokens == len(prompt) - 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_an_interrupt_in_mid_step_leaves_a_consistent_cache(make, monkeypatch, error, member):
    engine, untouched = make(), make()
    running = sequence(engine)
    engine.add(running)
    for _ in range(3):
        engine.step()
    decode = engine.ensemble.decode

    def interrupted(m, parts):
        seconds = decode(m, parts)  # llama.cpp has decoded, the engine does not know it yet
        if m == member:
            raise error
        return seconds

    monkeypatch.setattr(engine.ensemble, "decode", interrupted)
    with pytest.raises(error):
        engine.step()
    monkeypatch.setattr(engine.ensemble, "decode", decode)
    while running.finish_reason is None:
        engine.step()
    assert running.generated == run(untouched, sequence(untouched))[0]


def test_a_full_context_ends_the_reply(make):
    engine = make(ctx=64)
    generated = run(engine, sequence(engine, max_tokens=None, sampling=Sampling(temperature=0)))[0]
    assert len(PROMPT) + len(generated) <= 64


def test_what_does_not_fit_is_refused_with_both_numbers(make):
    engine = make(ctx=32)
    with pytest.raises(ContextError, match="prompt has 50 tokens, the context holds 32"):
        engine.add(sequence(engine))
    with pytest.raises(EFTError, match="empty"):
        engine.add(sequence(engine, []))
    with pytest.raises(ContextError, match="text has 50 tokens, the context holds 32"):
        engine.score(PROMPT, BOTH)


def test_the_queue_is_bounded_and_first_come_first_served(make):
    engine, alone = make(sequences=2, queue=2), make()
    prompts = [PROMPT[shift:] + PROMPT[:shift] for shift in range(5)]
    several = [sequence(engine, prompt, max_tokens=3 + shift) for shift, prompt in enumerate(prompts)]
    for each in several[:4]:
        engine.add(each)
    assert (engine.running, engine.waiting) == (2, 2)
    with pytest.raises(QueueFullError, match="all 2 sequences are in use and 2 wait"):
        engine.add(several[4])
    began = []
    while any(each.finish_reason is None for each in several[:4]):
        engine.step()
        began += [each for each in several if each.generated and each not in began]
    assert began[2:] == several[2:4]
    run(engine, several[4])  # there is room again
    expected = [sequence(alone, prompt, max_tokens=3 + shift) for shift, prompt in enumerate(prompts)]
    assert [each.generated for each in several] == [run(alone, each)[0] for each in expected]
    assert (engine.running, engine.waiting) == (0, 0)


def test_one_that_waits_may_be_taken_back(make):
    engine, alone = make(), make()
    first, second, third = (sequence(engine, max_tokens=4) for _ in range(3))
    for each in (first, second, third):
        engine.add(each)
    engine.remove(second)
    while third.finish_reason is None:
        engine.step()
    assert second.generated == []
    assert [first.generated, third.generated] == run(alone, sequence(alone, max_tokens=4)) * 2


def test_scores_are_the_log_probabilities_of_the_equation(make):
    engine = make()
    by_member, blended = engine.score(PROMPT, coefficients(1.2, 0.7, [1]))
    assert by_member.shape == (3, 49)
    assert np.isfinite(blended).all()
    alone = engine.score(PROMPT, coefficients(0, 0, [1]))[1]
    np.testing.assert_allclose(by_member[1], alone, atol=1e-12)


def test_scoring_leaves_a_reply_in_another_slot_alone(make):
    engine, alone = make(sequences=2), make()
    running = sequence(engine)
    engine.add(running)
    engine.step()
    engine.score(PROMPT[::-1], BOTH)
    while running.finish_reason is None:
        engine.step()
    assert running.generated == run(alone, sequence(alone))[0]


def test_logits_after_given_ids_leave_a_running_sequence_alone_and_decode_only_what_is_new(make):
    engine, alone = make(sequences=2, batch=16), make()
    running = sequence(engine)
    engine.add(running)
    engine.step()
    engine.ensemble.take_counts()
    first = [row.copy() for row in engine.logits_after({0: PROMPT, 2: PROMPT})]
    assert engine.ensemble.take_counts() == [len(PROMPT), 0, len(PROMPT)]
    engine.logits_after({0: [*PROMPT[:20], 7, 8]})
    assert engine.ensemble.take_counts() == [2, 0, 0]
    for row, expected in zip(first, alone.logits_after({0: PROMPT, 2: PROMPT}), strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-2)
    while running.finish_reason is None:
        engine.step()
    assert [running.generated] == run(alone, sequence(alone))


def test_logits_after_given_ids_need_a_free_sequence(make):
    engine = make()
    engine.add(sequence(engine))
    with pytest.raises(EFTError, match="all 1 sequences are in use"):
        engine.logits_after({0: PROMPT})
