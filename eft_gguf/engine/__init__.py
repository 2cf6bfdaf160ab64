"""What runs: the models in llama.cpp, the sequences on them, and the step that gives each its next token."""

from eft_gguf.engine.threads import wait_briefly

# Here, because every module of the engine comes after this one, and with them llama.cpp's library.
wait_briefly()
