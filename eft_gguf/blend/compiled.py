"""The kernels in use: Numba's, or with EFT_GGUF_KERNELS=native those of native/eft.h. Import them from here.

With `native`, Numba is never imported: it need not be installed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from eft_gguf.errors import OptionError

__all__ = ["FilteredBlend", "differences", "drawing_kernels", "kernels", "likeliest", "log_mass"]

_choice = os.environ.get("EFT_GGUF_KERNELS") or "numba"
if _choice not in ("numba", "native"):
    raise OptionError(f"EFT_GGUF_KERNELS is {_choice!r}", hint="set it to numba or native, or leave it out")

if TYPE_CHECKING or _choice == "numba":
    from eft_gguf.blend import drawing_kernels, kernels
    from eft_gguf.blend.difference_kernels import differences, likeliest
    from eft_gguf.blend.filter_kernels import FilteredBlend
    from eft_gguf.blend.log_mass import log_mass
else:
    from eft_gguf.blend import native as kernels
    from eft_gguf.blend import native_drawing as drawing_kernels
    from eft_gguf.blend.native import FilteredBlend, log_mass
    from eft_gguf.blend.native_drawing import differences, likeliest
