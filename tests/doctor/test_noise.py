"""Noise of quantization: worked out by hand, found on files, and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eft_gguf import EFT
from eft_gguf.doctor.noise import divergences, judged, noise_check, other_quantizations, second_pair
from eft_gguf.doctor.speed import measure
from eft_gguf.models.family import family_from_references
from tests.tiny_models import write_tiny_adapter, write_tiny_model


def test_divergences_by_hand() -> None:
    base = [np.log([0.5, 0.5])]
    # softmax(base + difference) is (3/4, 1/4) and (1/2, 1/2)
    one, other = [np.log([3.0, 1.0])], [np.log([1.0, 1.0])]
    kl = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert divergences(base, one, other) == pytest.approx((kl, kl))
    assert divergences(base, one, one) == pytest.approx((0.0, kl))


def test_tokens_that_may_not_be_said_do_not_count() -> None:
    base = [np.array([0.0, 0.0, -np.inf])]
    difference = [np.array([1.0, 0.0, 0.0])]
    noise, effect = divergences(base, difference, difference)
    assert noise == pytest.approx(0) and np.isfinite(effect)


def test_files_beside_it_that_are_called_alike(tmp_path: Path) -> None:
    for name in (
        "m-Q8_0.gguf",
        "m-q4_k_m.gguf",
        "m-f16-00001-of-00002.gguf",
        "m-f16-00002-of-00002.gguf",
        "n-Q4_0.gguf",
    ):
        (tmp_path / name).touch()
    (tmp_path / "m-Q5_0.gguf").symlink_to(tmp_path / "gone")
    assert other_quantizations(tmp_path / "m-Q8_0.gguf") == {"Q4_K_M": tmp_path / "m-q4_k_m.gguf"}
    assert other_quantizations(tmp_path / "plain.gguf") == {}


def pair(folder: Path, quantization: str) -> None:
    for seed, name in ((1, "small"), (2, "tuned")):
        write_tiny_model(folder / f"{name}-{quantization}.gguf", seed=seed, quantization=quantization)


@pytest.mark.parametrize(("used", "other", "finer"), [("Q4_0", "F32", True), ("F32", "Q4_0", False)])
def test_a_pair_at_two_quantizations(tmp_path: Path, used: str, other: str, finer: bool) -> None:
    write_tiny_model(tmp_path / "large.gguf")
    pair(tmp_path, "F32")
    pair(tmp_path, "Q4_0")
    paths = [tmp_path / "large.gguf", tmp_path / f"small-{used}.gguf", tmp_path / f"tuned-{used}.gguf"]
    family = family_from_references(paths[0], paths[1], str(paths[2]))
    found = second_pair(family)
    assert found is not None and found[0] == other
    with EFT.open(family) as eft:
        measured = measure(eft, lambda what: None)
        check = noise_check(family, eft, measured, {}, lambda what: None)
    assert check.figures["noise"] > 0 and check.figures["effect"] > check.figures["noise"]
    assert ("finer" in check.message) is finer
    # A table of random weights keeps nothing of 4 bits' rounding small.
    assert (check.verdict == "WARN") is (finer and check.figures["noise"] > 0.1 * check.figures["effect"])


def test_an_adapter_serves_both_and_a_pair_equal_to_itself_has_no_noise(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "large.gguf")
    for name in ("F32", "F16"):  # the same weights under two names
        write_tiny_model(tmp_path / f"small-{name}.gguf", seed=1)
    adapter = write_tiny_adapter(tmp_path / "lora.gguf")
    family = family_from_references(tmp_path / "large.gguf", tmp_path / "small-F32.gguf", f"lora:{adapter}")
    assert second_pair(family) == ("F16", tmp_path / "small-F16.gguf", adapter)
    with EFT.open(family) as eft:
        measured = measure(eft, lambda what: None)
        check = noise_check(family, eft, measured, {}, lambda what: None)
    assert check.verdict == "PASS" and check.figures["noise"] < 1e-6 < check.figures["effect"]


def test_without_a_second_pair_nothing_is_said(tmp_path: Path) -> None:
    paths = [write_tiny_model(tmp_path / f"{name}.gguf", seed=seed) for seed, name in enumerate("abc")]
    family = family_from_references(paths[0], paths[1], str(paths[2]))
    with EFT.open(family) as eft:
        check = noise_check(family, eft, measure(eft, lambda what: None), {}, lambda what: None)
    assert check.verdict == "SKIP" and "no second quantization" in check.message


def test_verdicts() -> None:
    paths = (Path("u-Q8_0.gguf"), Path("t-Q8_0.gguf"))
    assert judged(0.05, 1.0, "Q8_0", finer=True, paths=paths, adapter=False).verdict == "PASS"
    loud = judged(0.3, 1.0, "Q8_0", finer=True, paths=paths, adapter=True)
    assert (loud.verdict, loud.remedy) == (
        "WARN",
        "take the finer pair: --untuned u-Q8_0.gguf --tuned lora:t-Q8_0.gguf",
    )
    coarser = judged(0.3, 1.0, "Q4_0", finer=False, paths=paths, adapter=False)
    assert coarser.verdict == "PASS" and "going down to Q4_0" in coarser.evidence[0]
    assert judged(0.0, 0.0, "Q8_0", finer=True, paths=paths, adapter=False).verdict == "PASS"
