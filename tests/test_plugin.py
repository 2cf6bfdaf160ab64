import gc
import weakref

import numpy as np
import pytest
from llama_cpp import Llama, LogitsProcessorList
from llama_cpp.llama_speculative import LlamaDraftModel
from scipy.stats import chisquare

from eft_gguf import EFT, Blend, CompatibilityError, ContextError, EFTError, ModelFileError, OptionError, Sampling
from eft_gguf.blend.equation import Filter, log_softmax
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.plugin import EFTProcessor
from tests.tiny_models import SPECIAL, byte_tokens, write_tiny_model

QUESTION = [{"role": "user", "content": "hello there"}]
PROMPT = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
GREEDY = Sampling(temperature=0, max_tokens=12)
DIALS = [(1, 1), (0, 1), (0, 0), (0.5, 1.5), (1.3, -0.4)]
FILTERS = [Filter(), Filter(tuned_top_p=0.7), Filter(base_top_p=0.5, untuned_floor=-7), Filter(base_min_p=0.1)]
SIGNIFICANCE = 0.001


def open_host(path, *, n_ctx=256, **options):
    """A `Llama` that computes as an EFT's base does: without flash attention the last digits are others."""
    return Llama(str(path), n_ctx=n_ctx, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False, **options)


@pytest.fixture
def host(tiny):
    llama = open_host(tiny.base)
    yield llama
    llama.close()


@pytest.fixture
def steer(tiny, host):
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned) as steer:
        yield steer


@pytest.fixture
def decoded(monkeypatch):
    """Token counts given to llama.cpp, by member of the ensemble: untuned, then the traits."""
    counts = {}
    decode = Ensemble.decode

    def counting(self, member, parts):
        counts[self.names[member]] = counts.get(self.names[member], 0) + sum(len(part.tokens) for part in parts)
        return decode(self, member, parts)

    monkeypatch.setattr(Ensemble, "decode", counting)
    return counts


def ids_of(host, text):
    return host.tokenize(text.encode(), add_bos=False, special=True)


def generate(host, ids, steer, count=12, **options):
    """The next ids of the host's, greedily, up to an end token."""
    tokens = []
    for token in host.generate(ids, temp=0, logits_processor=LogitsProcessorList([steer]), **options):
        tokens.append(token)
        if len(tokens) == count or token in steer.end_tokens:
            return tokens


def base_scores(host, ids):
    """The host's own logits after `ids`, by evaluating them."""
    seen = []
    next(host.generate(ids, temp=0, logits_processor=LogitsProcessorList([lambda _, s: seen.append(s.copy()) or s])))
    return seen[0]


def eft_reply(eft, prompt, blend, count=12):
    """(ids, log-probabilities by token, each over the vocabulary): what EFT says and between what it chose."""
    sampling = Sampling(temperature=0, max_tokens=count)
    object.__setattr__(sampling, "logprobs", eft._ensemble.n_vocab)  # more than a caller may ask for: all of them
    reply = eft.complete(prompt, blend=blend, sampling=sampling)
    distributions = np.full((len(reply.tokens), eft._ensemble.n_vocab), np.nan)
    for row, found in zip(distributions, reply.alternatives, strict=True):
        row[found.tokens] = found.log_probabilities
    return reply.tokens, distributions


@pytest.mark.parametrize("filter", FILTERS)
def test_a_trait_with_an_untuned_model_of_its_own_blends_as_in_eft(tiny, host, filter):
    models = {"untuned": tiny.untuned, "tuned": {"kind": {"model": tiny.tuned, "untuned": tiny.other}}}
    blend = Blend(0.9, 0.8, filter=filter)
    ids = ids_of(host, PROMPT)
    with EFT.open(base=tiny.base, **models, threads=1) as eft, EFTProcessor(host, **models, blend=blend) as steer:
        assert generate(host, ids, steer) == eft.complete(PROMPT, blend=blend, sampling=GREEDY).tokens


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("dials", DIALS)
def test_the_distributions_and_greedy_tokens_are_those_of_eft(tiny, host, steer, dials, filter):
    steer.blend = Blend(*dials, filter=filter)
    # Drafts are checked in batches, and a batch's logits differ from a token's in the third decimal.
    with EFT.open(**tiny.family(), threads=1, speculate="off") as eft:
        tokens, expected = eft_reply(eft, PROMPT, steer.blend)
    seen = []

    def recording(ids, scores):
        seen.append(steer(ids, scores))
        return seen[-1]

    recording.end_tokens = steer.end_tokens
    assert generate(host, ids_of(host, PROMPT), recording) == tokens
    for ours, theirs in zip(seen, expected, strict=True):
        ours = log_softmax(ours.astype(np.float64))
        np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs))
        possible = np.isfinite(ours)
        np.testing.assert_allclose(ours[possible], theirs[possible], rtol=0, atol=1e-4)


def test_a_chat_of_the_host_s_says_what_a_chat_of_eft_s_says(tiny, host, steer):
    reply = host.create_chat_completion(
        QUESTION, temperature=0, max_tokens=12, logits_processor=LogitsProcessorList([steer])
    )
    with EFT.open(**tiny.family(), threads=1) as eft:
        expected = eft.complete(QUESTION, sampling=GREEDY).text
    # Random models write bytes that are no UTF-8: EFT shows them, the host leaves them out.
    assert reply["choices"][0]["message"]["content"] == expected.replace("\ufffd", "")


def test_a_chat_may_take_template_and_end_tokens_of_the_tuned_model(tiny, host, tmp_path):
    with EFT.open(**tiny.family(), threads=1) as eft:
        token = eft.complete(QUESTION, sampling=GREEDY).tokens[3]
    end = [*SPECIAL, *byte_tokens()][token]
    tuned = write_tiny_model(tmp_path / "tuned.gguf", seed=2, end_token=end)
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1) as eft:
        expected = eft.complete(QUESTION, sampling=GREEDY)
    assert (expected.tokens[-1], expected.finish_reason) == (token, "stop")
    host.chat_format = "llama-2"
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tuned) as steer:
        host.chat_handler = steer.chat_handler()
        reply = host.create_chat_completion(
            QUESTION, temperature=0, max_tokens=12, logits_processor=LogitsProcessorList([steer])
        )["choices"][0]
    # The host leaves out the end token, which has a text in this model only.
    assert reply["message"]["content"] == expected.text.replace("\ufffd", "").removesuffix(end)
    assert reply["finish_reason"] == "stop"


def test_draws_by_the_host_s_sampler_have_the_distribution_of_eft(tiny, host, steer):
    blend = Blend(0.4, 0.3)
    with EFT.open(**tiny.family(), threads=1) as eft:
        logits = eft_reply(eft, PROMPT, blend, count=1)[1][0]
    probabilities = np.exp(log_softmax(logits / 1.5))
    steer.blend = blend
    host.eval(ids_of(host, PROMPT))
    draws = np.zeros(len(probabilities))
    for seed in range(5000):
        host.set_seed(seed)
        options = {"temp": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        draws[host.sample(**options, logits_processor=LogitsProcessorList([steer]))] += 1
    # Cells of fewer than 5 expected draws make one cell together, as the test asks for.
    common = probabilities * draws.sum() >= 5
    assert common.sum() > 20
    observed = [*draws[common], draws[~common].sum()]
    expected = np.array([*probabilities[common], probabilities[~common].sum()]) * draws.sum()
    assert chisquare(observed, expected).pvalue > SIGNIFICANCE


def test_a_longer_prompt_decodes_only_what_is_new(host, steer, decoded):
    ids = ids_of(host, PROMPT)
    reply = generate(host, ids, steer)
    assert decoded == dict.fromkeys(("untuned", "tuned"), len(ids) + len(reply) - 1)
    decoded.clear()
    new = ids_of(host, "<|im_end|>\n<|im_start|>user\nand")
    generate(host, ids + reply + new, steer, count=1)
    # Of the reply's last token only the logits of the one before were needed.
    assert decoded == dict.fromkeys(("untuned", "tuned"), 1 + len(new))


def test_the_same_prompt_again_decodes_its_last_token_only(host, steer, decoded):
    ids = ids_of(host, PROMPT)
    reply = generate(host, ids, steer)
    decoded.clear()
    assert generate(host, ids, steer) == reply
    assert decoded == dict.fromkeys(("untuned", "tuned"), 1 + len(reply) - 1)


def test_rollback_and_a_new_prompt_say_what_a_fresh_start_says(tiny, host, steer, decoded):
    first, other = ids_of(host, PROMPT), ids_of(host, "once upon a time")
    branch = [*first[:9], *other]
    generate(host, first, steer)
    decoded.clear()
    replies = [generate(host, branch, steer, count=4), generate(host, other, steer), generate(host, first, steer)]
    assert decoded["untuned"] == (len(other) + 3) + (len(other) + len(replies[1]) - 1) + (
        len(first) + len(replies[2]) - 1
    )
    steer.close()
    for ids, reply in zip([branch, other, first], replies, strict=True):
        host.reset()
        with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned) as fresh:
            assert generate(host, ids, fresh, count=len(reply)) == reply


def test_a_prompt_is_decoded_in_chunks(tiny, host, decoded):
    ids = ids_of(host, PROMPT)
    scores = base_scores(host, ids)
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned, batch=7) as steer:
        chunked = steer(np.array(ids), scores)
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned) as steer:
        np.testing.assert_allclose(chunked, steer(np.array(ids), scores), atol=1e-3)
    assert decoded["untuned"] == 2 * len(ids)


def test_a_dial_may_be_changed_between_tokens_and_a_member_that_was_left_out_catches_up(host, steer, decoded):
    ids = ids_of(host, PROMPT)
    steer.blend = Blend(1, 0)
    tokens = host.generate(ids, temp=0, logits_processor=LogitsProcessorList([steer]))
    for _ in range(4):
        next(tokens)
    assert decoded == {}
    steer.blend = Blend(0, 1)
    next(tokens)
    assert decoded == {"tuned": len(ids) + 4}
    steer.blend = Blend(1, 0.5)
    next(tokens)
    assert decoded == {"tuned": len(ids) + 5, "untuned": len(ids) + 5}


def test_the_base_alone_leaves_the_host_s_scores_as_they_are(host, steer, decoded):
    scores = np.linspace(-3, 3, host.n_vocab(), dtype=np.float32)
    for idle in (Filter(), Filter(base_top_p=1, base_min_p=0, untuned_floor=-5)):
        steer.blend = Blend(1, 0, filter=idle)
        assert steer(np.array([40, 41]), scores) is scores
    steer.blend = Blend(1, 0, filter=Filter(base_min_p=0.5))
    likely = np.isfinite(steer(np.array([40, 41]), scores))
    np.testing.assert_array_equal(likely, scores > scores.max() + np.log(0.5))
    assert decoded == {}


def test_an_untuned_model_that_is_the_tuned_one_changes_no_logit_but_barred_ones(tiny, host):
    ids = ids_of(host, PROMPT)
    scores = base_scores(host, ids)
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.untuned, blend=Blend(1, 2)) as steer:
        blended = steer(np.array(ids), scores)
    start = 1  # <|im_start|>
    assert blended[start] == -np.inf
    np.testing.assert_array_equal(np.delete(blended, start), np.delete(scores, start))


def test_scores_are_not_written_to_and_what_they_rule_out_stays_out(host, steer):
    scores = np.zeros(host.n_vocab(), np.float32)
    scores[50] = -np.inf
    before = scores.copy()
    for blend in (Blend(), Blend(0, 1)):
        steer.blend = blend
        blended = steer(np.array([40, 41]), scores)
        assert blended[50] == -np.inf
        assert np.isfinite(blended[51])
    np.testing.assert_array_equal(scores, before)


def test_a_barred_token_stays_out_where_a_floor_would_raise_it(host, steer):
    for filter in (Filter(untuned_floor=-0.001), Filter(tuned_top_p=0.1, untuned_floor=-0.001)):
        for dials in ((0, 0), (0.5, 0)):
            steer.blend = Blend(*dials, filter=filter)
            blended = steer(np.array([40, 41]), np.zeros(host.n_vocab(), np.float32))
            assert np.flatnonzero(np.isneginf(blended)).tolist() == [1]


def test_an_adapter_and_several_traits_are_taken_as_elsewhere(tiny, host):
    tuned = {"helpful": f"{tiny.tuned}:0.5", "adapted": f"lora:{tiny.adapter}"}
    blend = Blend(traits={"adapted": 0.25})
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1) as eft:
        tokens, _ = eft_reply(eft, PROMPT, blend)
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tuned, blend=blend) as steer:
        assert len(steer._ensemble.models) == 2
        assert generate(host, ids_of(host, PROMPT), steer) == tokens
        with pytest.raises(OptionError, match="unknown trait 'kind'"):
            steer.blend = Blend(traits={"kind": 1})
        assert steer.blend == blend


class Drafts(LlamaDraftModel):
    """Drafts two tokens that will be drawn and one that will not."""

    def __init__(self, ids, wrong):
        self.ids, self.wrong = ids, wrong

    def __call__(self, input_ids, **_):
        return np.array([*self.ids[len(input_ids) :][:2], self.wrong], np.intc)


def test_drafts_of_the_host_s_change_nothing(tiny, host, steer):
    """With a draft model the ids that the host gives go on beyond the token to be drawn."""
    ids = ids_of(host, PROMPT)
    reply = generate(host, ids, steer)
    wrong = next(token for token in range(40, 90) if token not in reply)
    drafting = open_host(tiny.base, draft_model=Drafts(ids + reply, wrong))
    with EFTProcessor(drafting, untuned=tiny.untuned, tuned=tiny.tuned) as own:
        assert generate(drafting, ids, own) == reply
    drafting.close()


def test_padding_of_either_side_is_never_drawn(tiny, tmp_path):
    ids, padded = np.array([40, 41]), write_tiny_model(tmp_path / "padded.gguf", seed=5, padding=24)
    for base, untuned in ((padded, tiny.untuned), (tiny.base, padded)):
        llama = open_host(base, n_ctx=64)
        with EFTProcessor(llama, untuned=untuned, tuned=tiny.tuned) as steer:
            blended = steer(ids, np.zeros(llama.n_vocab(), np.float32))
            assert len(blended) == llama.n_vocab()
            assert np.isneginf(blended[260:]).all()
            assert np.isfinite(blended[3:260]).all()
        if base == padded:
            with pytest.raises(EFTError, match="closed"):
                steer(ids, blended)
            with (
                EFTProcessor(llama, untuned=untuned, tuned=tiny.tuned) as steer,
                pytest.raises(ContextError, match="token 265 of the text is beyond the 260 tokens"),
            ):
                steer(np.array([265, 41]), np.zeros(llama.n_vocab(), np.float32))
        llama.close()


def test_the_end_tokens_of_all_models_may_be_drawn(tiny, tmp_path):
    base = write_tiny_model(tmp_path / "base.gguf", end_token="a")
    llama = open_host(base, n_ctx=64)
    with EFTProcessor(llama, untuned=tiny.untuned, tuned=tiny.tuned) as steer:
        assert steer.end_tokens == {0, 2, *ids_of(llama, "a")}
    llama.close()


def test_errors_while_a_token_is_drawn_reach_the_caller_and_the_next_reply_is_right(tiny, host):
    ids = ids_of(host, "x" * 100)
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned, ctx=64) as steer:
        with pytest.raises(ContextError, match="the text has 100 tokens, the context of untuned and tuned holds 64"):
            host.create_completion(ids, logits_processor=LogitsProcessorList([steer]))
        short = generate(host, ids[:20], steer)
    host.reset()
    with EFTProcessor(host, untuned=tiny.untuned, tuned=tiny.tuned) as steer:
        assert generate(host, ids[:20], steer) == short


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_in_the_middle_of_a_decode_is_raised_and_leaves_nothing_half_done(host, steer, monkeypatch, error):
    ids = ids_of(host, PROMPT)
    expected = generate(host, ids, steer)
    host.reset()
    decode, calls = Ensemble.decode, []

    def interrupted(self, member, parts):
        calls.append(member)
        seconds = decode(self, member, parts)
        if len(calls) == 4:
            raise error
        return seconds

    monkeypatch.setattr(Ensemble, "decode", interrupted)
    other = ids_of(host, "once upon a time")
    with pytest.raises(error):
        generate(host, other, steer)
    assert generate(host, ids, steer) == expected


def test_a_closed_processor_says_so_and_the_host_goes_on_without_it(tiny, host, steer):
    ids = ids_of(host, PROMPT)
    steer.close()
    steer.close()
    with pytest.raises(EFTError, match="this processor was closed"):
        generate(host, ids, steer)
    assert next(host.generate(ids, temp=0)) == np.argmax(base_scores(host, ids))


def test_processors_on_one_host_keep_their_errors_apart(tiny, host):
    ids = ids_of(host, PROMPT)
    small = {"untuned": tiny.untuned, "tuned": tiny.tuned}
    with EFTProcessor(host, **small) as roomy, EFTProcessor(host, **small, ctx=64) as tight:
        with pytest.raises(ContextError):
            generate(host, ids + ids, tight)
        assert generate(host, ids[:9], roomy, count=2) == generate(host, ids[:9], tight, count=2)


def test_a_processor_does_not_keep_its_host(tiny):
    llama = open_host(tiny.base)
    gone = weakref.ref(llama)
    with EFTProcessor(llama, untuned=tiny.untuned, tuned=tiny.tuned) as steer:
        generate(llama, [40, 41, 42], steer, count=2)
        llama.close()
        del llama
        gc.collect()  # a host that has drawn a token refers to itself
        assert gone() is None


def test_the_context_is_the_host_s_or_what_the_small_models_were_trained_for(tiny, tmp_path):
    long = write_tiny_model(tmp_path / "long.gguf", ctx=1024)
    llama = open_host(tiny.base, n_ctx=512)
    for small, expected in ((long, 512), (tiny.untuned, 256)):
        with EFTProcessor(llama, untuned=small, tuned=small) as steer:
            assert steer.ctx == expected
    llama.close()


def test_what_cannot_be_is_refused_before_anything_is_loaded(tiny, host, tmp_path, monkeypatch):
    monkeypatch.setattr("eft_gguf.plugin.Ensemble", None)
    strange = write_tiny_model(tmp_path / "strange.gguf")
    strange.write_bytes(strange.read_bytes().replace("Ġt".encode(), "Ġs".encode(), 1))
    small = {"untuned": tiny.untuned, "tuned": tiny.tuned}
    with pytest.raises(CompatibilityError, match=r"base \(base.gguf\) and untuned \(strange.gguf\).*token 259 is"):
        EFTProcessor(host, untuned=strange, tuned=strange)
    with pytest.raises(ModelFileError, match=r"missing\.gguf"):
        EFTProcessor(host, untuned=tmp_path / "missing.gguf", tuned=tiny.tuned)
    with pytest.raises(ContextError, match=r"512 tokens was asked for, but tuned\.gguf was trained for 256"):
        EFTProcessor(host, **small, ctx=512)
    with pytest.raises(OptionError, match="threads must be 1 or more"):
        EFTProcessor(host, **small, threads=0)
    with pytest.raises(OptionError, match="unknown trait 'kind'"):
        EFTProcessor(host, **small, blend=Blend(traits={"kind": 1}))
    host.model_path = ""
    with pytest.raises(OptionError, match="names no model file"):
        EFTProcessor(host, **small)
    assert "sample" not in vars(host)
