"""The whole path on every kind of model: load, blend, generate, talk, up- and down-scaling, traits.

Random weights say nothing sensible, but the equation, the caches and the templates must hold on all layouts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from eft_gguf import EFT, Blend, Sampling
from tests.tiny_architectures import ARCHITECTURES, write_architecture

GREEDY = Sampling(temperature=0.0, max_tokens=12)
QUESTION = [{"role": "user", "content": "the heath, é?"}]
Models = dict[str, Path]
Row = NDArray[np.float32]


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def series(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models(series: str, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Two sizes, and of each three that differ as before and after fine-tunings."""
    folder = tmp_path_factory.mktemp("series")
    return {
        f"{size}-{seed}": write_architecture(folder / f"{size}-{seed}.gguf", series, seed=seed, large=size == "large")
        for size in ("small", "large")
        for seed in range(3)
    }


def up(models: Models) -> EFT:
    return EFT.open(base=models["large-0"], untuned=models["small-0"], tuned=models["small-1"])


def down(models: Models) -> EFT:
    return EFT.open(base=models["small-0"], untuned=models["large-0"], tuned=models["large-1"])


def allowed(rows: dict[str, Row]) -> dict[str, Row]:
    """Each model's logits of the tokens that a reply may hold."""
    may = np.isfinite(rows["blend"])
    return {name: row[may] for name, row in rows.items()}


@pytest.mark.parametrize("scaling", [up, down])
def test_scaling_follows_the_equation(models: Models, scaling: object) -> None:
    with scaling(models) as eft:  # type: ignore[operator]
        assert eft.warnings == []
        blend = Blend(knowledge=0.7, behaviour=1.2)
        for _, rows in eft.replay(QUESTION, "he the", blend=blend):
            base, untuned, tuned, blended = allowed(rows).values()
            expected = untuned + 0.7 * (base - untuned) + 1.2 * (tuned - untuned)
            np.testing.assert_allclose(blended, expected, atol=1e-4)
        replies = {tuple(eft.complete(QUESTION, blend=blend, sampling=GREEDY).tokens) for _ in range(2)}
        assert len(replies) == 1


def test_corners_are_the_models_alone(models: Models) -> None:
    """Each of the models, and none other, decides at its corner of the dials."""
    with up(models) as eft:
        said = {}
        for name, dials in {"base": (1.0, 0.0), "untuned": (0.0, 0.0), "tuned": (0.0, 1.0)}.items():
            blend = Blend(*dials)
            said[name] = eft.complete(QUESTION, blend=blend, sampling=GREEDY).tokens
            ends = eft._ensemble.end_tokens  # an end token is a choice like any other
            for token, rows in eft.replay(QUESTION, said[name], blend=blend):
                assert token == int(np.argmax(rows[name])) or token in ends
        assert len(set(map(tuple, said.values()))) == 3


def test_traits_are_weighed(models: Models) -> None:
    tuned = [f"one={models['small-1']}:0.75", f"two={models['small-2']}:0.25"]
    with EFT.open(base=models["large-0"], untuned=models["small-0"], tuned=tuned) as eft:
        for _, rows in eft.replay(QUESTION, "he"):
            base, untuned, one, two, blended = allowed(rows).values()
            np.testing.assert_allclose(blended, base + 0.75 * one + 0.25 * two - untuned, atol=1e-4)
        alone = eft.complete(QUESTION, blend=Blend(0.0, 1.0, {"one": 0.0, "two": 1.0}), sampling=GREEDY).tokens
    with EFT.open(base=models["large-0"], untuned=models["small-0"], tuned=models["small-2"]) as eft:
        assert eft.complete(QUESTION, blend=Blend(0.0, 1.0), sampling=GREEDY).tokens == alone


def test_later_turns_read_what_a_fresh_start_reads(models: Models, series: str) -> None:
    """What is kept of earlier turns, or rolled back, leaves the same state as reading everything anew."""
    with up(models) as eft:
        first = eft.complete(QUESTION, sampling=GREEDY)
        talk = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "the he"}]
        # A random reply is rarely text: which ids it was sampled as must be known.
        transcripts = list(eft._prompts.transcripts)
        second = eft.complete(talk, sampling=GREEDY)
        # The last question is asked otherwise: what followed it is to be dropped.
        otherwise = [*talk[:-1], {"role": "user", "content": "the te"}]
        third = eft.complete(otherwise, sampling=GREEDY)
    for later, messages in ((second, talk), (third, otherwise)):
        with up(models) as eft:
            eft._prompts.transcripts.extend(transcripts)
            fresh = eft.complete(messages, sampling=GREEDY)
        assert fresh.timings.cached_tokens == 0
        # A router may choose another expert for rounding alone, after which logits differ by 0.5.
        shared = 1 if "experts" in series else len(fresh.tokens)
        assert later.tokens[:shared] == fresh.tokens[:shared]
    assert second.timings.cached_tokens > len(first.tokens)
    # States of recurrent layers cannot be cut back to an earlier token: those read the talk again.
    assert (third.timings.cached_tokens > 0) is not ARCHITECTURES[series].recurrent


def test_a_long_prompt_is_read_in_batches(models: Models) -> None:
    """Longer than a batch, and longer than Gemma's sliding window."""
    text = "the heath. " * 8
    with EFT.open(base=models["large-0"], untuned=models["small-0"], tuned=models["small-1"], batch=16) as eft:
        in_parts = eft.score(text)
    with up(models) as eft:
        at_once = eft.score(text)
    np.testing.assert_allclose(in_parts.blend[1:], at_once.blend[1:], atol=2e-3)
    assert len(at_once.tokens) > 32


def test_several_replies_to_one_prompt_are_those_that_each_seed_gives(models: Models) -> None:
    """What is copied from one sequence to another, or read again where a state can't be copied, is the same."""
    # A batch of another size changes logits by hundredths: rarely enough to draw another token, at this temperature.
    drawn = Sampling(temperature=0.3, top_k=0, min_p=0.0, max_tokens=10, seed=5)
    with EFT.open(base=models["large-0"], untuned=models["small-0"], tuned=models["small-1"], sequences=3) as eft:
        together = [reply.tokens for reply in eft.completions(QUESTION, 4, sampling=drawn)]
        turn = [*QUESTION, {"role": "assistant", "content": "the he"}, {"role": "user", "content": "é"}]
        later = [reply.tokens for reply in eft.completions(turn, 3, sampling=drawn)]
    with up(models) as alone:
        seeds = [replace(drawn, seed=5 + number) for number in range(4)]
        assert together == [alone.complete(QUESTION, sampling=seed).tokens for seed in seeds]
        assert later == [alone.complete(turn, sampling=seed).tokens for seed in seeds[:3]]


def test_drafts_leave_a_greedy_reply_as_it_is_or_are_declined(models: Models, series: str) -> None:
    """Members that cannot be taken back to an earlier token, and whole blends with them, go without drafts."""
    replies = {}
    for setting in ("off", 4):
        named = {"base": models["large-0"], "untuned": models["small-0"], "tuned": models["small-1"]}
        with EFT.open(**named, speculate=setting) as eft:
            replies[setting] = eft.complete(QUESTION, blend=Blend(0.9, 1.1), sampling=GREEDY)
    drafted = replies[4].timings.drafted
    assert (drafted > 0) is not ARCHITECTURES[series].recurrent
    # A router may choose another expert for rounding alone, after which logits differ by 0.5.
    shared = 1 if "experts" in series else len(replies["off"].tokens)
    assert replies[4].tokens[:shared] == replies["off"].tokens[:shared]
