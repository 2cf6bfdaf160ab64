"""Dials at their ends give each model alone, token for token; without a fine-tuning difference the blend is the base.

tests/real does the same on real models.
"""

from dataclasses import replace

import pytest

from tests.plain_llama import ALONE, assert_alone, assert_base_whatever_behaviour_is
from tests.small_members import SMALL, small_members


@pytest.fixture(scope="module", params=SMALL)
def members(request, tmp_path_factory):
    return small_members(request.param, tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize("name", ALONE)
def test_dials_at_their_ends_give_one_model_alone(members, name):
    assert_alone(members, name, count=48)


def test_without_a_difference_by_tuning_the_blend_is_the_base(members):
    assert_base_whatever_behaviour_is(replace(members, tuned=members.untuned, adapter=False), count=48)
