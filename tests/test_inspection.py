import numpy as np
import pytest

from eft_gguf import EFT, Blend, ContextError, Filter, OptionError, Sampling
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.inspection import DECISIONS, inspect_reply, who_decided

QUESTION = [{"role": "user", "content": "hello there"}]
GREEDY = Sampling(temperature=0, max_tokens=20)


@pytest.fixture
def eft(tiny):
    with EFT.open(**tiny.family(), threads=1) as eft:
        yield eft


@pytest.mark.parametrize(
    ("base", "tuned", "blend", "decided"),
    [(7, 7, 7, "both"), (7, 1, 7, "base"), (1, 7, 7, "tuned"), (1, 2, 7, "blend"), (7, 7, 1, "chance")],
)
def test_who_decided(base, tuned, blend, decided):
    assert who_decided(7, {"base": base, "tuned": tuned, "blend": blend}) == decided
    assert who_decided(7, {"base": base, "kind": 0, "tuned": tuned, "blend": blend}) == decided


def test_probabilities_agree_with_score(eft):
    eft._ensemble.never_sampled = np.array([], np.int64)  # score counts what no reply may hold
    inspection = inspect_reply(eft, "some", " more text, longer than one decode gives rows for")
    score = eft.score("some more text, longer than one decode gives rows for")
    assert inspection.text == " more text, longer than one decode gives rows for"
    for name, logs in {**score.members, "blend": score.blend}.items():
        got = [token.probabilities[name] for token in inspection.tokens]
        np.testing.assert_allclose(got, np.exp(logs[4:]), rtol=1e-4, atol=1e-6)


def test_a_greedy_reply_is_the_blends_first_choice_throughout(eft):
    reply = eft.complete(QUESTION, sampling=GREEDY)
    inspection = inspect_reply(eft, QUESTION, reply.tokens)
    assert inspect_reply(eft, QUESTION, sampling=GREEDY) == inspection
    assert [token.token for token in inspection.tokens] == reply.tokens
    for token in inspection.tokens:
        best, *others = token.alternatives["blend"]
        assert (best.token, best.probability) == (token.token, token.probabilities["blend"])
        assert len(others) == 4 and token.decided_by != "chance"
        assert max(other.token for other in others) > 2  # the tiny models' control tokens are 0 to 2
        assert all(eft.bytes_of(alternative.token) != b"<|im_start|>" for alternative in (best, *others))


def test_the_summary_adds_up(eft):
    inspection = inspect_reply(eft, QUESTION, sampling=GREEDY)
    summary = inspection.summary
    assert list(summary.shares) == list(DECISIONS)
    assert sum(summary.shares.values()) == pytest.approx(1)
    assert sorted(place for places in summary.places.values() for place in places) == list(range(summary.tokens))
    first = inspection.most_disputed(1)[0]
    assert inspection.voices == ("base", "tuned")
    worst = max(max(token.total_variation["base"], token.total_variation["tuned"]) for token in inspection.tokens)
    assert max(inspection.tokens[first].total_variation[name] for name in inspection.voices) == worst
    assert summary.mean_kl["base"] == pytest.approx(np.mean([token.kl["base"] for token in inspection.tokens]))


def test_where_tuned_is_untuned_the_base_decides(tiny):
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tiny.untuned, threads=1) as eft:
        inspection = inspect_reply(eft, QUESTION, sampling=GREEDY)
    assert {token.decided_by for token in inspection.tokens} <= {"base", "both"}
    assert all(token.total_variation["base"] == token.kl["base"] == 0 for token in inspection.tokens)


def test_the_tuned_model_alone_is_the_blend_at_knowledge_0(eft):
    inspection = inspect_reply(eft, QUESTION, blend=Blend(0, 1), sampling=GREEDY)
    assert {token.decided_by for token in inspection.tokens} <= {"tuned", "both"}
    for token in inspection.tokens:
        assert token.total_variation["tuned"] == token.kl["tuned"] == 0
        assert token.alternatives["tuned"] == token.alternatives["blend"]


def test_the_filter_counts(eft):
    certain = Blend(filter=Filter(base_top_p=1e-6))
    inspection = inspect_reply(eft, QUESTION, blend=certain, sampling=GREEDY)
    assert {token.decided_by for token in inspection.tokens} <= {"base", "both"}
    assert all(token.probabilities["blend"] == 1 for token in inspection.tokens)
    reply = eft.complete(QUESTION, blend=Blend(filter=Filter(tuned_top_p=0.5)), sampling=GREEDY)
    again = inspect_reply(eft, QUESTION, reply.tokens, blend=Blend(filter=Filter(tuned_top_p=0.5)))
    assert "chance" not in {token.decided_by for token in again.tokens}


def test_traits_of_weight_0_are_shown_but_have_no_voice(tiny):
    with EFT.open(
        base=tiny.base, untuned=tiny.untuned, tuned=[f"a={tiny.tuned}", f"b={tiny.other}:0"], threads=1
    ) as eft:
        inspection = inspect_reply(eft, "abc", "xyz")
        assert inspection.voices == ("base", "a")
        assert list(inspection.tokens[0].probabilities) == ["base", "untuned", "a", "b", "blend"]
        assert inspect_reply(eft, "abc", "xyz", blend=Blend(traits={"b": 1})).voices == ("base", "a", "b")


def test_the_text_of_a_late_reply_is_read_as_it_was_sampled_and_from_the_cache(eft, monkeypatch):
    reply = eft.complete(QUESTION, sampling=Sampling(temperature=1.5, top_k=0, min_p=0, seed=3, max_tokens=20))
    counts = [0, 0, 0]
    decode = Ensemble.decode

    def counting(self, member, parts):
        counts[member] += sum(len(part.tokens) for part in parts)
        return decode(self, member, parts)

    monkeypatch.setattr(Ensemble, "decode", counting)
    inspection = inspect_reply(eft, QUESTION, reply.text)
    sampled = [token.token for token in inspection.tokens]
    assert sampled == reply.tokens[: len(sampled)] and len(sampled) >= len(reply.tokens) - 1
    assert counts == [len(sampled)] * 3
    # The next turn finds prompt and reply in the cache.
    turn = [*QUESTION, {"role": "assistant", "content": reply.text}, {"role": "user", "content": "and"}]
    assert eft.complete(turn, sampling=GREEDY).timings.cached_tokens >= len(sampled)


def test_bases_that_read_another_prompt(tiny, tmp_path):
    file = tmp_path / "family.toml"
    models = f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\ntuned.tuned = "{tiny.tuned}"\n'
    file.write_text(models + 'bases_template = "plain"\n')
    with EFT.open(file, threads=1) as eft:
        for blend in (Blend(), Blend(1, 0), Blend(0, 1)):
            inspection = inspect_reply(eft, QUESTION, blend=blend, sampling=GREEDY)
            assert "chance" not in {token.decided_by for token in inspection.tokens}


def test_characters_of_several_tokens_come_whole(eft):
    inspection = inspect_reply(eft, "a", "é€<|im_end|>")
    assert [token.text for token in inspection.tokens] == ["", "é", "", "", "€", "<|im_end|>"]


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ("", OptionError, "the reply is empty"),
        ([], OptionError, "the reply is empty"),
        ([5, 260], ContextError, "token 260 of the reply is beyond the 260 tokens"),
        ([-1], ContextError, "token -1 of the reply"),
        ("x" * 300, ContextError, "the text has 301 tokens, the context holds 256"),
    ],
)
def test_replies_that_cannot_be(eft, reply, error, message):
    with pytest.raises(error, match=message):
        inspect_reply(eft, "a", reply)
    assert eft.complete("a", sampling=GREEDY).tokens
