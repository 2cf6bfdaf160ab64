"""Speculation: what is said stays distributed as the blend is, whatever is drafted, and whatever happens in a round."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from eft_gguf import EFT, Blend, DecodeError, Filter, OptionError, Sampling
from eft_gguf.blend.compiled import drawing_kernels
from eft_gguf.blend.equation import coefficients
from eft_gguf.engine.draft_length import LIMIT, Costs
from eft_gguf.engine.engine import Engine
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.hardware import Hardware
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.speculation import Speculation, checked_setting
from eft_gguf.models.family import family_from_references
from tests.engine.exactness import REPEATING, SETTINGS, measure, opened
from tests.engine.test_engine import PROMPT, run, sequence
from tests.tiny_architectures import write_architecture

SIGNIFICANCE = 1e-4
"""Of each test of a distribution; seeds are fixed, so that it passes always or never on one machine."""
TOKENS = int(os.environ.get("EFT_GGUF_EXACTNESS_TOKENS", "6000"))
"""For each setting. docs/benchmarks.md has the outcome for 50,000."""

NEAR_TUNED = coefficients(0.15, 1, [1])
"""A blend near the tuned model: some drafts are taken and some refused."""
GREEDY = Sampling(temperature=0)
CHEAP = np.array([0.0, *(1.0 + 0.01 * n for n in range(LIMIT + 1))])
DEAR = np.arange(LIMIT + 2.0)


class Guarded(Ensemble):
    """Fails where a decode would end the process."""

    def decode(self, member, parts):
        assert sum(len(part.tokens) for part in parts) <= self.batch
        assert sum(part.outputs for part in parts) <= self.outputs
        assert all(part.position + len(part.tokens) <= self.ctx for part in parts)
        return super().decode(member, parts)


@pytest.fixture
def make(tiny):
    opened = []

    def make(length=None, batch=64, sequences=1, ctx=128, costs=None, rolls_back=(True, True, True)):
        family = family_from_references(**tiny.family())
        opened.append(
            Guarded(
                family.members,
                family.untuned_of,
                ctx=ctx,
                batch=batch,
                sequences=sequences,
                hardware=Hardware(threads=1, gpu_layers=0),
                progress=lambda line: None,
            )
        )
        if length is None and costs is None:
            return Engine(opened[-1])
        speculation = Speculation(opened[-1], length=length, costs=costs, rolls_back=rolls_back)
        return Engine(opened[-1], speculation=speculation)

    yield make
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def bundled() -> Iterator[EFT]:
    with EFT.bundled(speculate="off", sequences=4) as eft:
        yield eft


def caches_hold_what_was_said(engine, *sequences):
    for slot, each in zip(engine._slots, sequences, strict=False):
        for member, cached in enumerate(slot.cached):
            assert cached == each.ids[member][: len(cached)]


# ---- the distribution


@pytest.mark.parametrize("name", list(SETTINGS))
def test_replies_are_distributed_as_the_blend_is(name):
    setting = SETTINGS[name]
    with opened(setting) as eft:
        outcome = measure(eft, setting, TOKENS)
    assert outcome.drafted > outcome.tokens / 3 and 0.05 < outcome.acceptance < 0.999
    assert outcome.p_value > SIGNIFICANCE, outcome


@pytest.mark.parametrize("name", ["temperature 1", "filter of untuned", "lengths by sureness"])
def test_the_test_of_the_distribution_sees_drafts_that_are_taken_unchecked(name, monkeypatch):
    def careless(p_ids, p, q_ids, q, drafted, u_accept, u_draw, dense):
        return drafted, True, 1.0

    monkeypatch.setattr(drawing_kernels, "verify", careless)
    setting = SETTINGS[name]
    with opened(setting) as eft:
        assert measure(eft, setting, 2000).p_value < 1e-12


# ---- greedy: the same tokens


@pytest.mark.parametrize("length", [1, 2, 5, LIMIT])
@pytest.mark.parametrize("factors", [NEAR_TUNED, coefficients(1, 1, [1]), coefficients(1, 0, [1])])
def test_greedy_replies_are_those_without_drafts(make, length, factors):
    plain, engine = make(), make(length)
    expected, each = sequence(plain, factors=factors, max_tokens=40), sequence(engine, factors=factors, max_tokens=40)
    assert run(engine, each) == run(plain, expected)
    assert each.timings.generated_tokens == len(each.generated) and each.timings.rounds <= len(each.generated)
    caches_hold_what_was_said(engine, each)


def test_drafts_that_are_taken_save_decodes(make):
    alike = coefficients(0, 1, [1])
    engine, plain = make(4), make()
    # The blend is the tuned model, but a filter has the base decoded beside it.
    several = [sequence(each, factors=alike, max_tokens=31) for each in (engine, plain)]
    for each in several:
        each.filter = Filter(base_min_p=1e-30)
    replies = [run(engine, several[0]), run(plain, several[1])]
    assert replies[0] == replies[1]
    timings = several[0].timings
    if len(several[0].generated) == 31:
        assert (timings.rounds, timings.drafted, timings.accepted) == (7, 24, 24)
        assert timings.acceptance == 1.0 and timings.mean_length == pytest.approx(24 / 7)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_several_sequences_draft_in_common_batches_as_far_as_there_is_room(make, batch):
    engine, alone = make(8, batch=max(batch, 3), sequences=3), make()
    prompts = [PROMPT, PROMPT[::-1], PROMPT[:3], [*PROMPT, *PROMPT[:20]]]
    expected = [run(alone, sequence(alone, prompt, NEAR_TUNED, 20))[0] for prompt in prompts]
    several = [sequence(engine, prompt, NEAR_TUNED, 20) for prompt in prompts]
    assert run(engine, *several) == expected


def test_blends_without_a_common_drafter_and_members_at_other_positions_share_a_step(make):
    blends = [NEAR_TUNED, coefficients(1, 0, [1]), coefficients(0, 0, [1]), coefficients(0.3, -0.5, [1])]
    engine, alone = make(4, sequences=4), make()

    def each_of(target):
        found = [sequence(target, PROMPT[: 9 + shift], factors, 24) for shift, factors in enumerate(blends)]
        found[0].ids[0] = [5, 6, *found[0].ids[0]]  # its base reads another prompt
        return found

    expected = [run(alone, each)[0] for each in each_of(alone)]
    assert run(engine, *each_of(engine)) == expected


def test_a_prompt_is_read_beside_rounds(make):
    engine, alone = make(4, sequences=2, ctx=256), make(ctx=256)
    first, late = sequence(engine, PROMPT, NEAR_TUNED, 40), sequence(engine, PROMPT * 3, NEAR_TUNED, 5)
    engine.add(first)
    for _ in range(3):
        engine.step()
    engine.add(late)
    while first.finish_reason is None or late.finish_reason is None:
        engine.step()
    expected = [sequence(alone, PROMPT, NEAR_TUNED, 40), sequence(alone, PROMPT * 3, NEAR_TUNED, 5)]
    assert [first.generated, late.generated] == [run(alone, each)[0] for each in expected]


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 7])
def test_a_round_ends_at_max_tokens(make, max_tokens):
    plain, engine = make(), make(LIMIT)
    expected = run(plain, sequence(plain, factors=NEAR_TUNED, max_tokens=max_tokens))
    each = sequence(engine, factors=NEAR_TUNED, max_tokens=max_tokens)
    assert run(engine, each) == expected and each.finish_reason in ("length", "stop")


@pytest.mark.parametrize("ctx", [52, 53, 60, 64])
def test_a_round_ends_where_the_context_is_full(make, ctx):
    plain, engine = make(ctx=ctx), make(LIMIT, ctx=ctx)
    several = [sequence(each, factors=NEAR_TUNED, max_tokens=None) for each in (plain, engine)]
    assert run(plain, several[0]) == run(engine, several[1])
    assert several[0].finish_reason == several[1].finish_reason


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.3},
        {"frequency_penalty": 0.7, "penalty_window": 8},
        {"dry_multiplier": 0.8},
        {"logit_bias": {70: 3.0}},
        {"logprobs": 2},
        {"grammar": 'root ::= ("a" | "b" | "c" | " t")+'},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_looks_back_or_constrains_sees_the_tokens_that_were_taken(make, options):
    sampling = Sampling(temperature=0, **options)
    plain, engine = make(), make(5)
    several = [sequence(each, factors=NEAR_TUNED, max_tokens=24, sampling=sampling) for each in (plain, engine)]
    assert run(plain, several[0]) == run(engine, several[1])
    chosen = [[found.chosen for found in each.alternatives] for each in several]
    assert (
        len(chosen[0]) == len(chosen[1]) == (24 if "logprobs" in options else 0) or several[0].finish_reason == "stop"
    )
    assert chosen[1] == pytest.approx(chosen[0], abs=1e-3)


def test_text_that_repeats_is_looked_up(bundled):
    alone, options = Blend(1, 0), Sampling(temperature=0, max_tokens=30)
    expected = bundled.complete(REPEATING, blend=alone, sampling=options)
    with EFT.bundled(speculate=6) as eft:
        reply = eft.complete(REPEATING, blend=alone, sampling=options)
    assert reply.tokens == expected.tokens
    assert reply.timings.accepted >= 3 and reply.timings.rounds < len(reply.tokens) - 2


# ---- seeds


@pytest.mark.parametrize("factors", [NEAR_TUNED, coefficients(1, 0, [1])], ids=["blend", "base alone"])
@pytest.mark.parametrize(
    "options",
    [{"length": 1}, {"length": 3}, {"length": 8}, {"costs": CHEAP}, {"costs": DEAR}],
    ids=["1", "3", "8", "costs", "dear"],
)
def test_a_seed_gives_the_same_tokens_whatever_is_drafted_and_beside_whomever(make, factors, options):
    if "costs" in options:
        options = {"costs": Costs([options["costs"], 0.1 * options["costs"], 0.1 * options["costs"]])}
    drawn = Sampling(temperature=0.9, top_k=0, min_p=0.0, seed=3, logit_bias={PROMPT[n]: 20.0 for n in range(2)})
    prompts = [[1, *PROMPT], [2, *PROMPT[:4] * 8], [3, *PROMPT[:2] * 20]]  # two of them repeat themselves
    alone = make(2)
    expected = [run(alone, sequence(alone, prompt, factors, 40, drawn))[0] for prompt in prompts]
    engine = make(**options, sequences=3)
    several = [sequence(engine, prompt, factors, 40, drawn) for prompt in prompts]
    assert run(engine, *several) == expected
    if "length" in options:  # of base alone they can only have been looked up
        assert any(each.timings.drafted for each in several)


# ---- what goes wrong


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", range(1, 8))
def test_an_interrupt_in_mid_round_leaves_a_consistent_cache(make, monkeypatch, error, at):
    engine, untouched = make(4), make()
    running = sequence(engine, factors=NEAR_TUNED, max_tokens=24)
    engine.add(running)
    for _ in range(2):
        engine.step()
    decode, calls = engine.ensemble.decode, []

    def interrupted(member, parts):
        seconds = decode(member, parts)  # llama.cpp has decoded, the engine does not know it yet
        calls.append(member)
        if len(calls) == at:
            raise error
        return seconds

    monkeypatch.setattr(engine.ensemble, "decode", interrupted)
    with pytest.raises(error):
        while running.finish_reason is None:
            engine.step()
    monkeypatch.setattr(engine.ensemble, "decode", decode)
    caches_hold_what_was_said(engine, running)
    while running.finish_reason is None:
        engine.step()
    assert running.generated == run(untouched, sequence(untouched, factors=NEAR_TUNED, max_tokens=24))[0]


@pytest.mark.parametrize("method", ["check", "draft"])
def test_the_failure_of_one_in_mid_round_touches_no_other(make, monkeypatch, method):
    engine, alone = make(4, sequences=3), make()
    prompts = [[n, *PROMPT] for n in (100, 101, 102)]
    several = [sequence(engine, prompt, NEAR_TUNED, 16) for prompt in prompts]
    original, calls = getattr(Sampler, method), []

    def sometimes(self, *arguments):
        calls.append(self)
        if self is several[1].sampler and calls.count(self) == 6:
            raise DecodeError("no further token")
        return original(self, *arguments)

    monkeypatch.setattr(Sampler, method, sometimes)
    for each in several:
        engine.add(each)
    while any(each.finish_reason is None for each in several):
        engine.step()
    expected = [run(alone, sequence(alone, prompt, NEAR_TUNED, 16))[0] for prompt in prompts]
    assert several[1].finish_reason == "error" and "no further token" in str(several[1].error)
    assert several[1].generated == expected[1][: len(several[1].generated)]
    assert [several[0].generated, several[2].generated] == [expected[0], expected[2]]
    again = sequence(engine, prompts[1], NEAR_TUNED, 16)
    assert run(engine, again) == [expected[1]]


# ---- the length


def test_costs_decide_whether_and_how_much_is_drafted(make):
    alike = coefficients(0.01, 1, [1])
    for curve, drafts in ((CHEAP, True), (DEAR, False)):
        engine = make(costs=Costs([curve, curve, 0.01 * curve]))
        each = sequence(engine, factors=alike, max_tokens=40)
        run(engine, each)
        assert (each.timings.drafted > 0) == drafts
        assert (each.timings.not_drafted == "they would not pay") != drafts
        assert each.timings.gain == pytest.approx(1.0) or each.timings.gain > 1.3


def test_where_drafts_are_refused_none_are_made(make):
    engine = make(costs=Costs([CHEAP, CHEAP, 0.3 * CHEAP]))
    each = sequence(engine, factors=coefficients(3, 0.05, [1]), max_tokens=60)
    run(engine, each)
    late = sequence(engine, each.ids[0][:100], coefficients(3, 0.05, [1]), 20)
    assert each.acceptance.rate < 0.5 and each.timings.drafted < 20
    assert late.timings.drafted == 0


def test_where_drafting_brings_nothing_it_is_considered_only_now_and_then(make):
    curve = np.array([0.0, *(1 + 0.55 * np.arange(LIMIT + 1))])
    engine = make(costs=Costs([curve, curve, curve]), ctx=256)
    endless = Sampling(temperature=0, logit_bias={token: -np.inf for token in engine.ensemble.end_tokens})
    each = sequence(engine, factors=coefficients(3, 0.05, [1]), max_tokens=150, sampling=endless)
    engine.add(each)
    considered = []
    decode = engine.ensemble.decode
    while each.finish_reason is None:
        order = []
        engine.ensemble.decode = lambda member, parts, order=order: order.append(member) or decode(member, parts)
        engine.step()
        considered.append(order[0] == 2)  # the drafter comes first
    late = considered[len(considered) // 2 :]
    assert sum(considered[:9]) >= 5 and sum(late) < len(late) / 4


def test_tiny_models_draft_for_greedy_replies_only(tiny):
    with EFT.open(**tiny.family(), threads=1) as eft:
        speculation = eft._engine._speculation
        drawn, greedy = (
            sequence(eft._engine, sampling=Sampling(temperature=temperature, seed=1)) for temperature in (1.0, 0)
        )
        assert speculation.drafter(drawn) is None
        assert speculation.drafter(greedy) == 2


def test_of_several_traits_the_one_of_largest_weight_drafts(tiny):
    traits = {"one": {"model": tiny.tuned, "weight": 0.3}, "two": {"model": tiny.other, "weight": 0.7}}
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=traits, threads=1, speculate=3) as eft:
        for blend, name in ((Blend(), "two"), (Blend(traits={"one": 2.0}), "one")):
            reply = eft.complete("once", blend=blend, sampling=Sampling(temperature=0, max_tokens=12))
            speculation = eft._engine._speculation
            each = sequence(eft._engine, factors=eft.family.factors(blend))
            assert eft.members[speculation.drafter(each)] == name
            assert reply.timings.drafted > 0


def test_own_untuned_models_filters_and_drafts_together(tiny):
    traits = {"one": {"model": tiny.tuned, "untuned": tiny.other, "weight": 0.6}, "two": {"model": tiny.other}}
    blend = Blend(0.2, 0.9, filter=Filter(untuned_floor=-6.0, base_min_p=1e-4, tuned_top_p=0.9))
    said = []
    for setting in ("off", 1, 4):
        with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=traits, threads=1, speculate=setting) as eft:
            reply = eft.complete("once upon", blend=blend, sampling=Sampling(temperature=0, max_tokens=30))
            said.append(reply.tokens)
    assert said[0] == said[1] == said[2]


# ---- models that cannot roll back


@pytest.mark.parametrize(("series", "drafts"), [("Gemma 3", True), ("Mamba", False), ("LFM2", False), ("Llama", True)])
def test_every_architecture_is_drafted_on_rightly_or_not_at_all(series, drafts, tmp_path):
    paths = {
        role: write_architecture(tmp_path / f"{role}.gguf", series, seed=seed, large=role == "base")
        for seed, role in enumerate(("base", "untuned", "tuned"))
    }
    blend, said = Blend(0.1, 1.0), {}
    # Longer than Gemma's window of 32 tokens.
    for setting in ("off", 4):
        with EFT.open(**paths, speculate=setting, threads=1) as eft:
            reply = eft.complete("the heath, " * 6, blend=blend, sampling=Sampling(temperature=0, max_tokens=40))
            said[setting] = reply.tokens
            stuck = [] if drafts else ["base", "untuned", "tuned"]
            assert eft.speculation.get("cannot_roll_back", stuck) == stuck
            assert eft.speculation.get("pays", drafts) == drafts
    assert said["off"] == said[4]
    assert (reply.timings.drafted > 0) == drafts
    if drafts:
        assert 0 < reply.timings.accepted < reply.timings.drafted
    else:
        assert reply.timings.not_drafted == "base and untuned and tuned cannot roll back"


def test_only_blends_that_need_such_a_model_go_without_drafts(make):
    engine = make(4, rolls_back=(False, True, True))
    blended, tuned = sequence(engine, factors=NEAR_TUNED), sequence(engine, factors=coefficients(0, 0.9, [1]))
    run(engine, blended)
    run(engine, tuned)
    assert blended.timings.drafted == 0 and blended.timings.not_drafted == "base cannot roll back"
    assert tuned.timings.drafted > 0 and tuned.timings.not_drafted == ""


# ---- as a user meets it


def test_a_stop_text_within_a_round_ends_the_reply_there(bundled):
    question = [{"role": "user", "content": "What is the capital of Peru?"}]
    options = Sampling(temperature=0, max_tokens=40)
    whole = bundled.complete(question, sampling=options).text
    stop = whole[len(whole) // 2 :][:3]
    stopping = Sampling(temperature=0, max_tokens=40, stop=(stop,))
    expected = bundled.complete(question, sampling=stopping)
    with EFT.bundled(speculate=8) as eft:
        reply = eft.complete(question, sampling=stopping)
        turn = [*question, {"role": "assistant", "content": reply.text}, {"role": "user", "content": "Why?"}]
        following = eft.complete(turn, sampling=options)
    assert (reply.text, reply.tokens, reply.finish_reason) == (expected.text, expected.tokens, "stop")
    assert reply.timings.generated_tokens == len(reply.tokens)
    assert following.text == bundled.complete(turn, sampling=options).text


def test_tokens_that_come_with_the_first_are_in_no_rate():
    """Of a question that was asked before, all but one token is cached: the first step drafts, and is not timed."""
    question, greedy = "What is the capital of Peru?", Sampling(temperature=0, max_tokens=24)
    with EFT.bundled(speculate=4) as eft:
        first, again = (eft.complete([{"role": "user", "content": question}], sampling=greedy) for _ in range(2))
    assert first.timings.first_tokens == 1 and again.timings.first_tokens > 1
    assert again.tokens == first.tokens
    for reply in (first, again):
        timings = reply.timings
        assert timings.later_tokens == len(reply.tokens) - timings.first_tokens > 0
        assert timings.tokens_per_second == pytest.approx(timings.later_tokens / timings.decode_seconds)


def test_figures_and_settings(bundled):
    with EFT.bundled(speculate=4) as eft:
        reply = eft.complete("The capital of Peru is", sampling=Sampling(temperature=0, max_tokens=12))
        assert eft.speculation["setting"] == 4 and eft.speculation["cannot_roll_back"] == []
    figures = reply.timings.as_dict()["speculation"]
    assert figures["drafted"] >= figures["accepted"] > 0
    assert figures["rounds"] < len(reply.tokens) and figures["gain"] is None
    assert bundled.speculation == {"setting": "off"}
    assert bundled.complete("The", sampling=Sampling(max_tokens=2)).timings.drafted == 0


@pytest.mark.parametrize(("value", "setting"), [("auto", "auto"), ("off", "off"), (0, "off"), ("4", 4), (16, 16)])
def test_settings(value, setting):
    assert checked_setting(value) == setting


@pytest.mark.parametrize("value", [17, -1, "on", "1.5", True, 2.5])
def test_settings_that_are_none(value):
    with pytest.raises(OptionError, match="auto, off or a number from 0 to 16"):
        checked_setting(value)
