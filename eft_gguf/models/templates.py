"""Chat templates, compiled once and rendered within limits.

The environment is that of transformers, in which templates are written: blocks without the line break behind them,
`break` and `continue`, `{% generation %}`, `tojson` that escapes nothing for HTML, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from eft_gguf.models.template_limits import CURRENT, Budget, Counted, LimitError, as_json, before_call, binary

LONGEST = 200_000
"""Characters of a template. The longest known one has 20,000."""
LEFT_OUT = ("pprint", "random", "urlize", "wordwrap", "xmlattr", "striptags")
"""Filters that no template of a chat has use for, and whose work is not bounded by what they make."""


class _Generation(Extension):
    """`{% generation %}`, by which transformers marks the assistant's words: its content stands for it."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's, whose contents may refer to one another, and are therefore not written out."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=_written,
            cache_size=0,
        )
        filters: dict[str, Callable[..., Any]] = {**self.filters, "tojson": as_json}
        own: dict[str, Callable[..., Any]] = {"_counted": Counted, "_made": _made, "_tied": _tied}
        self.filters = {name: _limited(name, f) for name, f in filters.items() if name not in LEFT_OUT} | own
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: _limited(name, test) for name, test in tests.items()}
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace

    @staticmethod
    def concat(parts: Iterable[Any]) -> str:
        """The pieces of a block, or of the whole, as one text."""
        budget, pieces, length = CURRENT.get(), [], 0
        for part in parts:
            length += len(part)
            budget.step()
            budget.room(length)
            pieces.append(part)
        return str(budget.made("".join(pieces)))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Watch().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Any call that a template makes."""
        # A text's `format` comes in a wrapper of the sandbox's.
        method = getattr(function, "__wrapped__", function)
        subject, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        before_call(name, subject, args, kwargs)
        return CURRENT.get().made(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Any operation of two values, but for comparisons."""
        binary(operator, left, right)
        return CURRENT.get().made(super().call_binop(context, operator, left, right))


class _Watch(NodeTransformer):
    """Has a program count the rounds of its loops, and what it makes without a call."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("_counted", _expression(node.iter))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_tied", *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_made", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_made", node) if node.ctx == "load" else node


def _expression(node: nodes.Node) -> nodes.Expr:
    assert isinstance(node, nodes.Expr)
    return node


def _through(name: str, first: nodes.Expr, *others: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(first, name, list(others), [], None, None, lineno=first.lineno)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of Jinja's that counts, and that is asked first how much it would make."""
    leading = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def limited(*arguments: Any, **named: Any) -> Any:
        subject, *others = arguments[leading:] or (None,)
        before_call(name, subject, tuple(others), named)
        return CURRENT.get().made(function(*arguments, **named))

    return limited


def _made(value: Any) -> Any:
    return CURRENT.get().made(value)


def _tied(*parts: Any) -> str:
    """`a ~ b`."""
    budget = CURRENT.get()
    budget.step()
    budget.room(sum(budget.weight(part) for part in parts))
    return str(budget.made("".join(map(str, parts))))


@pass_context
def _written(context: Context, value: Any) -> Any:
    """What `{{ value }}` writes. How long it will be is known before it is written out."""
    if not isinstance(value, str):
        CURRENT.get().weight(value)
    return value


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    return _Environment().from_string(template)


def fill(template: str, variables: Mapping[str, Any]) -> str:
    """What a template makes of variables. Raises LimitError, and whatever Jinja or the template raises."""
    if len(template) > LONGEST:
        raise LimitError(f"it has {len(template):,} characters, and {LONGEST:,} are the most")
    token = CURRENT.set(Budget(variables.values()))
    try:
        return _compiled(template).render({"raise_exception": _refuse, "strftime_now": _now, **variables})
    except MemoryError:
        raise LimitError("it takes more memory than there is") from None
    finally:
        CURRENT.reset(token)


def check(template: str) -> None:
    """Raise LimitError or what Jinja raises where it cannot be parsed."""
    if len(template) > LONGEST:
        raise LimitError(f"it has {len(template):,} characters, and {LONGEST:,} are the most")
    _compiled(template)


def _refuse(message: object) -> None:
    raise ValueError(f"{message}")


def _now(form: str) -> str:
    if len(form) > 200:
        raise LimitError("it writes the time in a form of more than 200 characters")
    return datetime.now().strftime(form)
