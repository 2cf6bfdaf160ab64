"""How logits and candidates lie in memory, for all compiled kernels alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray[np.float32], ...]
"""The logits of the models that have part in a blend."""

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)
"""The memory layout of llama.cpp's `llama_token_data`."""
