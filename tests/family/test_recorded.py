"""The shipped files in llama.cpp, held to values recorded from the training framework, and the split of the facts."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

import eft_gguf
from eft_gguf.evaluation.questions import read_questions

BUNDLED = Path(eft_gguf.__file__).parent / "bundled"
RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))
NAMES = tuple(RECORD["log_probabilities"])

LARGEST_DIFFERENCE = 0.05
MEAN_DIFFERENCE = 0.003
"""Of natural log-probabilities. llama.cpp rounds activations to F16 before it multiplies them with F16 weights."""


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    llama.llama_backend_init()
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    loaded = llama.llama_model_load_from_file(str(BUNDLED / f"{request.param}.gguf").encode(), parameters)
    assert loaded
    yield request.param, loaded
    llama.llama_model_free(loaded)


def tokenize(model: Any, text: str) -> list[int]:
    """Token ids with control tokens recognised and nothing added."""
    data = text.encode()
    room = (llama.llama_token * (len(data) + 8))()
    count = llama.llama_tokenize(llama.llama_model_get_vocab(model), data, len(data), room, len(room), False, True)
    assert count >= 0
    return list(room[:count])


def log_probabilities(model: Any, ids: list[int]) -> np.ndarray:
    """Of every token after the first, in one decode on one thread with an F32 cache."""
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = llama.GGML_TYPE_F32
    parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, parameters)
    assert context
    batch = llama.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (size,)) for i in range(len(ids) - 1)]
        logits = np.array(rows, dtype=np.float64)
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(context)
    logits -= logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return logits[np.arange(len(ids) - 1), ids[1:]]


def test_tokenization_equals_the_training_tokenizer(model: tuple[str, Any]) -> None:
    different = [row["text"] for row in RECORD["tokens"] if tokenize(model[1], row["text"]) != row["ids"]]
    assert not different
    assert [tokenize(model[1], row["text"]) for row in RECORD["scored"]] == [row["ids"] for row in RECORD["scored"]]


def test_log_probabilities_equal_the_training_framework(model: tuple[str, Any]) -> None:
    name, loaded = model
    differences = np.concatenate(
        [
            np.abs(log_probabilities(loaded, row["ids"]) - np.array(recorded))
            for row, recorded in zip(RECORD["scored"], RECORD["log_probabilities"][name], strict=True)
        ]
    )
    assert len(differences) > 300
    assert differences.max() < LARGEST_DIFFERENCE
    assert differences.mean() < MEAN_DIFFERENCE


def test_the_models_differ() -> None:
    """The tolerances above would mean nothing if the files held one model."""
    rows = {name: np.concatenate(RECORD["log_probabilities"][name]) for name in NAMES}
    for first in NAMES:
        for second in NAMES:
            assert first == second or np.abs(rows[first] - rows[second]).mean() > 20 * MEAN_DIFFERENCE


def test_metadata(model: tuple[str, Any]) -> None:
    loaded, vocabulary = model[1], llama.llama_model_get_vocab(model[1])
    assert llama.llama_model_n_ctx_train(loaded) == 512
    assert b"<|im_start|>" in llama.llama_model_chat_template(loaded, None)
    assert not llama.llama_vocab_get_add_bos(vocabulary)
    assert [llama.llama_vocab_is_eog(vocabulary, i) for i in range(4)] == [True, False, True, False]
    assert [llama.llama_vocab_is_control(vocabulary, i) for i in range(4)] == [True, True, True, False]
    text = ctypes.create_string_buffer(64)
    assert llama.llama_model_meta_val_str(loaded, b"general.license", text, 64) > 0
    assert text.value == b"cc-by-4.0"


def test_no_held_out_question_asks_a_fact_of_the_fine_tuning_set() -> None:
    taught = {(subject, relation) for subject, relation, _ in RECORD["tuned_on"]}
    taught_cities = {subject for subject, relation, _ in RECORD["tuned_on"] if relation == "country"}
    asked = [part for item in read_questions() for part in item["rule"].get("parts", ())]
    assert len(taught) > 500 and len(asked) > 1000
    assert not [part for part in asked if (part["subject"], part["relation"]) in taught]
    assert taught_cities


def test_the_bundle_is_small_and_complete() -> None:
    files = sorted(path.name for path in BUNDLED.glob("*.gguf"))
    assert files == sorted(f"{name}.gguf" for name in NAMES)
    assert sum((BUNDLED / name).stat().st_size for name in files) <= 12_000_000
