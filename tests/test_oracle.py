"""Log-probabilities of the blend, held to three plain `llama_cpp.Llama` objects. tests/real does it on real models."""

import pytest

from eft_gguf import Blend
from tests.plain_llama import assert_oracle
from tests.small_members import SMALL, small_members


@pytest.mark.parametrize("family", SMALL)
def test_log_probabilities_are_those_of_plain_models_combined(family, tmp_path):
    assert_oracle(small_members(family, tmp_path), [Blend(), Blend(0.7, 1.3), Blend(1.5, -0.5)])
