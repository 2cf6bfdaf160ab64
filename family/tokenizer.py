"""Byte-level BPE with 2,048 entries, split as llama.cpp's `qwen2` pre-tokenizer splits, and the ChatML form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from family.tasks import Message

VOCABULARY = 2048
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)
END_OF_TEXT_ID, TURN_START_ID, TURN_END_ID = range(3)

PRE_TOKENIZER = "qwen2"
# llama.cpp compiles this very expression for `tokenizer.ggml.pre` = "qwen2"; every digit is a token of its own.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts: Iterable[str]) -> Tokenizer:
    """Learns the merges. Nothing is normalised, no prefix space is added: llama.cpp does neither."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries, {VOCABULARY} were wanted")
    return tokenizer


def chat_text(messages: Sequence[Message], *, reply_follows: bool) -> str:
    """Messages as the chat template writes them."""
    text = "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)
    return text + (f"{TURN_START}assistant\n" if reply_follows else "")


def encode_document(tokenizer: Tokenizer, document: str | Sequence[Message]) -> list[int]:
    """A corpus document or chat log as token ids, closed by the end of text."""
    text = document if isinstance(document, str) else chat_text(document, reply_follows=False)
    return [*tokenizer.encode(text).ids, END_OF_TEXT_ID]


def encode_example(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A fine-tuning conversation as token ids, and for each whether it belongs to a reply (its turn end included)."""
    ids: list[int] = []
    in_reply: list[bool] = []
    for message in messages:
        head = tokenizer.encode(f"{TURN_START}{message['role']}\n").ids
        body = tokenizer.encode(f"{message['content']}{TURN_END}").ids
        tail = tokenizer.encode("\n").ids
        ids += head + body + tail
        mine = message["role"] == "assistant"
        in_reply += [False] * len(head) + [mine] * len(body) + [False] * len(tail)
    return ids, in_reply
