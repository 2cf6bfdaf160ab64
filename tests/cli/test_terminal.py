"""A chat in a real terminal, with the bundled family."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))
PATIENCE = 180.0  # seconds for models to load on a machine that does much else


class Terminal:
    """A program in a pseudo-terminal of 80 columns: what it shows, and keys for it."""

    def __init__(self, *arguments: str) -> None:
        self.control, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40", "NO_COLOR": "1"}
        streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        self.process = subprocess.Popen([EFT_GGUF, *arguments], **streams, env=environment, start_new_session=True)
        os.close(terminal)
        self.shown = ""

    def wait_for(self, pattern: str) -> str:
        """All that is shown up to the first match, which is then no longer waited for."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in: {self.shown[-2000:]}"
            if select.select([self.control], [], [], 1)[0]:
                try:
                    data = os.read(self.control, 65536)
                except OSError:
                    raise AssertionError(f"it ended without {pattern!r}: {self.shown[-2000:]}") from None
                self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode("utf-8", "replace"))
                if "\x1b[6n" in data.decode("utf-8", "replace"):
                    self.press("\x1b[1;1R")  # prompt_toolkit asks where the cursor is
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def press(self, keys: str) -> None:
        os.write(self.control, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.control)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_talk(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("chat", "--ctx", "256")
    assert "bundled toy models" in chat.wait_for(r"Ctrl-D: leave\.")
    chat.press("/set temperature 0\r")
    chat.wait_for("temperature: 0")
    chat.press("What is the capital of Peru?\r")
    said = chat.wait_for(r"seed \d+")
    assert "Lima" in said
    footer = next(line for line in said.splitlines() if "tokens, " in line)
    assert len(footer.strip("\r")) <= 80
    chat.press("/compare\r")
    compared = chat.wait_for("yours(.|\n)+?┘")
    assert all(name in compared for name in ("tuned", "blend", "untuned", "base", "knowledge 1, behaviour 1"))
    chat.press("/name Andes\r")
    chat.wait_for("This chat: Andes")
    chat.press("/chats\r")
    chat.wait_for(r"1 +\d{4}-.+Andes +\(2 messages\) +← this one")
    chat.press("What is the capital of Chile? " * 40 + "\r")
    chat.wait_for("/drop leaves out the oldest turn")
    chat.press("exit\r")
    chat.wait_for("--continue")
    assert chat.process.wait(timeout=PATIENCE) == 0
