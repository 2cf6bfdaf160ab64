"""Does llama.cpp survive these files? A process of its own finds out, before this one loads them.

llama.cpp ends the process where an assertion of its own fails, and a damaged file can lead it to read where nothing is.
What is known of that, `models/soundness.py` refuses; this is for the rest. The child maps the weights, as this process
will do after it, so that they are in memory once; it cuts a text, makes a small context and decodes some tokens on the
CPU. A file that went well is remembered by what it is, and costs nothing the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from eft_gguf.children import UNSOUND_HINT, how_it_ended, leave_no_core, module_command, quiet_environment
from eft_gguf.errors import EFTError, LoadError, ModelFileError, OptionError
from eft_gguf.files import cache_folder, write_aside
from eft_gguf.models.fields import CONVERT_AGAIN
from eft_gguf.models.metadata import read_metadata
from eft_gguf.models.references import Reference
from eft_gguf.models.soundness import first_repeated

TEXT = "Hello, wörld! It's 9:05 o'clock.\n\tdef f(x): return {'a': x**2}  日本 👍 <|im_end|></s><unk>"
HEAD = 1 << 22
"""Bytes of a file that its identity is made of, beside its size, time and place: header and first weights."""
BUNDLED = Path(__file__).parent.parent / "bundled"
SECONDS, BYTES_A_SECOND = 20.0, 20e6
"""How long a child may take: so long, and as long as a slow disk needs for the files."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A model to be loaded, with an adapter on it or not. weights: decode with it, else look at the vocabulary only."""

    model: str
    adapter: str | None = None
    weights: bool = True

    @property
    def files(self) -> list[Path]:
        return [Path(file) for file in (self.model, self.adapter) if file is not None]


def trials_of(members: Mapping[str, Reference], untuned_of: Mapping[str, str], *, weights: bool = True) -> list[Trial]:
    """What loading these members comes to: each file once, and each adapter on its model."""
    found = []
    for name, member in members.items():
        on = members[untuned_of[name]] if member.adapter else member
        found.append(Trial(str(on.path), str(member.path) if member.adapter else None, weights))
    return list(dict.fromkeys(found))


def require_survival(trials: Iterable[Trial], progress: Callable[[str], None] = lambda line: None) -> None:
    """Raise LoadError where llama.cpp would end the process over one of these, ModelFileError for repeated tokens.

    What it refuses in good order is not judged here: it will refuse it again, and give the reason.
    """
    new = [(trial, memory) for trial in trials if (memory := _memory(trial)) is not None and not memory.exists()]
    if not new:
        return
    for path in dict.fromkeys(Path(trial.model) for trial, _ in new):
        _require_single_tokens(path)
    progress(f"trying {', '.join(dict.fromkeys(trial.files[-1].name for trial, _ in new))} (once for each file)")
    for number in _tried([trial for trial, _ in new]):
        memory = new[number][1]
        with contextlib.suppress(OSError, OptionError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_aside(memory, "")


def _memory(trial: Trial) -> Path | None:
    """The file that says that a trial went well; None for what ships with the package."""
    if all(BUNDLED in path.parents for path in trial.files):
        return None
    key = [version("llama-cpp-python"), trial.weights, [_identity(path) for path in trial.files]]
    return cache_folder() / "tried" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _identity(path: Path) -> list[object]:
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        head = hashlib.blake2b(file.read(HEAD), digest_size=16).hexdigest()
    return [about.st_size, about.st_mtime_ns, about.st_ino, head]


def _require_single_tokens(path: Path) -> None:
    vocabulary = read_metadata(path).vocabulary
    if vocabulary is not None and (index := first_repeated(vocabulary.tokens)) is not None:
        token = vocabulary.token(index).decode("utf-8", "replace")
        raise ModelFileError(f"{path}: the token {token!r:.60} comes twice in the vocabulary", hint=CONVERT_AGAIN)


def _tried(trials: Sequence[Trial]) -> list[int]:
    """Which of the trials went well. Raises LoadError where the child did not survive one, or took too long."""
    command = module_command("eft_gguf.engine.probe", json.dumps([asdict(trial) for trial in trials]))
    size = sum(path.stat().st_size for path in {path for trial in trials for path in trial.files})
    seconds = SECONDS + size / BYTES_A_SECOND
    well: list[int] = []
    at, late = 0, False
    # What llama.cpp says at its end goes nowhere: the user gets one line.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet_environment()
    ) as process:
        assert process.stdout is not None

        def end() -> None:
            nonlocal late
            late = True
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            for line in process.stdout:
                word, _, number = line.partition(b" ")
                if word == b"at":
                    at = int(number)
                elif word == b"well":
                    well.append(int(number))
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    if late:
        raise LoadError(f"{trials[at].files[-1]}: llama.cpp did not come to an end with this file in {seconds:.0f} s")
    if process.returncode:
        how = how_it_ended(process.returncode)
        raise LoadError(f"{trials[at].files[-1]}: llama.cpp {how} when this file was tried", hint=UNSOUND_HINT)
    return well


def _work(trials: Sequence[Trial]) -> None:
    """What the process of its own does: says which trial it is at, and which went well."""
    leave_no_core()
    for number, trial in enumerate(trials):
        print("at", number, flush=True)
        with contextlib.suppress(EFTError):
            _try(trial)
            print("well", number, flush=True)


def _try(trial: Trial) -> None:
    # Here, for the parent must not load llama.cpp's library only to start a child.
    from eft_gguf.engine.llama import Adapter, Context, Model
    from eft_gguf.engine.threads import default_threads

    path = Path(trial.model)
    with closing(Model(path, gpu_layers=0, devices=[], repack=False, vocab_only=not trial.weights)) as model:
        cut = model.tokenize(TEXT, special=True)
        for token in [*cut, *range(min(model.n_vocab, 300))]:
            model.piece(token, special=True)
            model.is_end(token)
        model.suppressed()
        model.chat_template()
        if not trial.weights or not model.n_vocab:
            return
        with contextlib.ExitStack() as stack:
            adapter = stack.enter_context(closing(Adapter(model, Path(trial.adapter)))) if trial.adapter else None
            threads = default_threads([path])
            own = Context(model, ctx=32, batch=8, sequences=1, outputs=1, threads=threads, adapter=adapter)
            context = stack.enter_context(closing(own))
            # Some tokens together and one alone: llama.cpp computes these in different ways.
            for start, count in ((0, 4), (4, 1)):
                context.batch.clear()
                ids = [min(start + index, model.n_vocab - 1) for index in range(count)]
                context.batch.add(ids, position=start, sequence=0, outputs=1)
                context.decode()
                context.rows()


if __name__ == "__main__":
    _work([Trial(**trial) for trial in json.loads(sys.argv[1])])
