"""Can a model's cache be cut back to an earlier token? Asked of llama.cpp itself, for it depends on the architecture.

Plain attention can. Sliding windows can with the cache of full size that llama.cpp makes unless told otherwise
(`swa_full`; with a smaller one it would say so too, although what left the window is gone). Recurrent states, such as
Mamba's and those of hybrid models, hold no earlier ones: a draft that is refused could not be taken back.
"""

from __future__ import annotations

from eft_gguf.engine.ensemble import Ensemble, Part


def members_that_roll_back(ensemble: Ensemble) -> list[bool]:
    """By member, whether it can drop its last token. To be asked while nothing is cached; nothing is left behind."""
    return [_rolls_back(ensemble, member) for member in range(len(ensemble.names))]


def _rolls_back(ensemble: Ensemble, member: int) -> bool:
    # llama.cpp may say yes for states that it could cut back at this place, but not at others.
    if ensemble.recurrent[member]:
        return False
    tokens = [0] * min(3, ensemble.batch, ensemble.ctx)
    ensemble.decode(member, [Part(0, 0, tokens, 0)])
    kept = ensemble.forget(member, 0, len(tokens) - 1)
    ensemble.forget(member, 0, 0)
    return kept == len(tokens) - 1
