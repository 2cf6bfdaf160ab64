"""LongRoPE (Phi-3, Phi-4-mini): llama.cpp chooses its factors by the length of the context, not of the cache."""

from eft_gguf import EFT, Sampling
from tests.tiny_models import write_tiny_model

GREEDY = Sampling(temperature=0, max_tokens=24)
SHOWN = [{"prompt": "a?", "reply": "A."}]


def test_replies_do_not_depend_on_how_many_may_run(tmp_path):
    names = ("base", "untuned", "tuned")
    models = {name: write_tiny_model(tmp_path / f"{name}.gguf", seed=n, long_rope=256) for n, name in enumerate(names)}
    question = [{"role": "user", "content": "once upon a time"}]
    said = []
    for sequences in (1, 2, 8):
        with EFT.open(**models, threads=1, ctx=256, sequences=sequences, speculate="off", examples=SHOWN) as eft:
            said.append([eft.complete(prompt, sampling=GREEDY).tokens for prompt in ("once upon", question, question)])
    assert said[0] == said[1] == said[2]


def test_the_long_factors_would_say_something_else(tmp_path):
    models = [
        {name: write_tiny_model(tmp_path / f"{name}{at}.gguf", seed=n, long_rope=at) for n, name in enumerate("btu")}
        for at in (64, 256)
    ]
    said = []
    for one in models:
        with EFT.open(base=one["b"], untuned=one["u"], tuned=one["t"], threads=1, ctx=256, speculate="off") as eft:
            said.append(eft.complete("once upon a time there was", sampling=GREEDY).tokens)
    assert said[0] != said[1]
