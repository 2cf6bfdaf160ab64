"""What reading token by token found, as tables."""

from __future__ import annotations

from eft_gguf.evaluation.table import Table
from eft_gguf.evaluation.tokens import Share, Tokens
from eft_gguf.inspection import DECISIONS
from eft_gguf.printable import printable


def tables(found: Tokens) -> list[Table]:
    """All tokens, where in a reply they change, what drafts would come to, and examples."""
    return [_all(found), _places(found), _drafts(found), *([_examples(found)] if found.examples else [])]


def _all(found: Tokens) -> Table:
    rows = [
        ["mean total variation", _text(found.mean, 1)],
        ["total variation below 0.1", _text(found.near)],
        ["total variation above 0.5", _text(found.far)],
        ["likeliest token changed", _text(found.changed)],
        *([f"decided by {name}", _text(found.decided[name])] for name in DECISIONS if found.decided[name].value),
    ]
    note = "Tuned side against blend. Per cent of tokens, with the bootstrap's 95 % interval\nover replies."
    return Table(f"{found.mean.tokens:,} tokens of {found.replies:,} replies", ("", "value"), rows, note)


def _places(found: Tokens) -> Table:
    starts = list(found.places)
    rows = [
        [_span(start, following), f"{mean.tokens:,}", _text(mean, 1), _text(changed)]
        for (start, (mean, changed)), following in zip(found.places.items(), [*starts[1:], None], strict=True)
    ]
    return Table("Where in the reply", ("tokens no.", "tokens", "total variation", "changed, %"), rows)


def _span(start: int, following: int | None) -> str:
    if following is None:
        return f"from {start + 1}"
    return f"{start + 1}" if following == start + 1 else f"{start + 1} to {following}"


def _drafts(found: Tokens) -> Table:
    rows = [
        [str(length), f"{100 * accepted:.1f}", f"{tokens:.2f}"] for length, (accepted, tokens) in found.drafts.items()
    ]
    sampled = (
        f"Of drafts sampled at temperature 1 a token is accepted in {100 * (1 - found.mean.value):.1f} % of cases."
    )
    return Table("Drafts by the tuned side, greedy", ("length", "accepted, %", "tokens a verification"), rows, sampled)


def _examples(found: Tokens) -> Table:
    rows = [[_quoted("…" + said[-24:] if said[24:] else said), *map(_quoted, pair)] for said, *pair in found.examples]
    return Table("Tokens that change most", ("after", "tuned side", "blend"), rows)


def _quoted(text: str) -> str:
    """Control characters written out."""
    return printable(text.replace("\n", "⏎"))


def _text(share: Share, scale: int = 100) -> str:
    digits, low_digits = (1, 0) if scale == 100 else (3, 3)
    low, high = scale * share.low, scale * share.high
    return f"{scale * share.value:.{digits}f} ({low:.{low_digits}f}–{high:.{low_digits}f})"
