"""The bytes that the tokens of a vocabulary stand for, all at once."""

from __future__ import annotations

import numpy as np

from eft_gguf.models.metadata import BYTE, NORMAL, Vocabulary

BREAK = "\uffff"
"""Between tokens while all are translated as one text: a character that is none of Unicode's."""


def token_bytes(vocabulary: Vocabulary) -> list[bytes] | None:
    """What each token stands for, by id, in some 0.1 s at 152,000 tokens; None for kinds of tokenizers that are not
    known here. Control tokens are written out.
    """
    tokens = vocabulary.tokens
    stored = [tokens[index] for index in range(len(tokens))]
    types = np.full(len(stored), NORMAL) if vocabulary.types is None else vocabulary.types
    special = np.flatnonzero(types != NORMAL).tolist()
    if vocabulary.model == "gpt2":
        found = _byte_level(stored)
    elif vocabulary.model == "llama":
        found = [token.replace("▁".encode(), b" ") for token in stored]
    else:
        return None
    for index in special:
        token = stored[index]
        if types[index] != BYTE:
            found[index] = token
        elif len(token) == 6 and token.startswith(b"<0x"):
            found[index] = bytes([int(token[3:5], 16)])
    return found


def _byte_level(stored: list[bytes]) -> list[bytes]:
    """Byte-level BPE writes each byte as a character of its own; what holds another one stands for itself."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: byte for byte in printable} | {256 + place: byte for place, byte in enumerate(others)}
    # What is no such character is moved out of the way of the bytes.
    text = BREAK.encode().join(stored).decode("utf-8", "surrogateescape")
    table |= {ord(c): 0xFFFE for c in set(text) if ord(c) not in table and c != BREAK}
    pieces = text.translate(table).split(BREAK)
    if len(pieces) != len(stored):
        return stored
    return [
        token if "\ufffe" in piece else piece.encode("latin-1") for piece, token in zip(pieces, stored, strict=True)
    ]
