"""What each model reads of a chat, where base and untuned have a prompt of their own."""

import numpy as np

from eft_gguf import EFT, Blend, Sampling

QUESTION = [{"role": "user", "content": "hello there"}]
USUAL = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
TOLD = "<|im_start|>system\nIn two lines.<|im_end|>\n" + USUAL
# Jinja drops the last line break of a template, so that it must be written otherwise.
TEMPLATE = (
    "<|im_start|>system\nIn two lines.<|im_end|>\n{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ '\\n' }}"
)


def test_base_and_untuned_may_be_told_what_the_tuned_model_was_taught(tiny, tmp_path):
    file = tmp_path / "family.toml"
    models = f'base = "{tiny.base}"\nuntuned = "{tiny.untuned}"\ntuned.tuned = "{tiny.tuned}"\n'
    file.write_text(f'{models}bases_template = """\n{TEMPLATE}"""\n')
    with EFT.open(file, threads=1) as eft, EFT.open(**tiny.family(), threads=1) as usual:
        assert eft._prompts.read(QUESTION).texts == [TOLD, TOLD, USUAL]
        alone = {"base": (TOLD, Blend(1, 0)), "untuned": (TOLD, Blend(0, 0)), "tuned": (USUAL, Blend(0, 1))}
        tokens = eft.complete(QUESTION, sampling=Sampling(temperature=0, max_tokens=6)).tokens
        # The blend's logits are those of the models after their own prompts, and the same reply.
        by_itself = {
            name: [rows[name].copy() for _, rows in usual.replay(text, tokens, blend=blend)]
            for name, (text, blend) in alone.items()
        }
        for at, (_, rows) in enumerate(eft.replay(QUESTION, tokens)):
            for name in alone:
                possible = np.isfinite(rows[name]) & np.isfinite(by_itself[name][at])
                np.testing.assert_allclose(rows[name][possible], by_itself[name][at][possible], atol=1e-4)
            assert int(np.argmax(rows["blend"])) == tokens[at]
