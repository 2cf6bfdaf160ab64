"""What is missing, damaged, too large or broken off: one clear error, no half file, the source as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from eft_gguf.convert import writing
from eft_gguf.convert.hf import convert_checkpoint
from eft_gguf.errors import LoadError, ModelFileError, OptionError
from tests.convert.tiny_checkpoints import write_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several shards."""
    folder = tmp_path_factory.mktemp("original") / "checkpoint"
    write_checkpoint(folder, "Qwen2", shard="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    entry = json.loads(path.read_text())
    edit(entry)
    path.write_text(json.dumps(entry))


def missing_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def unheld_tensor(folder: Path) -> None:
    first = sorted(folder.glob("model-*.safetensors"))[0].name
    change(folder / INDEX, lambda entry: entry["weight_map"].update({"model.layers.1.mlp.up_proj.weight": first}))


def forgotten_tensor(folder: Path) -> None:
    change(folder / INDEX, lambda entry: entry["weight_map"].pop("model.layers.1.mlp.up_proj.weight"))


def shard_elsewhere(folder: Path) -> None:
    change(folder / INDEX, lambda entry: entry["weight_map"].update({"model.norm.weight": "../other.safetensors"}))


def other_type(folder: Path) -> None:
    path = sorted(folder.glob("model-*.safetensors"))[0]
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].replace(b'"F32"', b'"I32"')
    path.write_bytes(data[:8] + header + data[8 + length :])


def cut_short(folder: Path) -> None:
    path = sorted(folder.glob("model-*.safetensors"))[0]
    os.truncate(path, path.stat().st_size - 1000)


def no_safetensors(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[0].write_text("<html>Not found</html>" * 50)


def pickled(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def unknown_cut(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda entry: entry.update(pre_tokenizer={"type": "Whitespace"}))


def unknown_architecture(folder: Path) -> None:
    change(folder / "config.json", lambda entry: entry.update(architectures=["MambaForCausalLM"]))


def quantized_already(folder: Path) -> None:
    change(folder / "config.json", lambda entry: entry.update(quantization_config={"quant_method": "gptq"}))


def unknown_positions(folder: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0}
    change(folder / "config.json", lambda entry: entry.update(rope_parameters=rope))


def no_width(folder: Path) -> None:
    change(folder / "config.json", lambda entry: entry.pop("hidden_size"))


def no_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def too_many_tokens(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda entry: entry["model"]["vocab"].update({"extra": 5000}))


CASES = [
    (missing_shard, "lacks 1 of the", "fetch the checkpoint again"),
    (unheld_tensor, "model.layers.1.mlp.up_proj.weight is in model-00001", "fetch the checkpoint again"),
    (forgotten_tensor, "lacks weights: blk.1.ffn_up.weight", "fetch the checkpoint again"),
    (shard_elsewhere, "outside its folder", "fetch the checkpoint again"),
    (other_type, "of type I32", "not a quantized one"),
    (cut_short, "is cut short", "fetch the checkpoint again"),
    (no_safetensors, "is no safetensors file, or damaged", "fetch the checkpoint again"),
    (pickled, "can run code", "save_pretrained"),
    (no_tokenizer, "has no tokenizer", "save_pretrained"),
    (unknown_cut, "not known here: Whitespace", "convert_hf_to_gguf.py"),
    (unknown_architecture, "MambaForCausalLM", "convert_hf_to_gguf.py"),
    (quantized_already, "quantized already, by gptq", "original checkpoint"),
    (unknown_positions, "'longrope'", "convert_hf_to_gguf.py"),
    (no_width, "no usable hidden_size", "config.json"),
    (no_configuration, "cannot read", "whole folder"),
    (too_many_tokens, "5,001 tokens", "resize_token_embeddings"),
]


@pytest.mark.parametrize(("damage", "message", "hint"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_checkpoints(folder: Path, tmp_path: Path, damage: Any, message: str, hint: str) -> None:
    damage(folder)
    before = fingerprint(folder)
    with pytest.raises(ModelFileError) as error:
        convert_checkpoint(folder, tmp_path / "model.gguf")
    assert message in error.value.message
    assert hint in error.value.hint
    assert left_behind(tmp_path) == []
    assert fingerprint(folder) == before


def test_what_llama_cpp_cannot_use_is_not_kept(folder: Path, tmp_path: Path) -> None:
    """Weights that are no numbers, and a width that is not that of the tensors."""
    path = sorted(folder.glob("model-*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-4096:] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(LoadError, match="no numbers"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    change(folder / "config.json", lambda entry: entry.update(intermediate_size=96))
    with pytest.raises(LoadError, match=r"what was made is not kept: llama\.cpp could not load") as error:
        convert_checkpoint(folder, tmp_path / "model.gguf")
    assert ".part" not in error.value.message
    assert left_behind(tmp_path) == []


def test_an_output_is_replaced_only_when_forced(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    output.write_text("precious")
    with pytest.raises(OptionError, match="exists already"):
        convert_checkpoint(folder, output)
    assert output.read_text() == "precious"
    convert_checkpoint(folder, output, force=True)
    assert output.read_bytes()[:4] == b"GGUF"
    source = sorted(folder.glob("model-*.safetensors"))[0]
    before = fingerprint(folder)
    with pytest.raises(OptionError, match="is what is read from"):
        convert_checkpoint(folder, source, force=True)
    with pytest.raises(OptionError, match="there is no folder"):
        convert_checkpoint(folder, tmp_path / "nowhere" / "model.gguf")
    assert fingerprint(folder) == before


def test_ctrl_c_half_way_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)

    def interrupt(what: str, done: float) -> None:
        if done > 0.5:
            assert left_behind(tmp_path) != []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(folder, tmp_path / "model.gguf", progress=interrupt)
    assert left_behind(tmp_path) == []
    assert fingerprint(folder) == before


def test_a_failing_write_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def full(what: str, done: float) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OptionError, match="the disk is full"):
        convert_checkpoint(folder, tmp_path / "model.gguf", progress=full)
    assert left_behind(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk(folder: Path, small_disk: Path, foreseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not foreseen:  # something else fills it meanwhile
        monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 1 << 40))
    before = fingerprint(folder)
    with pytest.raises(OptionError, match="has .* free" if foreseen else "the disk is full"):
        convert_checkpoint(folder, small_disk / "model.gguf")
    assert list(small_disk.iterdir()) == []
    assert fingerprint(folder) == before


@pytest.fixture(scope="module")
def large(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose embedding takes 400 MB, all zeros: a file with a hole."""
    folder = Path(shutil.copytree(original, tmp_path_factory.mktemp("large") / "checkpoint"))
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    rows, width, hidden = 50_000, 4096, 256
    sizes = {"vocab_size": rows, "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 1, "layer_types": ["full_attention"]}
    change(folder / "config.json", lambda entry: entry.update(sizes | heads))
    block = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": [rows, width],
        "model.norm.weight": [width],
        f"{block}.input_layernorm.weight": [width],
        f"{block}.post_attention_layernorm.weight": [width],
        **{f"{block}.mlp.{name}_proj.weight": [hidden, width] for name in ("gate", "up")},
        f"{block}.mlp.down_proj.weight": [width, hidden],
        f"{block}.self_attn.q_proj.weight": [width, width],
        f"{block}.self_attn.q_proj.bias": [width],
        f"{block}.self_attn.o_proj.weight": [width, width],
    }
    for name in ("k", "v"):
        shapes |= {f"{block}.self_attn.{name}_proj.weight": [128, width], f"{block}.self_attn.{name}_proj.bias": [128]}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


# Memory of the process's own; the output that is mapped to be checked is the system's file cache.
MEASURED = """
import sys, threading, time
from pathlib import Path
from eft_gguf.convert.hf import convert_checkpoint
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.is_set():
        status = Path("/proc/self/status").read_text()
        peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), dtype="f16")
done.set()
thread.join()
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_stays_below_twice_the_largest_tensor(large: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURED, str(large), str(tmp_path / "model.gguf")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 2 * (50_000 * 4096 * 2) + 300e6
    (tmp_path / "model.gguf").unlink()


def test_ctrl_c_stops_the_command(large: Path, tmp_path: Path) -> None:
    program = "import sys; from eft_gguf.cli.main import main; main()"
    command = [sys.executable, "-c", program, "convert", "hf", str(large), str(tmp_path / "model.gguf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not left_behind(tmp_path) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "stopped; nothing was written"
    assert left_behind(tmp_path) == []


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def left_behind(folder: Path) -> list[str]:
    """What lies beside the source."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("checkpoint", "small"))
