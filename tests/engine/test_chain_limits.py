"""What llama.cpp's samplers must not be given."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from eft_gguf import EFT, OptionError, Sampling
from eft_gguf.blend.layout import CANDIDATE
from eft_gguf.engine.chain import SamplerChain


def test_typical_is_right_beside_impossible_tokens() -> None:
    """Of .5 .3 .2 the surprise nearest to the average (1.03 nats) is that of .3 (1.20), then of .5: typical_p 0.6."""
    chain = SamplerChain()
    chain.add_typical(0.6)
    try:
        candidates = np.zeros(6, CANDIDATE)
        candidates["id"] = range(6)
        candidates["logit"] = [-np.inf, np.log(0.5), -np.inf, np.log(0.3), np.log(0.2), -np.inf]
        assert sorted(chain.keep(candidates)["id"].tolist()) == [1, 3]
    finally:
        chain.close()


@pytest.mark.parametrize("options", [{"repeat_penalty": 1.2}, {"presence_penalty": 0.5}, {"dry_multiplier": 0.8}])
def test_a_window_beyond_the_context_is_the_context(tiny, options) -> None:
    with EFT.open(**tiny.family(), threads=1, speculate="off") as eft:
        texts = [
            eft.complete("hello", sampling=Sampling(temperature=0, max_tokens=8, penalty_window=window, **options)).text
            for window in (2**31 - 1, eft.ctx)
        ]
        assert texts[0] == texts[1]


def test_bad_grammars_in_many_threads_leave_standard_error(tiny, capfd) -> None:
    with EFT.open(**tiny.family(), threads=1, speculate="off") as eft:

        def refused(number: int) -> bool:
            try:
                eft.complete("a", sampling=Sampling(grammar=f'root ::= "{number}', max_tokens=1))
            except OptionError:
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(refused, range(64)))
    import os

    os.write(2, b"still there\n")
    assert "still there" in capfd.readouterr().err
