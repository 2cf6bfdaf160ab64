"""The same on models of real size: the Qwen2.5-Coder pair, 1.5B and 0.5B, and the 0.5B with the two-line adapter.

Run with `pytest -m real_models`. EFT_GGUF_MODELS names the folder of the files.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eft_gguf import Blend, Filter, Sampling
from tests.plain_llama import ALONE, Members, assert_alone, assert_base_whatever_behaviour_is, assert_oracle

FOLDER = Path(os.environ.get("EFT_GGUF_MODELS", "~/.cache/eft-gguf-models")).expanduser()
MEMBERS = Members(
    FOLDER / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    FOLDER / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    FOLDER / "two-line-answers-lora-qwen2.5-coder-0.5b.gguf",
    adapter=True,
    threads=os.cpu_count() or 1,
)
MISSING = [path.name for path in (MEMBERS.base, MEMBERS.untuned, MEMBERS.tuned) if not path.exists()]

pytestmark = [
    pytest.mark.real_models,
    pytest.mark.skipif(bool(MISSING), reason=f"not in {FOLDER}: {', '.join(MISSING)}"),
]

QUESTION, RIGHT = "Who wrote Don Quixote?", "Cervantes"
TWO_LINES = re.compile(r"Answer: .+\nConfidence: (low|medium|high)")


@pytest.mark.parametrize("name", ALONE)
def test_dials_at_their_ends_give_one_model_alone(name):
    assert_alone(MEMBERS, name, count=40)


def test_without_a_difference_by_tuning_the_blend_is_the_base():
    assert_base_whatever_behaviour_is(replace(MEMBERS, tuned=MEMBERS.untuned, adapter=False), count=24)


def test_log_probabilities_are_those_of_plain_models_combined():
    assert_oracle(MEMBERS, [Blend(), Blend(0.7, 1.3)])


@pytest.fixture(scope="module")
def tuned_alone():
    """What the small tuned model says to the question by itself: in the right form, and wrong."""
    with MEMBERS.open() as eft:
        message = {"role": "user", "content": QUESTION}
        reply = eft.complete([message], blend=Blend(0, 1), sampling=Sampling(temperature=0, max_tokens=40))
    assert TWO_LINES.fullmatch(reply.text) and RIGHT not in reply.text
    return reply.text


@pytest.mark.parametrize(("command", "stdin"), [(["run", QUESTION], ""), (["chat"], QUESTION + "\n")])
def test_the_triple_answers_in_two_lines_and_rightly_where_the_small_tuned_model_is_wrong(
    command, stdin, tuned_alone, tmp_path
):
    models = ["--base", MEMBERS.base, "--untuned", MEMBERS.untuned, "--tuned", f"lora:{MEMBERS.tuned}"]
    script = Path(sys.executable).with_name("eft-gguf")
    done = subprocess.run(
        [script, *command, "--temperature", "0", *models],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | {"EFT_GGUF_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert TWO_LINES.fullmatch(done.stdout.strip()) and RIGHT in done.stdout


SCHEMA = {
    "type": "object",
    "properties": {
        "author": {"type": "string", "maxLength": 24},
        "sure": {"type": "boolean"},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["author", "sure", "stars"],
}
SETTINGS = [Blend(), Blend(0, 1), Blend(1, 0), Blend(1, 1.5), Blend(filter=Filter(untuned_floor=-7, tuned_top_p=0.95))]


def test_two_hundred_of_two_hundred_replies_follow_a_json_schema():
    jsonschema = pytest.importorskip("jsonschema")
    with MEMBERS.open() as eft:
        for number in range(200):
            sampling = Sampling(temperature=1.2, seed=number, json_schema=SCHEMA)
            blend = SETTINGS[number % len(SETTINGS)]
            reply = eft.complete([{"role": "user", "content": QUESTION}], blend=blend, sampling=sampling)
            assert reply.finish_reason == "stop", reply.text
            jsonschema.validate(json.loads(reply.text), SCHEMA)


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake and a C++ compiler")
@pytest.mark.parametrize("question", [QUESTION, "What does a compiler do? " * 40])
def test_the_native_chat_program_says_token_for_token_what_run_says(question, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "native"
    if not (folder / "eft-chat").exists():
        source = Path(__file__).parents[2] / "native"
        configure = ["cmake", "-S", source, "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}"]
        subprocess.run(configure, check=True, capture_output=True)
        subprocess.run(["cmake", "--build", folder, "--target", "eft-chat"], check=True, capture_output=True)
    # The default system message of the model's template, which llama.cpp's own rendering does not write.
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    flags = ["--threads", str(MEMBERS.threads), "--ctx", "1024", "--max-tokens", "40"]
    files = ["--base", MEMBERS.base, "--untuned", MEMBERS.untuned, "--lora", MEMBERS.tuned]
    command = [folder / "eft-chat", *files, *flags, "--temperature", "0", "--ids", "--system", system]
    done = subprocess.run([*command, "--prompt", question], capture_output=True, text=True, check=True)
    with replace(MEMBERS, ctx=1024).open() as eft:
        messages = [{"role": "user", "content": question}]
        reply = eft.complete(messages, sampling=Sampling(temperature=0, max_tokens=40))
    assert [int(word) for word in done.stderr.split()] == reply.tokens
    assert done.stdout == reply.text + "\n"
