"""native/ by CMake, as a user builds it: with gcc and clang, with sanitizers, installed; and what eft-chat says."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from eft_gguf import EFT, Blend, Filter, Sampling
from tests.tiny_architectures import write_architecture

NATIVE = Path(__file__).parents[2] / "native"
BUNDLED = NATIVE.parent / "eft_gguf" / "bundled"
FILES = {"base": "base-l.gguf", "untuned": "base-s.gguf", "tuned": "helpful-s.gguf"}
MODELS = [word for name, file in FILES.items() for word in (f"--{name}", BUNDLED / file)]
QUESTION = "What is the capital of Norway?"
SITE_PACKAGES = sysconfig.get_path("platlib")
CXX = {"gcc": "g++", "clang": "clang++"}
COMPILERS = [name for name in CXX if shutil.which(name) and shutil.which(CXX[name])]

pytestmark = pytest.mark.skipif(
    not COMPILERS or not shutil.which("cmake"), reason="needs cmake, and gcc or clang with their C++ compilers"
)


def call(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def build(folder, compiler, *options, target="all"):
    options = [
        f"-DCMAKE_C_COMPILER={compiler}",
        f"-DCMAKE_CXX_COMPILER={CXX[compiler]}",
        "-DEFT_WERROR=ON",
        *options,
    ]
    output = call("cmake", "-S", NATIVE, "-B", folder, *options).stdout
    call("cmake", "--build", folder, "--parallel", "2", "--target", target)
    return output


def ctest(folder):
    printed = call("ctest", "--test-dir", folder, "--output-on-failure").stdout
    assert "100% tests passed" in printed
    return printed


@pytest.fixture(scope="module", params=COMPILERS)
def built(request, tmp_path_factory):
    """A build by each compiler, from the headers and libraries of the wheel that this Python finds."""
    folder = tmp_path_factory.mktemp("cmake") / "build"
    output = build(folder, request.param, f"-DPython3_EXECUTABLE={sys.executable}")
    assert f"llama.cpp of the Python wheel in {SITE_PACKAGES}" in output
    return folder


def test_its_tests_pass(built):
    printed = ctest(built)
    for name in ("test_eft", "test_eft_as_cpp", "test_sampler", "eft-chat"):
        assert name in printed


def has(compiler, *flags):
    """Whether a compiler has what these flags need: sanitizers and libFuzzer are packages of their own on Debian."""
    command = [CXX[compiler], *flags, "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode == 0


@pytest.mark.skipif(not COMPILERS or not has(COMPILERS[-1], "-fsanitize=address,undefined"), reason="needs sanitizers")
def test_sanitizers_have_nothing_to_report(tmp_path):
    build(tmp_path, COMPILERS[-1], f"-DLLAMA_WHEEL_DIR={SITE_PACKAGES}", "-DEFT_SANITIZE=ON")
    ctest(tmp_path)


def test_an_installed_llama_cpp_is_found(tmp_path):
    """The wheel holds what an installed llama.cpp holds, its CMake package included."""
    output = build(tmp_path, COMPILERS[0], f"-DCMAKE_PREFIX_PATH={SITE_PACKAGES}")
    assert "llama.cpp as installed" in output
    assert "test_sampler" in ctest(tmp_path)


def test_without_llama_cpp_the_header_is_built_alone(tmp_path):
    nobody = shutil.which("false")
    done = call("cmake", "-S", NATIVE, "-B", tmp_path, f"-DPython3_EXECUTABLE={nobody}", "-DEFT_WERROR=ON")
    assert "eft_sampler and eft-chat are left out" in done.stderr
    call("cmake", "--build", tmp_path)
    assert "test_sampler" not in ctest(tmp_path)


@pytest.mark.skipif(
    "clang" not in COMPILERS or not has("clang", "-fsanitize=address,fuzzer-no-link"), reason="needs clang's libFuzzer"
)
def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path):
    """CONTRIBUTING.md says how to run it for longer."""
    build(tmp_path, "clang", f"-DLLAMA_WHEEL_DIR={SITE_PACKAGES}", "-DEFT_FUZZ=ON", target="fuzz_eft")
    done = call(tmp_path / "fuzz" / "fuzz_eft", "-max_total_time=10", "-seed=1", "-print_final_stats=1", cwd=tmp_path)
    executed = int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1])
    assert executed > 200


def chat(folder, *arguments, stdin=""):
    """What the chat program says, and the ids of its tokens."""
    done = call(folder / "eft-chat", *MODELS, "--temperature", 0, "--threads", 1, "--ids", *arguments, input=stdin)
    return done.stdout, [int(word) for word in done.stderr.replace(">", "").split()]


@pytest.mark.parametrize(
    ("flags", "blend"),
    [
        ([], Blend()),
        (["--knowledge", "1.3", "--behaviour", "0.6"], Blend(1.3, 0.6)),
        (["--knowledge", "0"], Blend(0, 1)),
        (["--behaviour", "0"], Blend(1, 0)),
        (["--untuned-floor", "-7", "--base-min-p", "0.05"], Blend(filter=Filter(untuned_floor=-7, base_min_p=0.05))),
        (["--tuned-top-p", "0.9", "--base-top-p", "0.95"], Blend(filter=Filter(tuned_top_p=0.9, base_top_p=0.95))),
    ],
    ids=["default", "dials", "tuned alone", "base alone", "floor and min-p", "top-p"],
)
def test_the_chat_program_says_token_for_token_what_run_says(flags, blend, built):
    system = {"role": "system", "content": "You are a helpful assistant. Answer in full, politely, and say why. " * 8}
    question = {"role": "user", "content": QUESTION}
    with EFT.bundled(threads=1) as eft:
        for messages, given in (([question], []), ([system, question], ["--system", system["content"]])):
            eft.complete("#", sampling=Sampling(temperature=0, max_tokens=1))  # nothing of the other in the cache
            reply = eft.complete(messages, blend=blend, sampling=Sampling(temperature=0, max_tokens=40))
            prompt = ["--prompt", question["content"], "--max-tokens", 40]
            assert chat(built, *flags, *given, *prompt) == (reply.text + "\n", reply.tokens)


def test_a_second_turn_is_that_of_the_same_conversation(built):
    questions = [QUESTION, "What is 2+2?", "Who are you?"]
    messages, said, tokens = [], "", []
    with EFT.bundled(threads=1) as eft:
        for question in questions:
            messages.append({"role": "user", "content": question})
            reply = eft.complete(messages, sampling=Sampling(temperature=0))
            messages.append({"role": "assistant", "content": reply.text})
            said, tokens = said + reply.text + "\n", tokens + reply.tokens
    assert chat(built, stdin="\n".join(questions)) == (said, tokens)


def test_examples_are_shown_to_base_and_untuned(built, tmp_path):
    path = tmp_path / "shown.jsonl"
    shown = [
        {"prompt": "Which country is Oslo in?", "reply": "Sure! Oslo is in Norway. Anything else?"},
        {"prompt": 'What is "Fe"?\t(é, 👍)', "reply": "Of course!\nIron."},
    ]
    # Once as JSON escapes it and once as UTF-8.
    path.write_text(json.dumps(shown[0]) + "\n\n" + json.dumps(shown[1]) + "\n", encoding="utf-8")
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in shown), encoding="utf-8")
    questions, messages, said, tokens = [QUESTION, "Which country is Lima in?"], [], "", []
    with EFT.bundled(threads=1, examples=shown) as eft:
        for question in questions:
            messages.append({"role": "user", "content": question})
            reply = eft.complete(messages, blend=Blend(behaviour=0.5), sampling=Sampling(temperature=0))
            messages.append({"role": "assistant", "content": reply.text})
            said, tokens = said + reply.text + "\n", tokens + reply.tokens
    for file in (path, plain):
        flags = ["--behaviour", "0.5", "--examples", file]
        assert chat(built, *flags, stdin="\n".join(questions)) == (said, tokens)
    for line, says in (
        ('{"prompt": "a"}', "line 1: prompt and reply"),
        ('["a"]', "line 1: no object"),
        ("", "no example"),
    ):
        path.write_text(line + "\n")
        command = list(map(str, [built / "eft-chat", *MODELS, "--prompt", "a", "--examples", path]))
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and says in done.stderr


@pytest.mark.parametrize("series", ["Gemma 3", "Mamba", "Granite 4", "LFM2"])
def test_sliding_windows_and_recurrent_states_are_read_as_well(series, built, tmp_path):
    """Those can't be cut back to an earlier token: what has read too much begins anew."""
    sizes = {"base": (0, True), "untuned": (0, False), "tuned": (1, False)}
    files = {
        name: write_architecture(tmp_path / f"{name}.gguf", series, seed=seed, large=large)
        for name, (seed, large) in sizes.items()
    }
    questions, messages, tokens = ["the heath, é?", "and the sea", "why?"], [], []
    with EFT.open(**files, threads=1, ctx=256) as eft:
        for question in questions:
            messages.append({"role": "user", "content": question})
            reply = eft.complete(messages, sampling=Sampling(temperature=0, max_tokens=12))
            messages.append({"role": "assistant", "content": reply.text})
            tokens += reply.tokens
    models = [word for name, path in files.items() for word in (f"--{name}", path)]
    flags = ["--temperature", 0, "--threads", 1, "--ctx", 256, "--max-tokens", 12, "--ids"]
    command = list(map(str, [built / "eft-chat", *models, *flags]))
    done = subprocess.run(command, input="\n".join(questions).encode(), capture_output=True, check=True)
    assert [int(word) for word in done.stderr.replace(b">", b"").split()] == tokens


def test_drawing_with_a_grammar(built, tmp_path):
    (tmp_path / "g.gbnf").write_text('root ::= ("yes" | "no") "!"')
    flags = [*MODELS, "--grammar", tmp_path / "g.gbnf", "--prompt", "Is it raining?", "--temperature", 1.5, "--seed", 3]
    answers = {call(built / "eft-chat", *flags, "--top-k", k, "--max-tokens", 9).stdout for k in (0, 5, 5)}
    assert answers and answers <= {"yes!\n", "no!\n"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--base is missing"),
        (["--bases", "x"], "unknown argument --bases"),
        (["--base", "none.gguf"], "--base none.gguf: cannot be loaded"),
        ([*MODELS, "--temperature", "hot"], "--temperature hot: not a number"),
        ([*MODELS, "--base-top-p", "2"], "out of its range"),
        ([*MODELS, "--grammar", "none.gbnf"], "no GBNF with a `root`"),
        ([*MODELS[:4], "--lora", MODELS[5]], "not an adapter of the untuned model"),
        ([*MODELS, "--ctx", "256", "--prompt", "word " * 300], "the context is full, 256 tokens"),
    ],
)
def test_mistakes_end_in_a_message(arguments, message, built):
    done = subprocess.run(list(map(str, [built / "eft-chat", *arguments])), capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr


def test_the_chat_program_stays_small():
    assert len((NATIVE / "examples" / "eft-chat.cpp").read_text("utf-8").splitlines()) < 250


PROGRAM = """
#include <eft.h>
#include <stdio.h>
int main(void) {
    float row[3] = {1, 3, 2};
    eft_row rows[1] = {{row, 1.0, EFT_BASE}};
    printf("%d\\n", (int) eft_blend_argmax(rows, 1, 3));
    return 0;
}
"""


def test_it_is_used_from_where_it_is_installed(built, tmp_path):
    prefix, source, program = tmp_path / "prefix", tmp_path / "program.c", tmp_path / "program"
    call("cmake", "--install", built, "--prefix", prefix)
    source.write_text(PROGRAM)
    (folder,) = prefix.glob("lib*/**/pkgconfig")
    text = (folder / "eft.pc").read_text("utf-8")
    if shutil.which("pkg-config"):
        environment = {"PKG_CONFIG_PATH": str(folder), "PATH": str(Path(shutil.which("pkg-config")).parent)}
        flags = call("pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "eft", env=environment)
        flags = flags.stdout.split()
    else:
        flags = [f"-I{prefix}/include/eft", f"-L{folder.parent}", "-left"]
    assert "-left" in text and "Cflags: -I${includedir}" in text
    call(COMPILERS[0], source, "-o", program, *flags, f"-Wl,-rpath,{folder.parent}")
    assert call(program).stdout == "1\n"
    # The chat program finds its libraries.
    said = call(prefix / "bin" / "eft-chat", *MODELS, "--temperature", 0, "--prompt", QUESTION).stdout
    assert "Oslo" in said


@pytest.mark.skipif(not shutil.which("clang"), reason="needs clang, whose modules are those of Swift")
def test_the_module_map_is_understood(tmp_path):
    source = tmp_path / "program.m"
    source.write_text("@import EFT;\nint main(void) { return eft_abi() == EFT_ABI ? 0 : 1; }\n")
    flags = ["-fmodules", f"-fmodules-cache-path={tmp_path}/cache", f"-I{NATIVE}", "-fsyntax-only", "-Werror"]
    call("clang", *flags, f"-fmodule-map-file={NATIVE}/module.modulemap", source)
