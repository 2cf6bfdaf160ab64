"""One thread at a time: who uses the models, and what must wait until they are done."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from eft_gguf.errors import EFTError


class Turn:
    """A lock for what llama.cpp allows to one thread at a time. Used in `with`; the same thread may enter it again.

    Other threads wait. A process that was forked from the one that loaded the models gets an EFTError: llama.cpp's
    threads are not there, and it would wait for them for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._depth = 0
        self._later: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        self.require_process()
        self._lock.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._depth == 1:
                while self._later:
                    self._later.popleft()()
        finally:
            self._depth -= 1
            self._lock.release()

    @property
    def own_process(self) -> bool:
        """Whether this is the process that loaded the models."""
        return os.getpid() == self._process

    def require_process(self) -> None:
        """Raise EFTError in a process that was forked."""
        if not self.own_process:
            raise EFTError(
                "these models were loaded before this process was forked, and cannot be used in it",
                hint="open them in the process that uses them, or start processes by spawn",
            )

    def after(self, action: Callable[[], None]) -> None:
        """Carry an action out now, or when whoever has the turn is done.

        Never waits, so that the garbage collector may call it anywhere: in the middle of a step of this thread, or
        while this thread has a lock that another one wants.
        """
        if not self.own_process:
            return
        self._later.append(action)
        if self._lock.acquire(blocking=False):
            try:
                if self._depth == 0:
                    self._depth = 1
                    try:
                        while self._later:
                            self._later.popleft()()
                    finally:
                        self._depth = 0
            finally:
                self._lock.release()
