"""Following a reply; in a process of its own where signals are at play."""

import signal
import subprocess
import sys
import time

from eft_gguf.cli.reply import interruption

STUCK = """
import time
from eft_gguf.cli.reply import interruption
with interruption() as interrupted:
    print("started", flush=True)
    while not interrupted():
        time.sleep(0.01)
    print("stopping", flush=True)
    time.sleep(60)
"""


def test_a_second_ctrl_c_ends_the_program() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(timeout=30) == -signal.SIGINT
        assert time.monotonic() - start < 10


def test_the_handler_is_put_back() -> None:
    with interruption() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
