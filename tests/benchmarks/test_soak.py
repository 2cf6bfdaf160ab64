"""The soak of benchmarks/soak.py in its short form: requests of all kinds, many at once, some cancelled."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_many_requests_at_once_leak_nothing_say_nothing_wrong_and_end():
    done = subprocess.run(
        [sys.executable, SOAK, "--requests", "150", "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    counts = found["counts"]
    assert counts["wrong"] == counts["failed"] == 0, done.stderr
    # Of every kind there were some, and all of them came to an end.
    assert min(counts[kind] for kind in ("finished", "cancelled", "refused")) > 5
    assert counts["requests"] == 150 == counts["finished"] + counts["cancelled"] + counts["refused"]
    assert counts["greedy"] > 300 and counts["log_probabilities"] > 300
    assert counts["drafts"] > counts["taken"] > 100
    assert found["idle"]
    # In so short a run caches are still being filled for the first time.
    assert found["growth"] < 1.2
