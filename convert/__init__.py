"""Checkpoints and adapters made into GGUF families, installed as `eft_gguf.convert`. Empty yet."""
