"""Checkpoints and adapters made into GGUF families, installed as `eft_gguf.convert`.

hf.py            a checkpoint folder → a GGUF model: reads by checkpoint.py, names by architectures.py and rope.py,
                 tokens by vocabulary.py, pre_tokenizers.py and special.py
lora.py          a PEFT adapter folder → a GGUF adapter, rows ordered by rows.py
delta.py         the difference of two models → a GGUF adapter; both are written by adapter.py
align.py         the vocabularies of a family made equal
quantize.py      llama.cpp's quantizer, and the noise of a pair
gguf_file.py     tensors and keys of a GGUF file, to be read and written again
divergence.py    how far one model's predictions are from another's
writing.py       how every output is written: aside, streamed, checked, renamed
check.py         what is looked at before an output gets its name
"""
