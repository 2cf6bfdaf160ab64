import os
import subprocess
import sys
import time

import pytest

from eft_gguf.engine import threads
from eft_gguf.engine.threads import SMALL, default_threads, usable_cores
from tests.engine.test_engine import PROMPT, make, sequence  # noqa: F401 (make is a fixture)


def test_tiny_models_get_one_thread_and_others_the_cores(tmp_path):
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(SMALL)  # sparse: it takes up no room
    assert default_threads([small]) == 1
    assert default_threads([small, large]) == usable_cores() <= os.cpu_count()


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is the fast cores that count")
@pytest.mark.parametrize(
    ("siblings", "quota", "cores"),
    [
        (["0", "1", "2", "3"], None, 4),
        (["0,2", "1,3", "0,2", "1,3"], None, 2),  # four processors on two cores
        (["0", "1", "2", "3"], "max 100000", 4),
        (["0", "1", "2", "3"], "250000 100000", 2),
        (["0", "1", "2", "3"], "50000 100000", 1),
        (None, None, 4),
    ],
)
def test_neither_second_threads_of_a_core_nor_what_a_quota_forbids_are_counted(
    siblings, quota, cores, tmp_path, monkeypatch
):
    for number, text in enumerate(siblings or []):
        file = tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(threads, "CPUS", tmp_path)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_briefly_unless_told_otherwise(given, expected):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    script = "import os, eft_gguf.engine; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env=environment | given, capture_output=True, text=True)
    assert done.stdout.strip() == expected


def test_decodes_keep_to_their_threads(make):  # noqa: F811
    """The models of a blend share the threads that they are given: none of them adds its own."""
    engine = make(batch=64, ctx=128)
    busy, passed = [], []
    for start in range(5):
        each = sequence(engine, [start, *PROMPT], max_tokens=60)
        engine.add(each)
        used, began = time.process_time(), time.perf_counter()
        while each.finish_reason is None:
            engine.step()
        busy.append(time.process_time() - used)
        passed.append(time.perf_counter() - began)
        engine.remove(each)
    assert sum(busy) < 1.2 * sum(passed)
