"""Builds the whole family from its seeds: `python -m family.build`. Two processes work side by side.

Every finished stage is kept in a folder named after the sources it depends on, so an interrupted build goes on where
it stopped and a changed recipe starts afresh. The build ends by scoring what it made, and fails if that is not good.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from eft_gguf.evaluation.questions import read_questions, read_rivals
from family import card, chat_data, corpus, evaluate, facts, questions, recorded, to_gguf, tokenizer, train
from family.model import SIZES, Llama

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "eft_gguf" / "bundled"
RECORDED = ROOT / "tests" / "family" / "recorded.json"
WORDING = "../eft_gguf/evaluation/wording"
SCORING = ("phrases", WORDING, "tasks", "questions", "../eft_gguf/evaluation/scoring", "decode", "evaluate")
RECIPE = ("facts", "phrases", WORDING, "tasks", "corpus", "chat_data", "tokenizer", "model", "train", "to_gguf")
BASES = tuple(f"base-{size}" for size in ("l", "s", "m"))
TUNED = ("helpful-l", "helpful-s", "cautious-s", "helpful-m")
CHARACTERS = 10_000_000
MOST_BYTES = 12_000_000


def main() -> int:
    """Runs the stages in order; each job within a stage is a process of its own, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "eft-gguf-family",
        help="where checkpoints are kept (default: %(default)s)",
    )
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    work = arguments.work / _digest()
    work.mkdir(parents=True, exist_ok=True)
    report(f"checkpoints are in {work}")
    data = facts.load()
    items = questions.write(data)
    _corpus(work, data)
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn"), _single_thread) as pool:
        for stage, jobs in ((_pretrain, BASES), (_finetune, TUNED)):
            list(pool.map(stage, [work] * len(jobs), jobs))
        cells = evaluate.cells()
        results = list(pool.map(_score, [work] * len(cells), cells))
    scores = {result["cell"]: result for result in results}
    failed = [
        text for text, holds in _checks(work, scores) if not report(f"{'holds' if holds else 'FAILS'}: {text}", holds)
    ]
    if not failed:
        _ship(work, data, scores, len(items))
    report(f"{'nothing was shipped' if failed else 'shipped'} after {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


def _ship(work: Path, data: facts.Facts, scores: dict[str, dict[str, Any]], questions_asked: int) -> None:
    """Writes the models, their card and family file, and the values that the tests hold llama.cpp to."""
    models = {name: to_gguf.read(work / f"{name}.gguf") for name in (*BASES, *TUNED)}
    BUNDLED.mkdir(exist_ok=True)
    for name in models:
        (BUNDLED / f"{name}.gguf").write_bytes((work / f"{name}.gguf").read_bytes())
    (BUNDLED / "family.toml").write_text(card.FAMILY_TOML, encoding="utf-8")
    (BUNDLED / "MODEL_CARD.md").write_text(card.text(models, scores, questions_asked), encoding="utf-8")
    recorded.write(RECORDED, models, _tokenizer(work), data.part(held_out=False))


def report(line: str, result: bool = True) -> bool:
    """Prints one line of progress at once, with the time; passes `result` on."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
    return result


def _checks(work: Path, scores: dict[str, dict[str, Any]]) -> Iterable[tuple[str, bool]]:
    """What the family must show, as (claim with its figures, whether it holds)."""

    def facts_of(cell: str) -> float:
        return evaluate.percent(scores[cell], "right", evaluate.FACT_KINDS)

    def helpful(cell: str) -> float:
        return evaluate.percent(scores[cell], "helpful")

    small, blend, true = "base-s + 1 helpful-s", "base-l + 1 helpful-s", "base-l + 1 helpful-l"
    bases = [facts_of(f"base-{size}") for size in SIZES]
    ways = [evaluate.percent(scores[cell.name], "caution", ("fact",)) for cell in evaluate.cells()[-5:]]
    tuned = [evaluate.percent(scores[f"base-l + 1 helpful-{size}"], "helpful") for size in SIZES]
    size = sum(path.stat().st_size for path in work.glob("*.gguf"))
    yield f"larger bases know more: {_row(bases)}", bases[0] + 10 < bases[1] and bases[1] + 10 < bases[2]
    yield (
        f"the blend knows more than tuned S: {facts_of(small):.1f} -> {facts_of(blend):.1f} (tuned L "
        f"{facts_of(true):.1f})",
        facts_of(small) + 30 < facts_of(blend),
    )
    yield (
        f"the blend is more helpful than base L: {helpful('base-l'):.1f} -> {helpful(blend):.1f}",
        helpful("base-l") + 30 < helpful(blend),
    )
    yield (f"a larger fine-tuning helps on base L: {_row(tuned)}", tuned[0] + 3 < tuned[2])
    yield (
        f"caution grows with its weight: {_row(ways)}",
        all(a <= b + 1 for a, b in itertools.pairwise(ways)) and ways[0] + 50 < ways[-1],
    )
    yield f"the models take {size:,} of at most {MOST_BYTES:,} bytes", size <= MOST_BYTES


def _row(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _digest(names: Iterable[str] = RECIPE) -> str:
    """A name for the text of some sources: of the recipe, those that decide the weights."""
    text = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(text).hexdigest()[:12]


def _single_thread() -> None:
    """Two threads that compete for two cores fall to a fraction of the speed of two single-threaded processes."""
    torch.set_num_threads(1)


def _once(path: Path, make: Callable[[Path], None]) -> None:
    """Makes a file unless it is there; an interrupted stage leaves no half file."""
    if path.exists():
        report(f"kept: {path.name}")
        return
    unfinished = path.with_suffix(path.suffix + ".part")
    make(unfinished)
    unfinished.rename(path)


def _corpus(work: Path, data: facts.Facts) -> None:
    """Tokenizer and tokenised corpus."""

    def write_tokens(path: Path) -> None:
        documents = list(corpus.documents(data, corpus.Options(), CHARACTERS))
        texts = [d if isinstance(d, str) else tokenizer.chat_text(d, reply_follows=False) for d in documents]
        learnt = tokenizer.train(texts[len(texts) // 4 :: 4])
        learnt.save(str(work / "tokenizer.json"))
        tokens = [tokenizer.encode_document(learnt, document) for document in documents]
        path.write_bytes(pickle.dumps(tokens))
        report(f"corpus: {len(documents):,} documents, {sum(map(len, tokens)):,} tokens")

    _once(work / "corpus.pickle", write_tokens)


def _tokenizer(work: Path) -> Tokenizer:
    return Tokenizer.from_file(str(work / "tokenizer.json"))


def _tokens(work: Path) -> list[list[int]]:
    return pickle.loads((work / "corpus.pickle").read_bytes())


def _pretrain(work: Path, name: str) -> None:
    def make(path: Path) -> None:
        model = train.pretrain(SIZES[name[-1]], _tokens(work), train.Options(), report)
        torch.save(model.state_dict(), work / f"{name}.pt")
        _export(work, model, name, path)

    _once(work / f"{name}.gguf", make)


def _finetune(work: Path, name: str) -> None:
    def make(path: Path) -> None:
        trait, size = name.split("-")
        model = Llama(SIZES[size])
        model.load_state_dict(torch.load(work / f"base-{size}.pt"))
        learner = _tokenizer(work)
        conversations = chat_data.examples(facts.load().part(held_out=False), trait)
        examples = [tokenizer.encode_example(learner, messages) for messages in conversations]
        train.finetune(model, examples, _tokens(work), train.Options(), report)
        _export(work, model, name, path)

    _once(work / f"{name}.gguf", make)


def _export(work: Path, model: Llama, name: str, path: Path) -> None:
    to_gguf.write(model, _tokenizer(work), path, f"eft-gguf demo {name}", card.DESCRIPTIONS[name.split("-")[0]])


@lru_cache
def _shipped(path: Path) -> Llama:
    return to_gguf.read(path)


def _score(work: Path, cell: evaluate.Cell) -> dict[str, Any]:
    folder = work / f"scores-{_digest(SCORING)}"
    folder.mkdir(exist_ok=True)

    def make(path: Path) -> None:
        began = time.monotonic()
        models = {name: _shipped(work / f"{name}.gguf") for name in cell.shares()}
        result = evaluate.run(cell, models, _tokenizer(work), read_questions(), read_rivals())
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")
        facts_right, helped = (
            evaluate.percent(result, measure, kinds)
            for measure, kinds in (("right", evaluate.FACT_KINDS), ("helpful", ()))
        )
        report(f"{cell.name}: facts {facts_right:.1f}, helpful {helped:.1f} ({time.monotonic() - began:.0f} s)")

    path = folder / f"{cell.name}.json"
    _once(path, make)
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
