"""Tiny Hugging Face checkpoints: random weights by transformers, tokenizers trained here as each series' are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.plain_llama import TEXT

TRAINING = (
    TEXT,
    "It's 1234567 o'clock, they've paid $99.50; I'LL see WE'RE you'D don't HTTPServer camelCase snake_case x86_64 2024",
    "def f(x):\n    return [x for x in range(100)]\n\n\n\tif x:\t\tpass  # tabs   and   spaces\r\n",
    "Größe œuvre señor café naïve Привет мир αβγ 中文 日本語 한국어 हिन्दी ไทย 🙂👍 “quotes” — … №",
) * 3
ROOM = 700  # rows of embeddings: more than any of the tokenizers below fills

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN_2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _byte_level(steps: Iterable[Any], special: list[str], *, bos: str | None = None, **options: Any) -> Tokenizer:
    """BPE over bytes, cut by `steps` before."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def bytes_as_letters() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def llama_3() -> Tokenizer:
    return _byte_level(
        [_split(LLAMA_3), bytes_as_letters()],
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        bos="<|begin_of_text|>",
        ignore_merges=True,
    )


def qwen_2() -> Tokenizer:
    tokenizer = _byte_level([_split(QWEN_2), bytes_as_letters()], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def tekken() -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    return _byte_level([_split(TEKKEN), bytes_as_letters()], special, bos="<s>", ignore_merges=True)


def smollm() -> Tokenizer:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return _byte_level(steps, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def gpt_2() -> Tokenizer:
    return _byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)], ["<|endoftext|>"])


def falcon() -> Tokenizer:
    steps = [
        pre_tokenizers.Punctuation(behavior="contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        _split("[0-9][0-9][0-9]"),
    ]
    return _byte_level(steps, [">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"])


def pieces(special: list[str], *, bos: str, front: bool) -> Callable[[], Tokenizer]:
    """SentencePiece as tokenizer.json has it: BPE over characters, bytes for what is left."""

    def train() -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        steps: list[Any] = [normalizers.Prepend("▁")] if front else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=[*special, *byte_pieces], show_progress=False, max_token_length=12
        )
        # Without a pre-tokenizer whole texts would be joined: words, as SentencePiece's own training cuts them.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]*"), behavior="isolated")
        tokenizer.train_from_iterator(TRAINING, trainer)
        entry = json.loads(tokenizer.to_str())
        entry["pre_tokenizer"] = None
        entry["added_tokens"] = [token for token in entry["added_tokens"] if token["content"] in special]
        tokenizer = Tokenizer.from_str(json.dumps(entry))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        return tokenizer

    return train


def write_sentencepiece(folder: Path) -> None:
    """A tokenizer.model, and no tokenizer.json, as Llama 2 was published."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TRAINING), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@dataclass(frozen=True)
class Series:
    """model: the class and what its configuration says beside the sizes.  tokenizer: None for a tokenizer.model."""

    model: str
    config: dict[str, Any]
    tokenizer: Callable[[], Tokenizer] | None
    special: dict[str, str]
    architecture: str
    pre: str
    settings: dict[str, Any] = field(default_factory=dict)
    tied: bool = False
    cut_otherwise: tuple[int, ...] = ()  # texts of TEXTS that llama.cpp is known to cut in its own way


SIZES = {
    "vocab_size": ROOM,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
PIECES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHAT = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
SERIES = {
    "Llama": Series("Llama", {"num_key_value_heads": 4}, None, PIECES, "llama", "default"),
    "Llama 2": Series("Llama", {}, pieces(["<unk>", "<s>", "</s>"], bos="<s>", front=True), PIECES, "llama", "default"),
    "Llama 3": Series(
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "eos_token_id": [1, 2],
            "attention_bias": True,
        },
        llama_3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "llama",
        "llama-bpe",
    ),
    "SmolLM2": Series("Llama", {"tie_word_embeddings": True}, smollm, CHAT, "llama", "smollm", tied=True),
    "Llama cut as GPT-2": Series("Llama", {"eos_token_id": 0}, gpt_2, {"eos_token": "<|endoftext|>"}, "llama", "gpt-2"),
    "Mistral": Series(
        "Mistral", {"head_dim": 20, "sliding_window": None}, tekken, PIECES, "llama", "tekken", cut_otherwise=(4,)
    ),
    "Qwen2": Series("Qwen2", {"tie_word_embeddings": True}, qwen_2, CHAT, "qwen2", "qwen2", tied=True),
    "Qwen2 with YaRN": Series(
        "Qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        qwen_2,
        CHAT,
        "qwen2",
        "qwen2",
    ),
    "Qwen3": Series("Qwen3", {"head_dim": 16}, qwen_2, CHAT, "qwen3", "qwen2"),
    "Gemma 3": Series(
        "Gemma3",
        {
            "num_hidden_layers": 7,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 32,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1_000_000.0},
            },
        },
        pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], bos="<bos>", front=False),
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
        "gemma3",
        "default",
        {"eos_token_id": [1, 5]},
        tied=True,
    ),
    "Falcon 7B": Series(
        "Falcon",
        {"multi_query": True, "new_decoder_architecture": False, "ffn_hidden_size": 96, "eos_token_id": 2},
        falcon,
        {"eos_token": "<|endoftext|>"},
        "falcon",
        "falcon",
        tied=True,
    ),
    "Falcon 40B": Series(
        "Falcon",
        {
            "multi_query": True,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "ffn_hidden_size": 96,
            "eos_token_id": 2,
        },
        falcon,
        {"eos_token": "<|endoftext|>"},
        "falcon",
        "falcon",
        tied=True,
    ),
    "Falcon 11B": Series(
        "Falcon",
        {
            "multi_query": True,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 96,
            "eos_token_id": 2,
        },
        falcon,
        {"eos_token": "<|endoftext|>"},
        "falcon",
        "falcon",
        tied=True,
    ),
}


def write_checkpoint(
    folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, shard: str = "50GB"
) -> torch.nn.Module:
    """Make a checkpoint of a series and return its model, in `dtype`."""
    series = SERIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(name, seed=seed).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    settings = (
        json.loads((folder / "generation_config.json").read_text())
        if (folder / "generation_config.json").exists()
        else {}
    )
    (folder / "generation_config.json").write_text(json.dumps(settings | series.settings))
    if series.tokenizer is None:
        write_sentencepiece(folder)
    else:
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=series.tokenizer(), **series.special)
        fast.chat_template = CHATML
        fast.save_pretrained(folder)
    return model


def make_model(name: str, *, seed: int = 0, **sizes: Any) -> Any:
    """The model alone, its weights large enough that a wrong one shows."""
    series = SERIES[name]
    config_class = getattr(transformers, "Gemma3TextConfig" if series.model == "Gemma3" else f"{series.model}Config")
    config = config_class(**{**SIZES, **series.config, **sizes})
    model = getattr(transformers, f"{series.model}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                # Tied embeddings would say the last token again if they were as large as others.
                scale = 0.3 if "embed" in key and series.tied else 1.5
                parameter.copy_(scale * noise / parameter.shape[-1] ** 0.5)
            elif key.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(0.2 * noise + (0.0 if series.model == "Gemma3" else 1.0))
    return model
