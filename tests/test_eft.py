import gc
import json
from dataclasses import replace

import numpy as np
import pytest

from eft_gguf import (
    EFT,
    Blend,
    CompatibilityError,
    ContextError,
    DecodeError,
    EFTError,
    Filter,
    OptionError,
    QueueFullError,
    Sampling,
)
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.sampler import Sampler
from tests.tiny_models import write_tiny_model

GREEDY = Sampling(temperature=0, max_tokens=12)
QUESTION = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def eft(tiny):
    with EFT.open(**tiny.family(), threads=1) as eft:
        yield eft


@pytest.fixture
def decoded(monkeypatch):
    """Token counts given to llama.cpp, by member."""
    counts = [0, 0, 0]
    decode = Ensemble.decode

    def counting(self, member, parts):
        counts[member] += sum(len(part.tokens) for part in parts)
        return decode(self, member, parts)

    monkeypatch.setattr(Ensemble, "decode", counting)
    return counts


def test_stream_chat_and_complete_say_the_same(eft):
    chunks = list(eft.stream("once upon a time", sampling=GREEDY))
    whole = eft.complete("once upon a time", sampling=GREEDY)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.token for chunk in chunks if chunk.token is not None] == whole.tokens
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert whole.finish_reason == chunks[-1].finish_reason in ("length", "stop")
    assert len(whole.tokens) == whole.timings.generated_tokens <= 12
    rendered = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    assert eft.complete(QUESTION, sampling=GREEDY).tokens == eft.complete(rendered, sampling=GREEDY).tokens


def test_prefill_progress_comes_in_chunks_before_the_first_token(tiny):
    with EFT.open(**tiny.family(), threads=1, batch=16) as eft:
        chunks = eft.stream("x" * 60, sampling=GREEDY)
        progress = []
        for chunk in chunks:
            if chunk.token is not None:
                break
            progress.append((chunk.timings.prefill_done, chunk.timings.prefill_total))
    assert progress == [(16, 60), (32, 60), (48, 60)]


def test_the_second_turn_decodes_only_what_is_new(eft, decoded):
    first = eft.complete(QUESTION, sampling=GREEDY)
    assert first.finish_reason == "length"
    before = decoded.copy()
    turn = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "and"}]
    second = eft.complete(turn, sampling=Sampling(temperature=0, max_tokens=1))
    # The last sampled token (its logits alone were needed), then the end of its turn and the new turn, byte by byte.
    new = 1 + len("E\nSuser\nandE\nSassistant\n")
    assert [now - then for now, then in zip(decoded, before, strict=True)] == [new] * 3
    assert second.timings.cached_tokens + new == second.timings.prompt_tokens


def test_sampled_ids_are_kept_even_where_the_text_would_be_tokenized_in_another_way(eft):
    model = eft._ensemble.tokenizer
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    apart = [model.tokenize(" ", special=False)[0], model.tokenize("t", special=False)[0]]
    assert model.tokenize(" t", special=False) != apart  # merged where tokenized as one
    eft._prompts.transcripts.append((text + " t", model.tokenize(text, special=True) + apart))
    longer = text + " t<|im_end|>\n<|im_start|>user\n"
    assert apart == eft._prompts._chat_ids(longer)[len(model.tokenize(text, special=True)) :][:2]
    # A longer word may be one token with what was said: then the text counts, not the ids.
    assert eft._prompts._chat_ids(text + " tt") == model.tokenize(text + " tt", special=True)


def test_changing_a_dial_between_turns_decodes_nothing_again(eft, decoded):
    reply = eft.complete(QUESTION, sampling=GREEDY)
    before = decoded.copy()
    eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=1), blend=Blend(knowledge=0.5, behaviour=2))
    assert [now - then for now, then in zip(decoded, before, strict=True)] == [1] * 3
    assert reply.timings.generated_tokens


def test_closing_a_reply_cancels_it_and_the_next_one_reuses_its_cache(tiny):
    with EFT.open(**tiny.family(), threads=1, queue=0) as eft:
        reply = eft.chat(QUESTION, sampling=Sampling(temperature=0))
        for _ in range(3):
            next(reply)
        with pytest.raises(QueueFullError, match="in use"):
            eft.complete("x")
        reply.close()
        again = eft.complete(QUESTION, sampling=GREEDY)
        assert again.timings.cached_tokens == again.timings.prompt_tokens - 1


def test_a_reply_waits_for_one_that_is_under_way(eft):
    expected = [eft.complete(prompt, sampling=GREEDY).text for prompt in ("once", "there was")]
    first = eft.stream("once", sampling=GREEDY)
    begun = next(first).text
    second = eft.complete("there was", sampling=GREEDY)
    assert [begun + "".join(chunk.text for chunk in first), second.text] == expected


DRAWN = Sampling(temperature=1.5, top_k=0, min_p=0, max_tokens=12, seed=2**32 - 2)


@pytest.mark.parametrize("prompt", [QUESTION, "once upon a time"])
def test_several_replies_to_one_prompt_have_seeds_in_a_row_and_read_it_once(tiny, prompt, decoded):
    with EFT.open(**tiny.family(), threads=1) as alone:
        seeds = [2**32 - 2, 2**32 - 1, 0, 1]
        expected = [alone.complete(prompt, sampling=replace(DRAWN, seed=seed)) for seed in seeds]
    with EFT.open(**tiny.family(), threads=1, sequences=4) as eft:
        decoded[:] = [0, 0, 0]
        replies = eft.completions(prompt, 4, sampling=DRAWN)
        assert [(reply.text, reply.tokens, reply.finish_reason) for reply in replies] == [
            (reply.text, reply.tokens, reply.finish_reason) for reply in expected
        ]
        assert [reply.timings.seed for reply in replies] == seeds
        length = replies[0].timings.prompt_tokens
        assert [reply.timings.cached_tokens for reply in replies] == [0, *[length - 1] * 3]
        # The prompt once, and its last token for each of the others; of each reply all but the last token.
        assert decoded == [length + 3 + sum(len(reply.tokens) - 1 for reply in replies)] * 3


def test_more_replies_than_run_at_once_come_in_waves(tiny, decoded):
    with EFT.open(**tiny.family(), threads=1, sequences=2, queue=0) as eft:
        replies = eft.completions(QUESTION, 5, sampling=DRAWN)
        assert [reply.tokens for reply in replies] == [
            eft.complete(QUESTION, sampling=replace(DRAWN, seed=(DRAWN.seed + i) % 2**32)).tokens for i in range(5)
        ]
        assert [reply.timings.cached_tokens > 0 for reply in replies] == [False, True, True, True, True]
        assert len({reply.timings.seed for reply in eft.completions("x", 3, sampling=Sampling(max_tokens=1))}) == 3
        for n in (0, -1, 1.5, True):
            with pytest.raises(OptionError, match="n must be a whole number, 1 or more"):
                eft.completions(QUESTION, n)


def test_several_replies_are_streamed_as_they_come_and_cancelled_together(tiny):
    with EFT.open(**tiny.family(), threads=1, sequences=3, queue=0) as eft:
        expected = [reply.text for reply in eft.completions(QUESTION, 3, sampling=DRAWN)]
        texts, order = [""] * 3, []
        for number, chunk in eft.streams(QUESTION, 3, sampling=DRAWN):
            texts[number] += chunk.text
            order.append(number)
        assert texts == expected
        assert order.index(2) < len(order) - 1 - order[::-1].index(0)  # in turns
        replies = eft.streams(QUESTION, 3)
        next(replies)
        replies.close()
        assert eft._engine.running == 0
        eft.streams(QUESTION, 3)
        gc.collect()
        assert eft._engine.running == 0


def test_the_failure_of_a_reply_is_its_own(tiny, monkeypatch):
    """A grammar without an end: after its only sentence no token is left."""
    with EFT.open(**tiny.family(), threads=1, sequences=2) as eft:
        expected = eft.complete("once", sampling=GREEDY)
        failing = eft.stream("once", sampling=GREEDY)
        taken, calls = Sampler._taken, []

        def sometimes(self, *arguments):
            calls.append(self)
            if self is calls[0] and calls.count(self) == 4:
                raise DecodeError("the grammar allows no further token")
            return taken(self, *arguments)

        monkeypatch.setattr(Sampler, "_taken", sometimes)
        other = eft.stream("once", sampling=GREEDY)
        said = []
        with pytest.raises(DecodeError, match="no further token"):
            for chunk in failing:
                said += [chunk.token] if chunk.token is not None else []
        assert said == expected.tokens[:3]
        assert eft._engine.running == 1
        assert "".join(chunk.text for chunk in other) == expected.text


def test_a_reply_that_is_dropped_frees_its_place(eft):
    eft.chat(QUESTION)
    gc.collect()
    assert eft.complete(QUESTION, sampling=GREEDY).text is not None


def test_a_stop_text_ends_the_reply_and_is_not_part_of_it(eft):
    free = eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=30)).text
    stop = free[10:13]
    stopped = eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=30, stop=(stop,)))
    assert stopped.text == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"


def test_a_seed_reproduces_a_reply_and_is_told(eft):
    first = eft.complete(QUESTION, sampling=Sampling(temperature=1.5, max_tokens=12, top_k=0, min_p=0))
    again = Sampling(temperature=1.5, max_tokens=12, top_k=0, min_p=0, seed=first.timings.seed)
    assert eft.complete(QUESTION, sampling=again).tokens == first.tokens


def test_timings_add_up(eft):
    timings = eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=8)).timings
    assert timings.prompt_tokens == timings.cached_tokens + timings.prefill_total
    assert timings.prefill_done == timings.prefill_total
    assert set(timings.model_milliseconds) == {"base", "untuned", "tuned"}
    decode = timings.decode_seconds
    assert 0 < sum(timings.model_seconds.values()) <= decode * 1.001
    assert timings.tokens_per_second == pytest.approx(7 / decode)
    assert set(timings.as_dict()) >= {"seed", "tokens_per_second", "model_milliseconds", "cached_tokens"}


def test_score_gives_blend_and_members(eft):
    score = eft.score("some text", blend=Blend(0, 1))
    assert score.texts == [*"some", " t", *"ext"]
    assert list(score.members) == ["base", "untuned", "tuned"]
    assert np.isnan(score.blend[0])
    np.testing.assert_allclose(score.blend[1:], score.members["tuned"][1:])
    assert np.isnan(eft.score("a").blend).tolist() == [True]
    assert eft.score("").tokens == []


def test_a_lora_adapter_shares_the_untuned_weights(tiny):
    tuned = f"lora:{tiny.adapter}"
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1) as eft:
        assert len(eft._ensemble._models) == 2
        score = eft.score("some text")
        assert np.abs(score.members["tuned"] - score.members["untuned"])[1:].max() > 0.01


def test_several_traits_have_weights_by_name(tiny):
    traits = {"helpful": tiny.tuned, "cautious": f"{tiny.other}:0"}
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=traits, threads=1) as eft:
        assert eft.trait_names == ("helpful", "cautious")
        alone = eft.score("some text", blend=Blend(0, 1, traits={"helpful": 0, "cautious": 1}))
        np.testing.assert_allclose(alone.blend[1:], alone.members["cautious"][1:])
        np.testing.assert_allclose(eft.score("some text", blend=Blend(0, 1)).blend[1:], alone.members["helpful"][1:])
        with pytest.raises(OptionError, match="unknown trait 'kind'"):
            eft.chat(QUESTION, blend=Blend(traits={"kind": 1}))


def test_an_untuned_model_of_its_own_that_is_the_one_of_all_changes_nothing(tiny, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny.untuned.read_bytes())
    usual = {"helpful": tiny.tuned, "cautious": f"{tiny.other}:0.5"}
    own = {"helpful": tiny.tuned, "cautious": {"model": tiny.other, "untuned": copy, "weight": 0.5}}
    blends = [Blend(), Blend(0.5, 1.5), Blend(filter=Filter(0.9, 0.5, 0.01, -6)), Blend(traits={"cautious": 0})]
    with (
        EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=usual, threads=1) as shared,
        EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=own, threads=1) as apart,
    ):
        assert apart.members == (*shared.members, "untuned.cautious")
        assert apart.trait_names == shared.trait_names
        for seed, blend in enumerate(blends):
            for sampling in (GREEDY, Sampling(seed=seed, max_tokens=12, temperature=1.5)):
                expected = shared.complete(QUESTION, blend=blend, sampling=sampling).tokens
                assert apart.complete(QUESTION, blend=blend, sampling=sampling).tokens == expected
            one, other = (eft.score("some text", blend=blend) for eft in (shared, apart))
            np.testing.assert_allclose(other.blend[1:], one.blend[1:], atol=1e-6)


def test_a_trait_is_measured_against_its_own_untuned_model_which_costs_nothing_at_weight_0(tiny, decoded):
    decoded += [0]
    tuned = {"kind": {"model": tiny.tuned, "untuned": tiny.other}}
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1, speculate="off") as eft:
        reply = eft.complete(QUESTION, blend=Blend(traits={"kind": 0}), sampling=GREEDY)
        assert reply.tokens and decoded[2:] == [0, 0]
        eft.complete(QUESTION, sampling=GREEDY)
        assert decoded[1] == 0 and decoded[0] > 0 and decoded[2] > 0 and decoded[3] > 0  # untuned's factor is 0 here
        # z = base + (tuned − other)
        score = eft.score("some text")
        logits = next(eft.replay("some text", "?"))[1]
        allowed = np.isfinite(logits["blend"])
        base, kind, own, blend = (logits[name][allowed] for name in ("base", "kind", "untuned.kind", "blend"))
        np.testing.assert_allclose(blend, base + kind - own, atol=1e-4)
        assert list(score.members) == ["base", "untuned", "kind", "untuned.kind"]


def test_an_adapter_sits_on_the_untuned_model_that_it_was_trained_on(tiny):
    tuned = {"kind": {"model": f"lora:{tiny.adapter}", "untuned": tiny.other}}
    with (
        EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1) as eft,
        EFT.open(base=tiny.base, untuned=tiny.other, tuned=f"lora:{tiny.adapter}", threads=1) as usual,
    ):
        assert len(eft._ensemble._models) == 3
        score, expected = eft.score("some text").members, usual.score("some text").members
        np.testing.assert_allclose(score["kind"][1:], expected["tuned"][1:], atol=1e-6)
        np.testing.assert_allclose(score["untuned.kind"][1:], expected["untuned"][1:], atol=1e-6)


def test_padded_vocabularies_are_blended_over_what_they_share(tiny, tmp_path):
    padded = write_tiny_model(tmp_path / "padded.gguf", seed=5, padding=24)
    with EFT.open(base=padded, untuned=tiny.untuned, tuned=tiny.tuned, threads=1) as eft:
        reply = eft.complete("abc", sampling=Sampling(temperature=2, top_k=0, min_p=0, max_tokens=60, seed=1))
        assert max(reply.tokens) < eft._ensemble.n_vocab == 260
        with pytest.raises(ContextError, match=r"token 26. of the prompt is beyond the 260 tokens"):
            eft._prompts.require_shared("prompt", [5, 265])


def test_the_end_tokens_of_all_members_end_a_reply(tiny, tmp_path):
    other = write_tiny_model(tmp_path / "other.gguf", seed=1, end_token="a")
    with EFT.open(base=tiny.base, untuned=other, tuned=tiny.tuned, threads=1) as eft:
        model = eft._ensemble.tokenizer
        assert {model.tokenize("a", special=False)[0], 2} <= eft._ensemble.end_tokens


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ctx": 512}, ContextError, "512 tokens was asked for, but base.gguf was trained for 256"),
        ({"ctx": 0}, OptionError, "ctx must be 1 or more"),
        ({"threads": 0}, OptionError, "threads must be 1 or more"),
        ({"sequences": 9, "batch": 4}, OptionError, "9 sequences need a batch"),
        ({"family": "x.toml"}, OptionError, "not both"),
        ({"tuned": None}, OptionError, "tuned missing"),
    ],
)
def test_options_that_cannot_be_are_refused(tiny, options, error, message):
    with pytest.raises(error, match=message):
        EFT.open(**({**tiny.family(), "threads": 1} | options))


def test_models_of_different_vocabularies_are_refused_before_loading(tiny, tmp_path, monkeypatch):
    strange = write_tiny_model(tmp_path / "strange.gguf", padding=0)
    data = strange.read_bytes()
    strange.write_bytes(data.replace("Ġt".encode(), "Ġs".encode(), 1))
    monkeypatch.setattr("eft_gguf.eft.Ensemble", None)
    with pytest.raises(CompatibilityError, match="token 259 is"):
        EFT.open(base=strange, untuned=tiny.untuned, tuned=tiny.tuned)


def test_a_closed_family_says_so(tiny):
    eft = EFT.open(**tiny.family(), threads=1)
    eft.close()
    eft.close()
    with pytest.raises(EFTError, match="closed"):
        eft.stream("x")
    with pytest.raises(EFTError, match="closed"):
        eft.score("x")


def test_a_prompt_that_does_not_fit_names_both_numbers(eft):
    with pytest.raises(ContextError, match="prompt has 300 tokens, the context holds 256"):
        eft.stream("x" * 300)
    assert eft.complete("x" * 250, sampling=Sampling(temperature=0)).finish_reason in ("length", "stop")


def test_unused_and_control_tokens_are_never_sampled_but_end_tokens_are(tiny, tmp_path):
    padded = [write_tiny_model(tmp_path / f"{seed}.gguf", seed=seed, padding=24) for seed in range(2)]
    with EFT.open(base=padded[0], untuned=padded[1], tuned=padded[1], threads=1) as eft:
        drawn: set[int] = set()
        for seed in range(30):
            sampling = Sampling(temperature=50, top_k=0, top_p=1, min_p=0, max_tokens=200, seed=seed)
            drawn.update(eft.complete("abc", sampling=sampling).tokens)
        start, ends = 1, {0, 2}
        assert not drawn & {start, *range(260, 284)}
        assert drawn & ends
        assert len(drawn) > 200


def test_log_probabilities_come_with_each_token(eft):
    reply = eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=5, logprobs=3))
    assert len(reply.alternatives) == len(reply.tokens)
    for token, found in zip(reply.tokens, reply.alternatives, strict=True):
        assert found.tokens[0] == token  # greedy
        assert found.chosen == found.log_probabilities[0] > found.log_probabilities[1] > found.log_probabilities[2]
    assert eft.complete(QUESTION, sampling=GREEDY).alternatives == []


def test_a_reply_under_a_json_schema_validates_at_any_dial(eft):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    for seed, blend in enumerate([Blend(), Blend(0, 1), Blend(1, 0), Blend(1.5, -0.5)]):
        sampling = Sampling(temperature=1.2, top_k=0, min_p=0, seed=seed, json_schema=schema, max_tokens=150)
        reply = eft.complete(QUESTION, blend=blend, sampling=sampling)
        assert reply.finish_reason == "stop", reply.text
        assert isinstance(json.loads(reply.text)["ok"], bool)


def test_replies_under_way_at_once_do_not_take_each_others_tokens(tiny):
    prompts = ["once upon a time", "there was", "x"]
    with EFT.open(**tiny.family(), threads=1, sequences=3) as eft:
        replies = [eft.stream(prompt, sampling=GREEDY) for prompt in prompts]
        texts = [""] * 3
        while any(replies):
            for index, reply in enumerate(replies):
                if reply is not None:
                    chunk = next(reply)
                    texts[index] += chunk.text
                    if chunk.finish_reason:
                        replies[index] = None
    with EFT.open(**tiny.family(), threads=1) as eft:
        assert texts == [eft.complete(prompt, sampling=GREEDY).text for prompt in prompts]


def test_bases_may_read_a_plain_prompt(tiny, tmp_path):
    file = tmp_path / "family.toml"
    models = f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\ntuned.tuned = "{tiny.tuned}"\n'
    file.write_text(models + 'bases_template = "plain"\n')
    chat = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    plain = "User:\nhello there\n\nAssistant:\n"
    with EFT.open(file, threads=1) as eft, EFT.open(**tiny.family(), threads=1) as usual:
        for dials, prompt in (((0, 1), chat), ((1, 0), plain), ((0, 0), plain)):
            blend = Blend(*dials)
            expected = usual.complete(prompt, blend=blend, sampling=GREEDY).tokens
            assert eft.complete(QUESTION, blend=blend, sampling=GREEDY).tokens == expected
        blended = eft.complete(QUESTION, sampling=GREEDY)
        assert blended.tokens != usual.complete(QUESTION, sampling=GREEDY).tokens
        # The second turn finds both prompts in the caches.
        turn = [*QUESTION, {"role": "assistant", "content": blended.text}, {"role": "user", "content": "and"}]
        assert eft.complete(turn, sampling=GREEDY).timings.cached_tokens >= len(plain) - 1  # " t" is one token


def test_a_template_for_the_bases_must_be_one(tiny, tmp_path):
    file = tmp_path / "family.toml"
    models = f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\ntuned.tuned = "{tiny.tuned}"\n'
    file.write_text(models + 'bases_template = "simple"\n')
    with pytest.raises(OptionError, match="'bases_template' is 'simple'"):
        EFT.open(file)
