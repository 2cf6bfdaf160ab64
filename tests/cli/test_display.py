"""What stands below a reply."""

import pytest

from eft_gguf.cli.display import footer
from eft_gguf.engine.sequence import Timings

REPLY = Timings(prompt_tokens=20, generated_tokens=12, rounds=5, seed=7)


@pytest.mark.parametrize(
    ("figures", "line"),
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
def test_what_came_of_drafts(figures: dict, line: str | None) -> None:
    for name in ("drafted", "checked", "accepted", "plain_steps", "not_drafted"):
        setattr(REPLY, name, figures.get(name, "" if name == "not_drafted" else 0))
    lines = footer(REPLY, "stop").splitlines()
    assert lines[2:] == ([] if line is None else [line])
    assert all(len(line) <= 80 for line in lines)
