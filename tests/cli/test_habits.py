"""What people expect of a command line: standard input, defaults of their own, completion, colours, closed streams."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf.cli.main import cli

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))


@pytest.mark.parametrize(
    ("arguments", "stdin", "prompt"),
    [
        (["Summarise this"], "A long text.\n", "Summarise this\n\nA long text."),
        (["Summarise this"], "", "Summarise this"),
        (["Summarise this"], " \n", "Summarise this"),
        ([], "A question?\n", "A question?"),
        (["-"], "A question?\n", "A question?"),
        (["-"], "A question?\r\n", "A question?"),
        (["-"], "\ufeffone\r\ntwo\r\n", "one\ntwo"),
        (["Say"], "\ufeffone\r\ntwo\r\n", "Say\n\none\ntwo"),
    ],
)
def test_standard_input_follows_the_prompt(
    arguments: list[str], stdin: str, prompt: str, command: Callable, fake
) -> None:
    assert command("run", *arguments, stdin=stdin).code == 0
    assert fake.requests[0]["prompt"] == [{"role": "user", "content": prompt}]


def test_line_ends_of_windows_in_a_chat(command: Callable, fake) -> None:
    outcome = command("chat", "--seed", "1", stdin="\ufeffone\\\r\ntwo\r\n/regen\r\nexit\r\nnever")
    assert outcome.code == 0 and outcome.out.count("reply") == 2
    assert [request["prompt"][-1]["content"] for request in fake.requests] == ["one\ntwo", "one\ntwo"]


@pytest.mark.parametrize("arguments", [[], ["convert"], ["evaluate"]])
def test_a_group_alone_prints_its_help(arguments: list[str], command: Callable) -> None:
    outcome = command(*arguments)
    assert (outcome.code, outcome.err) == (0, "") and outcome.out.startswith("Usage: eft-gguf ")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "Hi", "--temp", "1"], "Did you mean --temperature?"),
        (["run", "Hi", "--temprature", "1"], "Did you mean --temperature"),
        (["chatt"], "Did you mean chat?"),
        (["families", "remove"], "No such command 'remove'."),
        (["evaluate", "gates"], "Did you mean gate?"),
    ],
)
def test_did_you_mean(arguments: list[str], meant: str, command: Callable) -> None:
    outcome = command(*arguments)
    assert outcome.code == 2 and meant in outcome.err.splitlines()[0]
    assert outcome.err.splitlines()[1].endswith("--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "2"], "error: --top-p must be above 0 and at most 1, not 2.0"),
        (["--penalty-window", "0"], "error: --penalty-window must be "),
    ],
)
def test_errors_name_flags(arguments: list[str], message: str, command: Callable, fake) -> None:
    assert command("run", "Hi", *arguments).err.startswith(message)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = command("--completion", shell)
    assert outcome.code == 0 and "_EFT_GGUF_COMPLETE" in outcome.out and "eft-gguf" in outcome.out


def test_words_that_a_shell_is_offered() -> None:
    from click.shell_completion import ShellComplete

    def offered(words: list[str], begun: str) -> list[str]:
        return [item.value for item in ShellComplete(cli, {}, "eft-gguf", "X").get_completions(words, begun)]

    assert offered([], "ch") == ["chat"]
    assert "--temperature" in offered(["run"], "--te")
    assert offered(["run", "-f"], "qwen2.5-") == ["qwen2.5-coder"]


def test_python_m(command: Callable) -> None:
    result = subprocess.run([sys.executable, "-m", "eft_gguf", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == command("--version").out


@pytest.fixture
def defaults(state: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        state.mkdir(exist_ok=True)
        (state / "defaults.toml").write_text(text, encoding="utf-8")
        return state / "defaults.toml"

    return write


def test_the_users_own_defaults(command: Callable, fake, defaults: Callable) -> None:
    defaults(
        'family = "mine.toml"\ntemperature = 0.25\ntop-k = 7\nctx = 99\nstop = ["END"]\ntrait = { cautious = 0.5 }\n'
    )
    assert command("run", "Hi", "--top-k", "3").code == 0
    sampling, blend = fake.requests[0]["sampling"], fake.requests[0]["blend"]
    assert (sampling.temperature, sampling.top_k, sampling.stop) == (0.25, 3, ("END",))
    assert blend.traits == {"cautious": 0.5}
    assert fake.options["family"] == "mine.toml" and fake.options["ctx"] == 99
    # Models that are named come before the default family; a picture of the models alone stays greedy.
    assert command("run", "Hi", "--base", "a", "--untuned", "b", "--tuned", "c").code == 0
    assert fake.options["family"] is None and fake.options["base"] == "a"
    assert command("demo", "--json").code == 0
    assert fake.requests[-1]["sampling"].temperature == 0 and fake.options["family"] == "mine.toml"


def test_a_chat_that_goes_on_keeps_its_models(command: Callable, fake, defaults: Callable) -> None:
    command("chat", stdin="one")
    defaults('family = "mine.toml"')
    command("chat", "--continue", stdin="two")
    assert fake.options["family"] == "/models/family.toml"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("temprature = 1", "there is no option 'temprature'", "did you mean temperature?"),
        ("temperature = 'hot'", "'hot' is not a valid float", "mend that line"),
        ("temperature =", "is no TOML file", "mend or remove"),
        ("temperature = -1", "--temperature must be 0 or more", ""),
    ],
)
def test_wrong_defaults(text: str, message: str, hint: str, command: Callable, fake, defaults: Callable) -> None:
    defaults(text)
    outcome = command("run", "Hi")
    assert outcome.code == 2 and message in outcome.err and hint in outcome.err
    assert command("run", "--help").code == 0


def test_a_default_family(command: Callable, fake, state: Path) -> None:
    add = ["families", "add", "mine", "--base", "a.gguf", "--untuned", "b.gguf", "--tuned", "c.gguf"]
    assert command(*add).code == 0
    outcome = command("families", "use", "mine")
    assert outcome.code == 0 and "default family: mine" in outcome.out
    command("run", "Hi")
    assert fake.options["family"] == "mine"
    assert "there is none now" in command("families", "rm", "mine").out
    assert not (state / "families" / "mine.toml").exists()
    command("run", "Hi")
    assert fake.options["family"] is None
    assert "mine is no family that you added" in command("families", "rm", "mine").err
    assert "qwen3 is a preset" in command("families", "rm", "qwen3").err
    assert command("families", "use", "qwen3").code == 0
    assert command("families", "use", "none").code == 0
    assert "family" not in (state / "defaults.toml").read_text()
    assert command("families", "use", "nowhere").code == 2


# ---- streams


def in_shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell's command gives, with `eft-gguf` on the path."""
    variables = {**os.environ, **environment, "PATH": f"{Path(EFT_GGUF).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=variables, timeout=120)


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("eft-gguf families list >&-", 2, "", "error: standard output is closed"),
        ("eft-gguf families list > /dev/full", 2, "", "error: cannot write to standard output: No space left"),
        ("eft-gguf families list 2>&- | head -n 1", 0, "name ", ""),
        ("eft-gguf run <&-", 2, "", "error: Missing argument 'PROMPT'"),
        ("eft-gguf run < /dev/null", 2, "", "error: Missing argument 'PROMPT'"),
        ("eft-gguf run Hi -f nowhere.toml 2>&-", 2, "", ""),
        ("set -o pipefail; eft-gguf families list | true", 141, "", ""),
    ],
)
def test_streams(script: str, code: int, out: str, err: str) -> None:
    if "/dev/full" in script and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    result = in_shell(script)
    # A pipe may have taken all of so short a list before its reader left.
    assert result.returncode == code or (code == 141 and result.returncode == 0)
    assert result.stdout.startswith(out) and result.stderr.startswith(err)
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_a_reply_without_standard_error() -> None:
    result = in_shell("eft-gguf run 'What is the capital of Peru?' --temperature 0 --max-tokens 3 2>&-")
    assert (result.returncode, result.stdout) == (0, "Sure! The\n")


def in_terminal(*arguments: str, **environment: str) -> str:
    """What a command shows in a terminal."""
    control, terminal = pty.openpty()
    try:
        subprocess.run(
            [EFT_GGUF, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            check=False,
            timeout=60,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        return os.read(control, 65536).decode()
    finally:
        os.close(terminal)
        os.close(control)


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in in_terminal("run", "x", "-f", "nowhere.toml")
    assert "\x1b[" not in in_terminal("run", "x", "-f", "nowhere.toml", NO_COLOR="1")


def test_a_named_pipe_is_not_waited_for(command: Callable, tmp_path: Path, fake) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = command("run", "Hi", "--grammar", str(tmp_path / "pipe"))
    assert outcome.code == 2 and "pipe is empty" in outcome.err


def test_what_a_family_file_says_cannot_steer_the_terminal(command: Callable, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    lines = ['name = "odd"', 'about = "bad \\u001b]0;owned\\u0007"', 'base = "a\\u001b[2J.gguf"', 'untuned = "b"']
    path.write_text("\n".join([*lines, 'tuned = {x = "c"}']))
    for call in (["families", "show"], ["doctor", "--quick", "-f"], ["run", "x", "-f"]):
        outcome = command(*call, str(path))
        assert "\x1b" not in outcome.out + outcome.err and "\x07" not in outcome.out


def test_a_seed_out_of_range_says_what_leaving_it_out_does(command: Callable, fake) -> None:
    outcome = command("run", "Hi", "--seed", "-5")
    assert outcome.err.startswith("error: --seed must be a whole number from 0") and "one is drawn" in outcome.err
