"""What can go wrong, in words meant for the user.

Every error carries a hint: the way out, as a command or a change to make. Programs catch `EFTError`; the
command line prints message and hint and leaves with exit code 2.
"""

from __future__ import annotations

from eft_gguf.printable import printable


class EFTError(Exception):
    """Base of all errors that a user can mend. `hint` says how.

    Both quote names and texts from files that nobody has looked at: they are made printable.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class OptionError(EFTError, ValueError):
    """A dial, weight, sampling option or setting outside its range, or an unknown name."""


class ModelFileError(EFTError):
    """A model file that is missing, unreadable, truncated or no GGUF."""


class CompatibilityError(EFTError):
    """Models that may not be blended, such as models of different vocabularies."""


class ContextError(EFTError):
    """A prompt that does not fit the context, or a context that the models cannot hold."""


class QueueFullError(EFTError):
    """More requests at once than run and wait."""


class LoadError(EFTError):
    """llama.cpp could not load a model or make a context, for want of memory or another reason."""


class DecodeError(EFTError):
    """llama.cpp refused or stopped a decode."""
