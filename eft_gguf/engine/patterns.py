"""Regular expressions of JSON schemas in the words of llguidance's."""

from __future__ import annotations

import re

from eft_gguf.errors import OptionError

MOST = 2_000_000
"""Characters of an expression with its repetitions written out: beyond, llguidance takes minutes."""


def require_moderate(what: str, pattern: str) -> None:
    """Raise OptionError for repetitions in one another that make an expression very long."""
    sizes, at = [[0]], 0
    while at < len(pattern):
        if pattern[at] == "[":
            part = pattern[at : _set_end(pattern, at)]
        else:
            repeated = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}").match(pattern, at)
            if repeated:
                sizes[-1][-1] *= max(int(repeated[1]), int(repeated[2] or 0), 1)
            part = repeated[0] if repeated else pattern[at : at + (2 if pattern[at] == "\\" else 1)]
        at += len(part)
        if part == "(":
            sizes.append([0])
        elif part == ")" and len(sizes) > 1:
            inside = sum(sizes.pop())
            sizes[-1].append(inside)
        elif part[0] != "{":
            sizes[-1].append(1)
        if sizes[-1][-1] > MOST:
            raise OptionError(
                f"{what} has {sizes[-1][-1]:,} characters with its repetitions written out, and {MOST:,} are the most",
                hint="repeat less",
            )


def anchored(pattern: str) -> str:
    """The pattern, its alternatives each anchored as they say, so that it must match as a whole.

    What means something else to llguidance than to JSON schemas is written otherwise, or refused with OptionError.
    """
    require_moderate("the 'pattern' of json_schema", pattern)
    branches = _branches(_sets(pattern))
    if len(branches) == 1:
        return branches[0]
    whole = []
    for branch in branches:
        before = "" if branch.startswith("^") else "(?s:.*)"
        end = re.search(r"(?:^|[^\\])(?:\\\\)*\$$", branch)
        branch = branch.removeprefix("^")
        whole.append(before + (branch[:-1] if end and branch else branch + "(?s:.*)"))
    return f"^(?:{'|'.join(whole)})$"


def _branches(pattern: str) -> list[str]:
    """The alternatives outside of brackets."""
    branches, depth, at = [""], 0, 0
    while at < len(pattern):
        if pattern[at] == "[":
            part = pattern[at : _set_end(pattern, at)]
        else:
            part = pattern[at : at + (2 if pattern[at] == "\\" else 1)]
        at += len(part)
        depth += {"(": 1, ")": -1}.get(part, 0)
        if part == "|" and depth == 0:
            branches.append("")
        else:
            branches[-1] += part
    return branches


def _set_end(pattern: str, start: int) -> int:
    """The place after the set of characters that begins at `start`."""
    at = start + 1 + pattern.startswith("^", start + 1)
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return min(at + 1, len(pattern))


def _sets(pattern: str) -> str:
    """Sets of characters without what only llguidance reads as more than characters."""
    written, at = "", 0
    while at < len(pattern):
        if pattern[at] != "[":
            step = 2 if pattern[at] == "\\" else 1
            written += pattern[at : at + step]
            at += step
            continue
        end = _set_end(pattern, at)
        inside = pattern[at + 1 : end - 1]
        if re.search(r"&&|--|~~", inside):
            raise OptionError(
                f"json_schema has 'pattern', which cannot be followed here while a reply is drawn: {pattern!r:.80}",
                hint="leave it out, and check the reply for it",
            )
        if inside in ("", "^"):
            # ECMA's sets of nothing and of everything.
            written += r"[^\s\S]" if not inside else r"[\s\S]"
        else:
            written += "[" + re.sub(r"(\\.)|\[", lambda found: found[1] or r"\[", inside, flags=re.DOTALL) + "]"
        at = end
    return written
