"""llama.cpp's models: Model, Adapter, Context, Batch.

Only this file, chain.py, devices.py and quantizer.py touch llama.cpp's C functions.
Each owns one thing of llama.cpp and frees it in `close`; contexts are to be closed before adapters and models.
llama.cpp aborts the whole process where a caller exceeds a size it was given, so every size is checked here first.
Checked against llama-cpp-python 0.3.36, to which pyproject.toml pins: its structs change between releases.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.devices import CPU, Device
from eft_gguf.engine.hardware import FLASH_ATTENTION
from eft_gguf.engine.mapping import keep_tensors_apart, unmap_until_used
from eft_gguf.errors import ContextError, DecodeError, LoadError
from eft_gguf.models.cache import KV_TYPES, PLAIN_KV_TYPES
from eft_gguf.models.header import read_header
from eft_gguf.models.metadata import other_parts

NO_NUMBERS = "the weights are damaged, or beyond the range of their type: fetch or convert the model again"
_KEEP_LOG_LINES = 40
_log: deque[str] = deque(maxlen=_KEEP_LOG_LINES)


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _remember(_level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    _log.append(text.decode("utf-8", "replace"))


# The callback belongs to the process, not to a model, hence the one piece of module state. llama.cpp tells why it
# could not load something in its log only, so the last lines are kept for the error message, and nothing is printed.
lib.llama_log_set(_remember, ctypes.c_void_p(0))
lib.llama_backend_init()


def _reason() -> str:
    """The last lines of llama.cpp's log that tell of a failure, as one line."""
    signs = ("rror", "fail", "require", "not support")
    telling = [line.strip() for line in "".join(_log).splitlines() if any(sign in line for sign in signs)]
    return telling[0].split(": ", 1)[-1] if telling else "llama.cpp gave no reason"


def _remedy() -> str:
    """What helps against the failure of which the log tells: memory only where some was asked for in vain."""
    short = any(sign in line for line in _log for sign in ("alloc", "out of memory", "mmap failed"))
    if short:
        return "free some memory, or take a smaller model or quantization"
    return "the file is damaged, or this version of llama.cpp does not know its kind: fetch it or convert it again"


def _load(path: Path, params: lib.llama_model_params) -> lib.llama_model_p | None:
    """The file loaded, None where llama.cpp could not. An interrupt stops it, and is raised."""
    parts: list[Path] = []
    stopped: list[BaseException] = []

    # Called before each tensor. Of those that are repacked the copy alone is used: their pages are given back as it
    # grows, so that never both are in memory. What is raised in a callback is lost unless it is kept.
    @lib.llama_progress_callback  # type: ignore[untyped-decorator]
    def tensor_follows(_share: float, _data: ctypes.c_void_p) -> bool:
        try:
            if not parts:
                parts.extend([path, *other_parts(path, read_header(path).values)])
            for part in parts:
                unmap_until_used(part)
        except BaseException as error:
            stopped.append(error)
        return not stopped

    params.progress_callback = tensor_follows
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if stopped:
        if model:
            lib.llama_model_free(model)
        raise stopped[0]
    for part in parts:
        keep_tensors_apart(part)
        unmap_until_used(part)
    return model


class Model:
    """The weights and vocabulary of one GGUF file, or its vocabulary alone. Raises LoadError.

    devices: where it may be computed beside the CPU, None for wherever llama.cpp can.  repack: see Hardware.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        devices: Sequence[Device] | None = None,
        repack: bool = True,
        vocab_only: bool = False,
    ) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        if devices is not None:
            # The list ends with a null, and the CPU is not for it: an empty list leaves a model to the CPU.
            pointers = [device.pointer for device in devices if device.kind != CPU]
            listed = (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)
            params.devices = ctypes.cast(listed, ctypes.c_void_p)
        params.use_extra_bufts = repack
        _log.clear()
        self.path = path
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._model = _load(path, params)
        if not self._model:
            raise LoadError(
                f"{path}: llama.cpp could not load this model: {_reason()}",
                hint=_remedy(),
            )
        self.vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self.ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.add_bos: bool = lib.llama_vocab_get_add_bos(self.vocab)
        self.bos: int = lib.llama_vocab_bos(self.vocab)
        self.eos: int = lib.llama_vocab_eos(self.vocab)
        # Hybrid models have recurrent layers beside attention.
        self.recurrent = bool(lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))

    def chat_template(self) -> str | None:
        """The Jinja template stored in the file, or None."""
        template = lib.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    def is_end(self, token: int) -> bool:
        """True for tokens that end a generation: end of turn, end of text and their kin."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def suppressed(self) -> list[int]:
        """Ids that the file says must never be sampled."""
        count = ctypes.c_int32()
        ids = lib.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return list(ids[: count.value]) if ids else []

    def is_control(self, token: int) -> bool:
        """True for tokens such as <|im_end|>, which mark structure and are not text."""
        return bool(lib.llama_vocab_is_control(self.vocab, token))

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`, no beginning-of-sequence id added. `special`: control tokens in it are read as such."""
        data = text.encode("utf-8")
        room = len(data) + 8
        while True:
            ids = (lib.llama_token * room)()
            count = lib.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def begun(self, ids: list[int]) -> list[int]:
        """The ids after the BOS id, where this model wants one before a text and none is there already."""
        return [self.bos, *ids] if self.add_bos and ids[:1] != [self.bos] else ids

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that `token` stands for; a control token gives nothing unless `special`."""
        known = self._pieces.get((token, special))
        if known is None:
            known = self._read_piece(token, special) if 0 <= token < self.n_vocab else b""
            self._pieces[token, special] = known
        return known

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def close(self) -> None:
        """Free the weights."""
        if self._model:
            lib.llama_model_free(self._model)
            self._model = None


class Adapter:
    """A LoRA adapter on a loaded model. Raises LoadError."""

    def __init__(self, model: Model, path: Path, *, scale: float = 1.0) -> None:
        _log.clear()
        self.path = path
        self.scale = scale
        self._adapter = lib.llama_adapter_lora_init(model._model, str(path).encode())
        if not self._adapter:
            raise LoadError(
                f"{path}: llama.cpp could not put this adapter on {model.path.name}: {_reason()}",
                hint="an adapter must have been trained on the untuned model that it is used with",
            )

    def close(self) -> None:
        """Free the adapter."""
        if self._adapter:
            lib.llama_adapter_lora_free(self._adapter)
            self._adapter = None


class Batch:
    """Tokens for one decode, at most `capacity`, in arrays that llama.cpp reads in place."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.outputs = 0
        self._columns: tuple[list[int], ...] = ([], [], [], [])
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._sequence_counts = np.ones(capacity, np.int32)
        # llama.cpp wants a pointer per token to its list of sequences; ours have one sequence each.
        self._sequence_pointers = self._sequence.ctypes.data + np.arange(capacity, dtype=np.uintp) * 4
        self._struct = lib.llama_batch()
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._sequence_counts),
            ("seq_id", self._sequence_pointers),
            ("logits", self._wanted),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self._struct, name, ctypes.cast(array.ctypes.data, kind))

    def __len__(self) -> int:
        return len(self._columns[0])

    @property
    def struct(self) -> lib.llama_batch:
        """The batch as llama.cpp takes it."""
        count = len(self)
        arrays: tuple[NDArray[Any], ...] = (self._token, self._pos, self._sequence, self._wanted)
        for array, column in zip(arrays, self._columns, strict=True):
            array[:count] = column
        self._struct.n_tokens = count
        return self._struct

    def clear(self) -> None:
        """Empty the batch."""
        self.outputs = 0
        for column in self._columns:
            column.clear()

    def add(self, tokens: Sequence[int], *, position: int, sequence: int, outputs: int) -> None:
        """Append `tokens` of one sequence from `position` on; logits are wanted for the last `outputs` of them."""
        count = len(tokens)
        if len(self) + count > self.capacity:
            raise DecodeError(f"a batch holds {self.capacity} tokens, not {len(self) + count}")
        # Lists, for in arrays each token would cost as much to set as a whole column does later.
        own_tokens, positions, sequences, wanted = self._columns
        own_tokens.extend(tokens)
        positions.extend(range(position, position + count))
        sequences.extend([sequence] * count)
        wanted.extend([0] * (count - outputs) + [1] * outputs)
        self.outputs += outputs


class Context:
    """A model's working state: KV cache, compute buffers and the logits of the last decode. Raises LoadError.

    ctx: tokens that each of `sequences` sequences can hold.  pinned: tokens of one more sequence, 0 for none.
    batch: tokens a decode, at most.  outputs: rows of logits a decode, at most (they cost n_vocab × 4 bytes each).
    separate: give each sequence a cache of its own; none is pinned then.  flash_attn, kv_type: see Hardware.
    """

    def __init__(
        self,
        model: Model,
        *,
        ctx: int,
        batch: int,
        sequences: int,
        outputs: int,
        threads: int,
        pinned: int = 0,
        separate: bool = False,
        adapter: Adapter | None = None,
        flash_attn: str = "auto",
        kv_type: str = "f16",
    ) -> None:
        params = lib.llama_context_default_params()
        # One cache for all sequences: each may grow to `ctx` without being cut to a fixed share. llama.cpp takes all of
        # it for the length of one text, by which LongRoPE chooses its factors: for that they must be separate.
        params.kv_unified = not separate
        params.n_ctx = ctx * sequences + (0 if separate else pinned)
        params.n_seq_max = sequences + bool(pinned and not separate)
        params.n_batch = params.n_ubatch = batch
        params.n_outputs_max = outputs
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[flash_attn]
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.no_perf = True
        _log.clear()
        self.model = model
        self.batch = Batch(batch)
        self._outputs = outputs
        self._context = lib.llama_init_from_model(model._model, params)
        if not self._context:
            raise LoadError(
                f"{model.path}: llama.cpp could not make a context of {ctx * sequences + pinned} tokens: {_reason()}",
                hint="pass a smaller --ctx, or free some memory"
                + ("" if kv_type in PLAIN_KV_TYPES else ", or --kv-type f16"),
            )
        self._memory = lib.llama_get_memory(self._context)
        if adapter is not None:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter._adapter)
            scales = (ctypes.c_float * 1)(adapter.scale)
            if lib.llama_set_adapters_lora(self._context, adapters, 1, scales) != 0:
                self.close()
                raise LoadError(f"{adapter.path}: llama.cpp refused the adapter: {_reason()}")

    def decode(self) -> None:
        """Run the batch through the model. Raises DecodeError; the batch's tokens are then not in the cache."""
        if self.batch.outputs > self._outputs:
            raise DecodeError(f"{self.batch.outputs} rows of logits asked for, room for {self._outputs}")
        status = lib.llama_decode(self._context, self.batch.struct)
        if status == 1:
            raise ContextError("the KV cache is full", hint="pass a larger --ctx, or start a new conversation")
        if status != 0:
            raise DecodeError(f"{self.model.path.name}: llama.cpp could not decode a batch (code {status})")

    def rows(self) -> list[NDArray[np.float32]]:
        """The logits that the batch asked for, in its order: views of shape (n_vocab,), valid until the next decode."""
        if not self.batch.outputs:
            return []
        pointer = lib.llama_get_logits(self._context)
        if not pointer:
            raise DecodeError(f"{self.model.path.name}: llama.cpp has no logits")
        rows = np.ctypeslib.as_array(pointer, (self.batch.outputs, self.model.n_vocab))
        if np.isnan(rows.max()):  # the largest of numbers that are none is none
            raise DecodeError(f"{self.model.path.name}: llama.cpp computes logits that are no numbers", hint=NO_NUMBERS)
        return list(rows)

    def forget(self, sequence: int, position: int) -> bool:
        """Drop what is cached of `sequence` from `position` on. False where the architecture can't drop a part."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def last_position(self, sequence: int) -> int:
        """The last position that is cached of a sequence, −1 where nothing is."""
        return int(lib.llama_memory_seq_pos_max(self._memory, sequence))

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Let a sequence have the cache of another one from position `start` up to `stop`; memory holds it once."""
        lib.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def close(self) -> None:
        """Free the context. Its model and adapter must still be there."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None
