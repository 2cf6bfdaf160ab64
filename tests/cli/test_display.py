"""What stands below a reply."""

import pytest

from eft_gguf.cli.display import complain, figures, footer
from eft_gguf.engine.sequence import Timings

REPLY = Timings(prompt_tokens=20, generated_tokens=12, rounds=5, seed=7)


@pytest.mark.parametrize(
    ("drafts", "line"),
    [
        ({}, None),
        ({"drafted": 10, "checked": 8, "accepted": 6}, "  drafts: 2.0 a round, 75% taken"),
        (
            {"drafted": 10, "checked": 8, "accepted": 6, "plain_steps": 8.0},
            "  drafts: 2.0 a round, 75% taken, about 1.50 times as fast as without",
        ),
        ({"not_drafted": "base cannot roll back"}, "  no drafts: base cannot roll back"),
    ],
)
def test_what_came_of_drafts(drafts: dict, line: str | None) -> None:
    for name in ("drafted", "checked", "accepted", "plain_steps", "not_drafted"):
        setattr(REPLY, name, drafts.get(name, "" if name == "not_drafted" else 0))
    lines = figures(REPLY, "stop").splitlines()
    assert lines[2:] == ([] if line is None else [line])
    assert all(len(line) <= 80 for line in lines)


def test_the_footer_is_one_line() -> None:
    reply = Timings(prompt_tokens=123456, cached_tokens=65432, generated_tokens=1234, seed=4294967295, decode_seconds=9)
    line = footer(reply, "interrupted")
    assert "\n" not in line and len(line) <= 80
    assert "1234 tokens, " in line and "stopped" in line and "65432 cached" in line and "seed 4294967295" in line


def test_messages_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    complain("bad name \x1b]0;owned\x07" + "x" * 100_000, "hint \x1b[2J")
    err = capsys.readouterr().err
    assert "\x1b]" not in err and "\x07" not in err and "\x1b[2J" not in err
    assert "bad name" in err and len(err) < 5000
