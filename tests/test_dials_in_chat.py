"""Dials turned in the middle of a chat: nothing that was read is read again. Counted in what llama.cpp is given,
without drafts: of these some are decoded in vain.
"""

from collections import Counter

import pytest

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.engine.ensemble import Ensemble

TURNS = [
    ("What is the capital of Peru?", Blend()),
    ("And of Chile?", Blend(knowledge=0.5, behaviour=1.5)),
    ("Is Kobe in Japan?", Blend(behaviour=0.3)),
    ("What is the symbol of iron?", Blend(traits={"helpful": 0.4, "cautious": 0.6})),
    ("And of gold?", Blend(knowledge=1.2, traits={"helpful": 1, "cautious": 0.1})),
]


@pytest.fixture
def decoded(monkeypatch):
    """How often each position of each member was given to llama.cpp."""
    places: Counter[tuple[str, int]] = Counter()
    decode = Ensemble.decode

    def counting(self, member, parts):
        for part in parts:
            places.update((self.names[member], part.position + i) for i in range(len(part.tokens)))
        return decode(self, member, parts)

    monkeypatch.setattr(Ensemble, "decode", counting)
    return places


def positions(decoded, name):
    return sorted(place for member, place in decoded if member == name)


def test_each_token_of_a_chat_is_decoded_once_whatever_the_dials_do(decoded):
    messages = []
    with EFT.bundled(threads=1, speculate="off") as eft:
        for number, (question, blend) in enumerate(TURNS):
            messages.append({"role": "user", "content": question})
            reply = eft.complete(messages, blend=blend, sampling=Sampling(temperature=0, max_tokens=40))
            messages.append({"role": "assistant", "content": reply.text})
            used = reply.timings.prompt_tokens + reply.timings.generated_tokens - 1
            for name in ("base", "untuned", "helpful"):
                assert positions(decoded, name) == list(range(used)), (number, name)
            # At weight 0 a trait costs nothing; when it is wanted it reads all that was said, once.
            cautious = range(0) if number < 3 else range(used)
            assert positions(decoded, "cautious") == list(cautious), number
            assert set(decoded.values()) == {1}
            # What the members hold from earlier turns is told: nothing where one has to catch up.
            assert (reply.timings.cached_tokens > 0) == (number not in (0, 3))


def test_a_model_without_part_in_the_blend_catches_up_once(decoded):
    messages = [{"role": "user", "content": "What is the capital of Peru?"}]
    greedy = Sampling(temperature=0, max_tokens=40)
    with EFT.bundled(threads=1, speculate="off") as eft:
        reply = eft.complete(messages, blend=Blend(1, 0), sampling=greedy)
        assert {member for member, _ in decoded} == {"base"}
        messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": "And of Chile?"}]
        reply = eft.complete(messages, sampling=greedy)
        used = reply.timings.prompt_tokens + reply.timings.generated_tokens - 1
        for name in ("base", "untuned", "helpful"):
            assert positions(decoded, name) == list(range(used))
        assert set(decoded.values()) == {1}
