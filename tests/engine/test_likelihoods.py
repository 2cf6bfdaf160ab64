"""Likelihoods of many continuations, decoded together, are those of each alone."""

from __future__ import annotations

import numpy as np
import pytest

from eft_gguf import EFT, Blend, ContextError, EFTError, Filter, OptionError, Sampling
from tests.plain_llama import TEXT
from tests.small_members import SMALL, small_members

BLENDS = [Blend(), Blend(0.7, 1.4), Blend(1, 0), Blend(0, 1), Blend(filter=Filter(untuned_floor=-3, base_min_p=0.01))]


@pytest.fixture(scope="module", params=SMALL)
def eft(request, tmp_path_factory):
    members = small_members(request.param, tmp_path_factory.mktemp("family"))
    with members.open(sequences=4, batch=64) as eft:
        yield eft


def pieces(eft: EFT) -> list[tuple[list[int], list[int]]]:
    """A context with short continuations, one with long ones, and single tokens."""
    ids = eft.token_ids(TEXT)
    shared, other = ids[:70], ids[30:40]
    return [
        *((shared, ids[70 + 3 * number : 70 + 3 * number + 1 + number]) for number in range(5)),
        (other, ids[40:90]),
        (ids[:1], ids[1:2]),
        (other, ids[41:45]),
    ]


@pytest.mark.parametrize("blend", BLENDS)
def test_each_is_what_score_gives(eft: EFT, blend: Blend) -> None:
    texts = pieces(eft)
    for (context, continuation), (values, greedy) in zip(texts, eft.likelihoods(texts, blend=blend), strict=True):
        blended = eft._engine.score([*context, *continuation], eft.family.factors(blend), blend.filter)[1]
        np.testing.assert_allclose(values, blended[len(context) - 1 :], rtol=1e-3, atol=5e-3)
        assert isinstance(greedy, bool)


def test_a_greedy_reply_is_found_to_be_one(eft: EFT) -> None:
    prompt = TEXT[:60]
    reply = eft.complete(prompt, sampling=Sampling(temperature=0, max_tokens=5)).tokens
    other = [reply[0], *((token + 1) % 200 for token in reply[1:])]
    ids = eft.token_ids(prompt)
    found = eft.likelihoods([(ids, reply), (ids, other), (ids, reply[:1])])
    assert [greedy for _, greedy in found] == [True, False, True]


def test_a_context_that_neighbours_share_is_decoded_once_and_short_ones_together(eft: EFT) -> None:
    ids = eft.token_ids(TEXT)
    context = ids[100:150]
    eft.likelihoods([(ids[200:202], ids[202:203])] * 4)  # nothing of it is in a slot
    counts, decode = [], eft._ensemble.decode
    try:
        eft._ensemble.decode = lambda member, parts: (  # type: ignore[method-assign]
            counts.append(sum(len(part.tokens) for part in parts)),
            decode(member, parts),
        )[1]
        eft.likelihoods([(context, ids[150 + 2 * number : 152 + 2 * number]) for number in range(4)])
    finally:
        del eft._ensemble.decode  # type: ignore[method-assign]
    members = len(eft.members)
    assert sum(counts) == members * (49 + 4 * 2)
    assert counts[-members:] == [8] * members


def test_what_does_not_fit_is_refused(eft: EFT) -> None:
    with pytest.raises(ContextError, match="the text has"):
        eft.likelihoods([([1], [1]), ([1] * eft.ctx, [1])])
    with pytest.raises(ContextError, match="beyond the"):
        eft.likelihoods([([1], [10**6])])
    for text in (([], [1]), ([1], [])):
        with pytest.raises(OptionError, match="is empty"):
            eft.likelihoods([text])
    assert eft.likelihoods([]) == []
    streams = [eft.stream("a") for _ in range(4)]
    with pytest.raises(EFTError, match="all 4 sequences are in use"):
        eft.likelihoods([([1], [1])])
    for stream in streams:
        stream.close()
