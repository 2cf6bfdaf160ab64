"""Checkpoints and adapters made into GGUF families, installed as `eft_gguf.convert`.

hf.py            a checkpoint folder → a GGUF model: reads by checkpoint.py, names by architectures.py and rope.py,
                 tokens by vocabulary.py, pre_tokenizers.py and special.py
lora.py          a PEFT adapter folder → a GGUF adapter
writing.py       how every output is written: aside, streamed, checked, renamed
check.py         what is looked at before an output gets its name
"""
