"""Examples: what base and untuned are shown, what that costs, and where it counts."""

import json

import numpy as np
import pytest

from eft_gguf import EFT, Blend, ContextError, OptionError, Sampling
from eft_gguf.demonstrations import Demonstrations
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.models.fit import Plan
from eft_gguf.models.metadata import read_metadata
from tests.tiny_models import write_tiny_model

GREEDY = Sampling(temperature=0, max_tokens=12)
OWN = [{"prompt": "a?", "reply": "A."}, {"prompt": "b?", "reply": "B."}]
TURNS = "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\nA.<|im_end|>\n" + (
    "<|im_start|>user\nb?<|im_end|>\n<|im_start|>assistant\nB.<|im_end|>\n"
)


def question(text="hello there"):
    return [{"role": "user", "content": text}]


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


@pytest.fixture
def short(monkeypatch):
    """Random models hardly end their replies."""
    monkeypatch.setattr("eft_gguf.demonstrations.REPLY_TOKENS", 20)


@pytest.fixture
def eft(tiny):
    with EFT.open(**tiny.family(), threads=1, examples=OWN, speculate="off") as eft:
        yield eft


def test_base_and_untuned_read_them_before_the_chat_and_tuned_does_not(eft):
    prompt = eft.read(question())
    plain = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    assert dict(zip(eft.members, prompt.texts, strict=True)) == {
        "base": TURNS + plain,
        "untuned": TURNS + plain,
        "tuned": plain,
    }
    assert set(eft.read(question(), examples=False).texts) == {plain}
    assert set(eft.read("once").texts) == {"once"}
    assert eft.examples_tokens == len(eft.token_ids(TURNS))


def test_the_blend_is_that_of_the_models_reading_these_texts(eft, tiny):
    reply = eft.complete(question(), sampling=GREEDY)
    with EFT.open(**tiny.family(), threads=1, speculate="off") as plain:
        shown = TURNS + plain.chat_text(question())
        for number, (_, with_examples) in enumerate(eft.replay(question(), reply.tokens)):
            if number > 3:
                break
            texts = {"base": shown, "untuned": shown, "tuned": plain.chat_text(question())}
            for member, text in texts.items():
                ids = plain.token_ids(text) + reply.tokens[:number]
                (_, alone) = next(iter(plain.replay(ids, reply.tokens[number : number + 1])))
                assert np.allclose(with_examples[member], alone[member], atol=2e-2)


def test_no_request_reads_them_again(eft, decoded):
    count = eft.examples_tokens
    eft.complete(question("one"), sampling=GREEDY)
    assert min(decoded[:2]) > count > decoded[2]
    for again in ("another", "and a third"):
        eft.complete("something else altogether that takes the only place", sampling=GREEDY)
        before = list(decoded)
        reply = eft.complete(question(again), sampling=GREEDY)
        fresh = [after - was for after, was in zip(decoded, before, strict=True)]
        tuned_reads = len(eft.token_ids(eft.chat_text(question(again)))) + len(reply.tokens) - 1
        assert fresh == [tuned_reads, tuned_reads, tuned_reads]
        assert reply.timings.cached_tokens >= count


def test_a_system_message_comes_after_them(eft, decoded):
    eft.complete(question(), sampling=GREEDY)
    before = decoded[0]
    messages = [{"role": "system", "content": "Be terse."}, *question()]
    reply = eft.complete(messages, sampling=GREEDY)
    assert decoded[0] - before <= len(eft.read(messages).ids[0]) - eft.examples_tokens + len(reply.tokens) - 1


def test_a_template_with_system_messages_in_front_only_gets_them_there(tiny, tmp_path):
    template = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('first only') }}"
        "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    tuned = write_tiny_model(tmp_path / "strict.gguf", seed=2, template=template)
    with EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1, examples=OWN) as eft:
        text = eft.read([{"role": "system", "content": "Be terse."}, *question()]).texts[0]
    assert text.startswith("<|im_start|>system\nBe terse.<|im_end|>\n" + TURNS)


def test_replies_side_by_side_share_them(tiny, decoded):
    with EFT.open(**tiny.family(), threads=1, examples=OWN, sequences=4, speculate="off") as eft:
        eft.completions(question(), 4, sampling=GREEDY)
        count = eft.examples_tokens
    assert decoded[0] < 2 * count + 4 * 40


def test_with_drafts_the_reply_is_the_same(tiny, eft):
    with EFT.open(**tiny.family(), threads=1, examples=OWN, speculate=3) as drafting:
        assert drafting.complete(question(), sampling=GREEDY).text == eft.complete(question(), sampling=GREEDY).text


def test_replies_that_are_not_given_are_those_of_the_tuned_side_alone_and_are_kept(tiny, short):
    lines: list[str] = []
    alone = Blend(knowledge=0)
    asked = [{"prompt": "who are you"}]
    with EFT.open(**tiny.family(), threads=1, examples=asked, progress=lines.append) as eft:
        shown = eft.examples()
        again = eft.complete(question("who are you"), blend=alone, sampling=Sampling(temperature=0, max_tokens=20))
        assert shown[1]["content"] == again.text.strip()
    assert any("making examples: 1 of 1" in line for line in lines)
    lines.clear()
    with EFT.open(**tiny.family(), threads=1, examples=asked, progress=lines.append) as eft:
        assert eft.examples() == shown
    assert not any("making examples" in line for line in lines)


def test_examples_follow_the_weights_of_traits():
    four = Demonstrations(((),) * 4, ({"kind": "k", "terse": "t"},) * 4)

    def by(**weights):
        return [turn["content"] for turn in four.turns(weights)]

    assert by(kind=1, terse=0) == ["k"] * 4
    assert sorted(by(kind=0.5, terse=0.5)) == ["k", "k", "t", "t"]
    assert by(kind=0.75, terse=0.25).count("k") == 3
    assert by(kind=30, terse=10).count("k") == 3
    assert by(kind=0, terse=0) == []


def test_a_request_with_other_weights_is_shown_others(tiny, short):
    family = {"base": tiny.base, "untuned": tiny.untuned, "tuned": {"one": tiny.tuned, "two": tiny.other}}
    with EFT.open(**family, threads=1, examples=[{"prompt": "who are you"}]) as eft:
        one, two = (eft.examples(Blend(traits={"one": w, "two": 1 - w})) for w in (1.0, 0.0))
        assert one != two
        texts = [eft.read(question(), Blend(traits={"one": w, "two": 1 - w})).texts[0] for w in (1.0, 0.0)]
        assert [shown[1]["content"] in text for shown, text in zip((one, two), texts, strict=True)] == [True, True]
        blends = [Blend(traits={"one": w, "two": 1 - w}) for w in (1.0, 0.0)]
        together = eft.greedy_replies(question(), blends, max_tokens=6)
        sampling = Sampling(temperature=0, max_tokens=6)
        assert [reply.text for reply in together] == [
            eft.complete(question(), blend=blend, sampling=sampling).text for blend in blends
        ]


def test_memory_counts_them_in_base_and_untuned(tiny):
    members = {name: read_metadata(path) for name, path in tiny.family().items()}
    with_examples, without = (
        Plan(members, {"tuned": "untuned"}, examples=count).at(256) for count in (64, 0)
    )  # fmt: skip
    grown = [with_examples.members[name].cache - without.members[name].cache for name in members]
    assert grown[0] == grown[1] > 0
    assert grown[2] == 0


def test_a_conversation_that_no_longer_fits_says_what_they_take(tiny):
    with EFT.open(**tiny.family(), threads=1, examples=OWN, ctx=256) as eft:
        with pytest.raises(ContextError, match=rf"{eft.examples_tokens} of them in examples") as error:
            eft.complete(question("x" * 200), sampling=GREEDY)
        assert "fewer examples" in error.value.hint
        assert eft.complete(question("x" * 200), sampling=GREEDY, examples=False).tokens


def test_examples_beyond_the_context_are_refused(tiny):
    long = [{"prompt": "a?", "reply": "x" * 300}]
    with pytest.raises(ContextError, match=r"examples have 3\d\d tokens, and the context holds 256"):
        EFT.open(**tiny.family(), threads=1, examples=long)


def test_a_tuned_model_without_a_template_is_refused_in_one_line(tiny, tmp_path):
    tuned = write_tiny_model(tmp_path / "plain.gguf", seed=2, template=None)
    for examples in (OWN, [{"prompt": "a?"}]):
        with pytest.raises(OptionError, match=r"no chat template|has none"):
            EFT.open(base=tiny.base, untuned=tiny.untuned, tuned=tuned, threads=1, examples=examples)


def test_a_family_file_carries_dials_and_examples(tiny, tmp_path):
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, OWN)), encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(
        f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\nexamples = "own.jsonl"\nbehaviour = 0.6\nknowledge = 1\n'
        f'filter = {{ untuned_floor = -7 }}\n[tuned]\ntuned = "{tiny.tuned}"\n',
        encoding="utf-8",
    )
    with EFT.open(path, threads=1) as eft:
        assert eft.family.blend.behaviour == 0.6
        assert eft.family.blend.filter.untuned_floor == -7
        assert [turn["content"] for turn in eft.examples()] == ["a?", "A.", "b?", "B."]
        by_default = eft.complete(question(), sampling=GREEDY)
        assert by_default.text == eft.complete(question(), blend=eft.family.blend, sampling=GREEDY).text
    with EFT.open(path, threads=1, examples="off") as eft:
        assert eft.examples() == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("examples = 99", "examples is 99"),
        ("examples = 1.5", "'examples' is 1.5"),
        ("behaviour = true", "'behaviour' is True"),
        ("knowledge = nan", "knowledge"),
        ("filter = 3", "'filter' is 3"),
        ("filter = { floor = -7 }", "filter.floor"),
        ("filter = { untuned_floor = 7 }", "untuned_floor"),
    ],
)
def test_a_wrong_dial_of_a_family_file_is_named(tiny, tmp_path, line, says):
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\n{line}\n[tuned]\ntuned = "{tiny.tuned}"\n')
    with pytest.raises(OptionError, match=says) as error:
        EFT.open(path)
    assert error.value.hint
