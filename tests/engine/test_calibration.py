"""What decodes cost: measured sensibly, without a trace, once for a family, and never relied on where it is broken."""

import json

import numpy as np
import pytest

from eft_gguf import EFT, Sampling
from eft_gguf.engine import calibration
from eft_gguf.engine.calibration import _curve, measure_costs
from eft_gguf.engine.draft_length import Costs
from eft_gguf.engine.kept_costs import keep_costs, read_costs
from eft_gguf.engine.rollback import members_that_roll_back

GREEDY = Sampling(temperature=0, max_tokens=12)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFT_GGUF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "STEADY", np.inf)  # other work on this machine does not matter here
    monkeypatch.setattr(calibration, "LONGEST", 60.0)
    return tmp_path / "cache" / "costs"


@pytest.fixture
def progress():
    return []


def opened(tiny, progress, **options):
    return EFT.open(**tiny.family(), threads=1, progress=progress.append, **options)


def test_a_curve_holds_what_was_measured_and_grows_with_the_batch():
    curve = _curve({1: 1.0, 2: 1.5, 4: 4.0, 8: 2.0})  # the third was disturbed
    np.testing.assert_allclose(curve[[0, 1, 2, 4, 8]], [0, 1, 1.5, 2, 2])
    assert len(curve) == 9 and (np.diff(curve) >= 0).all()


def test_every_member_is_measured_and_nothing_stays_behind(tiny, cache):
    with EFT.open(**tiny.family(), threads=1, sequences=2, speculate="off") as eft:
        expected = eft.complete("once upon a time", sampling=GREEDY).tokens
    with EFT.open(**tiny.family(), threads=1, sequences=2, speculate="off") as eft:
        rolls_back = members_that_roll_back(eft._ensemble)
        costs, _ = measure_costs(eft._ensemble, rolls_back, (1, -1, 1))
        assert rolls_back == [True] * 3
        assert [len(curve) for curve in costs.curves] == [18] * 3
        assert all(curve[1] > 0 and curve[0] == 0 for curve in costs.curves)
        assert costs.step >= 0 < costs.step + costs.sequence and costs.draft >= 0
        for member in range(3):
            for number in range(2):
                assert eft._ensemble._contexts[member].last_position(number) == -1
        assert eft.complete("once upon a time", sampling=GREEDY).tokens == expected


@pytest.mark.parametrize("options", [{"ctx": 8}, {"batch": 1}, {"ctx": 32, "batch": 3}, {"batch": 16, "sequences": 16}])
def test_small_contexts_and_batches_are_measured_too(tiny, cache, options):
    with EFT.open(**tiny.family(), threads=1, **options) as eft:
        reply = eft.complete("on", sampling=GREEDY)
        assert len(next(iter(eft.speculation["decode_milliseconds"].values()))) >= 1
    with EFT.open(**tiny.family(), threads=1, speculate="off", **options) as eft:
        assert eft.complete("on", sampling=GREEDY).tokens == reply.tokens


def test_costs_are_measured_once_for_a_family_and_a_way_to_use_it(tiny, cache, progress):
    with opened(tiny, progress) as eft:
        first = eft.speculation
    with opened(tiny, progress) as eft:
        assert eft.speculation == first
    assert sum("drafts" in line for line in progress) == 1 and len(list(cache.iterdir())) == 1
    opened(tiny, progress, batch=64).close()
    assert sum("drafts" in line for line in progress) == 2 and len(list(cache.iterdir())) == 2
    with opened(tiny, progress, speculate=3) as eft:
        assert eft.speculation["decode_milliseconds"] is None
    assert sum("drafts" in line for line in progress) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"curves": [], "step": 1, "sequence": 1, "draft": 1}',
        '{"curves": [[0, 1], [0, 1], [0]], "step": 1, "sequence": 1, "draft": 1}',
        '{"curves": [[0, 1], [0, 1], [0, "x"]], "step": 1, "sequence": 1, "draft": 1}',
        '{"curves": [[0, 1], [0, 1], [0, -1]], "step": 1, "sequence": 1, "draft": 1}',
        '{"curves": [[0, NaN], [0, 1], [0, 1]], "step": 1, "sequence": 1, "draft": 1}',
        '{"curves": [[[0]], [[0]], [[0]]], "step": 1, "sequence": 1, "draft": 1}',
    ],
)
def test_a_broken_file_is_measured_anew(tiny, cache, progress, content):
    opened(tiny, progress).close()
    kept = next(cache.iterdir())
    kept.write_text(content)
    with opened(tiny, progress) as eft:
        assert eft.complete("on", sampling=GREEDY).tokens
    assert sum("drafts" in line for line in progress) == 2
    assert len(json.loads(kept.read_text())["curves"]) == 3


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tiny, tmp_path, monkeypatch, progress):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFT_GGUF_CACHE", str(tmp_path / "file"))
    with opened(tiny, progress) as eft:
        assert eft.speculation["setting"] == "auto"


def test_what_a_busy_machine_gave_is_not_kept(tiny, cache, progress, monkeypatch):
    monkeypatch.setattr(calibration, "STEADY", 0.0)
    opened(tiny, progress).close()
    assert not cache.exists()


def test_costs_survive_being_kept(tmp_path):
    costs = Costs([np.array([0.0, 0.1, 0.3]), np.array([0.0, 1 / 3, 2.0])], 0.01, 0.003, 0.002)
    keep_costs(tmp_path / "costs" / "a.json", costs)
    kept = read_costs(tmp_path / "costs" / "a.json", 2)
    assert kept is not None and (kept.step, kept.sequence, kept.draft) == (0.01, 0.003, 0.002)
    np.testing.assert_array_equal(kept.curves, costs.curves)
    assert read_costs(tmp_path / "costs" / "a.json", 3) is None
