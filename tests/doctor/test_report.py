"""Exit codes, and lines that fit."""

from __future__ import annotations

from eft_gguf.doctor.report import Check, Report, text_of


def test_the_worst_verdict_is_the_exit_code() -> None:
    report = Report("f")
    assert (report.exit_code, report.summary()) == (0, "All is well.")
    report.checks += [Check("a", "PASS", ""), Check("b", "SKIP", "")]
    assert report.exit_code == 0 and not report.failed
    report.checks.append(Check("c", "WARN", ""))
    assert (report.exit_code, report.summary()) == (1, "1 warning: each tells what to do about it.")
    report.checks += [Check("d", "FAIL", ""), Check("e", "FAIL", "")]
    assert (report.exit_code, report.summary()) == (2, "2 failures and 1 warning: each tells what to do about it.")


def test_lines_fit_80_columns_and_commands_are_not_cut_at_hyphens() -> None:
    check = Check("build", "WARN", "word " * 40, ("seen " * 30, "short"), "eft-gguf --very-long-option " * 6)
    lines = text_of(check).splitlines()
    assert all(len(line) <= 80 for line in lines) and lines[0].startswith("WARN  build          word")
    assert not any(line.rstrip().endswith("-") for line in lines)
    assert text_of(Check("x", "PASS", "")) == "PASS  x              "


def test_as_plain_values() -> None:
    report = Report("f", [Check("a", "PASS", "fine", ("seen",), figures={"n": 1})])
    assert report.as_dict()["checks"] == [
        {"name": "a", "verdict": "PASS", "message": "fine", "evidence": ("seen",), "remedy": "", "figures": {"n": 1}}
    ]
