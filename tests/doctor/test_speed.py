"""Expected speed and drafts, from figures that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eft_gguf import EFT
from eft_gguf.doctor.speed import QUESTION, Measured, measure, probabilities, speculation_check, speed_check
from eft_gguf.engine.draft_length import Costs
from tests.conftest import TinyFiles
from tests.tiny_architectures import write_architecture
from tests.tiny_models import write_tiny_model


def measured(
    single: tuple[float, float, float], growth: float, acceptance: float, *, stuck: tuple[str, ...] = ()
) -> Measured:
    """Three models whose decodes of n tokens take single · (1 + growth · (n − 1)) seconds."""
    counts = np.arange(17)
    costs = Costs([np.where(counts > 0, seconds * (1 + growth * (counts - 1)), 0.0) for seconds in single])
    members = ("base", "untuned", "kind")
    seconds = dict(zip(members, single, strict=True))
    return Measured(members, (0, 1, 2), 2, seconds, costs, stuck, acceptance, "q", [1, 2])


def test_tokens_a_second_are_what_all_decodes_allow() -> None:
    check = speed_check(measured((0.06, 0.02, 0.02), 1.0, 0.9), busy=0.0)
    assert (check.verdict, check.message) == ("PASS", "about 10.0 tokens/s, without drafts")
    assert check.evidence[0] == "base alone: 16.7 tokens/s, 60% of a token's time"
    assert check.figures["tokens_per_second"] == pytest.approx(10)


def test_a_slow_family_names_its_slowest_model() -> None:
    check = speed_check(measured((0.6, 0.02, 0.02), 1.0, 0.9), busy=0.0)
    assert check.verdict == "WARN" and check.remedy.startswith("take base at a smaller quantization")
    busy = speed_check(measured((0.6, 0.02, 0.02), 1.0, 0.9), busy=2.0)
    assert busy.remedy.startswith("look again while nothing else runs") and "2.0 cores busy" in busy.evidence[-1]


def test_drafts_pay_where_checking_several_is_cheap() -> None:
    check = speculation_check(measured((0.1, 0.01, 0.01), 0.02, 0.9))
    assert check.figures["drafts"] > 2 and check.figures["speedup"] > 1.5
    assert "will pay" in check.message and "0.90" in check.evidence[0]


def test_drafts_do_not_pay_where_it_costs_as_much_as_the_tokens() -> None:
    check = speculation_check(measured((0.1, 0.05, 0.05), 1.0, 0.9))
    assert check.verdict == "PASS" and check.figures["drafts"] == 0 and "will not pay" in check.message


def test_models_with_states_decline_drafts() -> None:
    check = speculation_check(measured((0.1, 0.01, 0.01), 0.02, 0.9, stuck=("base",)))
    assert check.message == "no drafts: base cannot be taken back to an earlier token"


def test_a_family_is_measured(tiny: TinyFiles) -> None:
    with EFT.open(**tiny.family()) as eft:
        found = measure(eft, lambda what: None)
    assert set(found.seconds) == {"base", "untuned", "tuned"} and all(found.seconds.values())
    assert found.needed == (0, 1, 2) and found.members[found.drafter] == "tuned"
    assert 0 < found.acceptance <= 1 and found.reply and found.stuck == ()


def test_models_without_a_template_and_with_states_are_measured_too(tmp_path: Path) -> None:
    paths = [write_architecture(tmp_path / f"{n}.gguf", "Mamba", seed=n, large=n == 0) for n in range(3)]
    with EFT.open(base=paths[0], untuned=paths[1], tuned=paths[2]) as eft:
        found = measure(eft, lambda what: None)
    assert found.stuck == ("base", "untuned", "tuned") and all(found.seconds.values())
    plain = [write_tiny_model(tmp_path / f"plain-{n}.gguf", seed=n, template=None) for n in range(3)]
    with EFT.open(base=plain[0], untuned=plain[1], tuned=plain[2]) as eft:
        assert measure(eft, lambda what: None).prompt == QUESTION


def test_probabilities() -> None:
    found = probabilities(np.array([0.0, np.log(3.0), -np.inf], np.float32))
    np.testing.assert_allclose(found, [0.25, 0.75, 0.0])
