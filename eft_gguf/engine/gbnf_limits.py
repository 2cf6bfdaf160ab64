"""Is a GBNF grammar one that llama.cpp can work on in bounded time and memory? Asked before it sees the text."""

from __future__ import annotations

import re

from eft_gguf.errors import OptionError

MOST_ELEMENTS = 50_000
"""Of a grammar with its repetitions written out, as llama.cpp does."""
MOST_STACKS = 5_000
"""Ways in which a grammar can begin: llama.cpp keeps a stack for each."""

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?P<rule>[A-Za-z0-9-]+)\s*::=|(?P<name>[A-Za-z0-9-]+)'
    r"|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\}|[()|*+?.]",
    re.DOTALL,
)


def require_bounded(gbnf: str) -> None:
    """Raise OptionError for repetitions of nothing, and for grammars that grow out of all proportion."""
    sizes: list[list[float]] = [[0.0]]  # by open bracket: what stands in it so far, the last part apart
    rules: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    begins = True
    depth = 0
    for found in _TOKEN.finditer(gbnf):
        token = found[0]
        if token.startswith("#"):
            continue
        if found["rule"]:
            current = rules.setdefault(found["rule"], [[]])
            begins, depth = True, 0
        elif token == "(":
            sizes.append([0.0])
            depth += 1
        elif token == ")":
            if len(sizes) > 1:
                inside = sum(sizes.pop())
                sizes[-1].append(inside)
            depth -= 1
            begins = False
        elif token == "|":
            begins = True
            if current:
                current.append([])
        elif token[0] == "{":
            least = int(found["least"] or 0)
            most = int(found["most"] or least) if found["comma"] or found["most"] else least
            if found["most"] and most < least:
                raise OptionError(
                    f"the grammar repeats a part at least {least} and at most {most} times",
                    hint="put the smaller number first, as in {2,3}",
                )
            sizes[-1][-1] *= max(least, most, 1)
        elif token not in ("*", "+", "?"):
            sizes[-1].append(len(token) / 8 if token[0] == '"' else 1.0)
            if begins and found["name"] and current:
                current[-1].append(found["name"])
            begins = False
        if sum(map(sum, sizes)) > MOST_ELEMENTS * 4:
            raise _too_large()
    for name in rules:
        if _stacks(name, rules, {}, ()) > MOST_STACKS:
            raise _too_large()


def _stacks(name: str, rules: dict[str, list[list[str]]], known: dict[str, float], above: tuple[str, ...]) -> float:
    """In how many ways a rule can begin, through the rules that its alternatives begin with."""
    if name in above or name not in rules or len(above) > 200:
        return 1.0
    if name not in known:
        total = 0.0
        for alternative in rules[name]:
            total += _stacks(alternative[0], rules, known, (*above, name)) if alternative else 1.0
        known[name] = total
    return known[name]


def _too_large() -> OptionError:
    return OptionError(
        "the grammar is too large with its repetitions and alternatives written out", hint="make it simpler"
    )
