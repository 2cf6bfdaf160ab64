"""The points of a sweep."""

from __future__ import annotations

import pytest

from eft_gguf import Blend, Filter, OptionError
from eft_gguf.evaluation.frontier import behaviour_sweep, caveat, ends, trait_sweep
from eft_gguf.models.family import family_from_references, load_family

BUNDLED = load_family()


def test_the_weights_sum_to_one_and_all_else_stays() -> None:
    points = trait_sweep(BUNDLED, "helpful", "cautious", 11, Blend(0.9, filter=Filter(untuned_floor=-7)))
    assert [point.value for point in points] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert [point.blend.traits["cautious"] for point in points] == [point.value for point in points]
    assert all(sum(point.blend.traits.values()) == pytest.approx(1) for point in points)
    assert points[0].blend.traits == {"helpful": 1, "cautious": 0} and points[-1].blend.traits["helpful"] == 0
    assert all(point.blend.knowledge == 0.9 and point.blend.filter.untuned_floor == -7 for point in points)


def test_other_traits_are_at_rest() -> None:
    files = {name: str(trait.model.path) for name, trait in zip("abc", [*BUNDLED.tuned, BUNDLED.tuned[0]], strict=True)}
    family = family_from_references(BUNDLED.base.path, BUNDLED.untuned.path, files)
    assert ends(family, None, None) == ("a", "b")
    assert ends(family, None, "a") == ("b", "a")
    assert ends(family, "b", None) == ("b", "a")
    assert trait_sweep(family, "a", "c", 2, Blend())[1].blend.traits == {"a": 0, "b": 0, "c": 1}
    assert caveat(family) and not caveat(BUNDLED)


def test_the_dial_keeps_the_familys_weights() -> None:
    points = behaviour_sweep([0, 1.5], Blend(0.9))
    assert [(point.value, point.blend.behaviour, point.blend.knowledge) for point in points] == [
        (0, 0, 0.9),
        (1.5, 1.5, 0.9),
    ]
    assert all(not point.blend.traits for point in points)
    with pytest.raises(OptionError, match="behaviour"):
        behaviour_sweep([float("inf")], Blend())
