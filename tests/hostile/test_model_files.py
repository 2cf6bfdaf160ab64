"""Wrong model files, some hundreds of them: each is taken, or refused in one clear line, and nothing ends the process.

`make fuzz` goes on with others for as long as it is let, and through whole commands.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.mutants import mutants
from tests.hostile.paths import Sound, cheap

SEED = 16


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound.write(tmp_path_factory.mktemp("sound"))


def test_the_sound_files_are_taken(sound: Sound) -> None:
    assert cheap(sound, sound.untuned, adapter=False) == "taken"
    assert cheap(sound, sound.adapter, adapter=True) == "taken"


@pytest.mark.parametrize(("adapter", "count"), [(False, 300), (True, 100)])
def test_wrong_files_are_taken_or_refused(sound: Sound, tmp_path: Path, adapter: bool, count: int) -> None:
    source = (sound.adapter if adapter else sound.untuned).read_bytes()
    verdicts: Counter[str] = Counter()
    for name, data in itertools.islice(mutants(source, SEED), count):
        path = tmp_path / "wrong.gguf"
        path.write_bytes(data)
        started = time.process_time()
        try:
            verdicts[cheap(sound, path, adapter=adapter)] += 1
        except Exception as error:
            raise AssertionError(f"mutant {name}") from error
        assert time.process_time() - started < 10, name
    assert verdicts["refused"] > count / 3
