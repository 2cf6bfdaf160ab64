"""A GGUF file taken apart, so that any part of it can be made wrong, and put together again."""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field
from typing import Any

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


@dataclass
class Raw:
    """Bytes that stand where a value belongs."""

    data: bytes


@dataclass
class Info:
    """What the header says of a tensor. dimensions: how many it claims, where that is not how many it has."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int
    dimensions: int | None = None


@dataclass
class Layout:
    """keys: name, type, value; of an array the value is the type of its elements and their list."""

    keys: list[tuple[bytes, int, Any]]
    tensors: list[Info]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    claimed_tensors: int | None = None
    claimed_keys: int | None = None
    alignment: int = field(default=32)

    def copy(self) -> Layout:
        return copy.deepcopy(self)

    def index(self, key: bytes) -> int:
        return next((at for at, entry in enumerate(self.keys) if entry[0] == key), -1)

    def value(self, key: bytes) -> Any:
        return self.keys[self.index(key)][2]

    def put(self, key: bytes, kind: int, value: Any) -> None:
        """Set a key, or add it."""
        at = self.index(key)
        if at < 0:
            self.keys.append((key, kind, value))
        else:
            self.keys[at] = key, kind, value

    def header(self) -> bytes:
        tensors = len(self.tensors) if self.claimed_tensors is None else self.claimed_tensors
        keys = len(self.keys) if self.claimed_keys is None else self.claimed_keys
        parts = [self.magic, struct.pack("<IQQ", self.version, tensors, keys)]
        for name, kind, value in self.keys:
            parts += [_text(name), struct.pack("<I", kind), _encoded(kind, value)]
        for info in self.tensors:
            count = len(info.shape) if info.dimensions is None else info.dimensions
            lengths = [length % 2**64 for length in info.shape]
            parts += [_text(info.name), struct.pack(f"<I{len(lengths)}Q", count, *lengths)]
            parts += [struct.pack("<IQ", info.kind % 2**32, info.offset % 2**64)]
        return b"".join(parts)

    def bytes(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data


def parse(data: bytes) -> Layout:
    """Take a sound file apart."""
    version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
    at = 24
    listed = []
    for _ in range(keys):
        name, at = _read_text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        value, at = _read(data, kind, at + 4)
        listed.append((name, kind, value))
    infos = []
    for _ in range(tensors):
        name, at = _read_text(data, at)
        (count,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{count}QIQ", data, at + 4)
        at += 4 + 8 * count + 12
        infos.append(Info(name, shape, kind, offset))
    return Layout(listed, infos, data[at + -at % 32 :], version=version)


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _encoded(kind: int, value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.data
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        of, elements = value
        return struct.pack("<IQ", of, len(elements)) + b"".join(_encoded(of, element) for element in elements)
    return struct.pack(f"<{CODES[kind]}", value)


def _read_text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length], at + 8 + length


def _read(data: bytes, kind: int, at: int) -> tuple[Any, int]:
    if kind == STRING:
        return _read_text(data, at)
    if kind == ARRAY:
        of, count = struct.unpack_from("<IQ", data, at)
        at += 12
        elements = []
        for _ in range(count):
            element, at = _read(data, of, at)
            elements.append(element)
        return (of, elements), at
    (number,) = struct.unpack_from(f"<{CODES[kind]}", data, at)
    return number, at + struct.calcsize(f"<{CODES[kind]}")
