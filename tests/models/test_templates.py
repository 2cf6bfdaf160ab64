"""Templates come out as Jinja writes them for transformers, and hostile ones come to a quick, small and plain end."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from eft_gguf.errors import OptionError
from eft_gguf.models.chat import PLAIN_TEMPLATE, render
from tests import gguf_files, tiny_models

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "  What is\n2 × 3? "},
    {"role": "assistant", "content": "<think>hm</think>Six."},
    {"role": "user", "content": 'Say "größe".'},
]
QWEN3 = """{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string %}
        {%- set ns.multi = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>' ~ '\n' }}
    {%- endif %}
    {%- if not loop.last %}{% continue %}{% endif %}
    {{- loop.index ~ '/' ~ loop.length }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
MANY = """{% macro shown(value, depth=0) %}{% if value is mapping %}{% for key, one in value.items() | sort %}
{{ '  ' * depth }}{{ key }}: {{ shown(one, depth + 1) }}{% endfor %}{% elif value is iterable and value is not string %}
{{ value | map('string') | join(', ') }}{% else %}{{ value | trim | upper }}{% endif %}{% endmacro %}
{% generation %}{{ shown(messages[0]) }}{% endgeneration %}
{% set block %}
{% for m in messages if m.role != 'system' %}{{ loop.cycle('a', 'b') }}{{ m['content'] | replace('\n', '') }}
{% endfor %}{% endset %}{{ block | length }}{{ block }}{{ messages | tojson }}{{ messages[:1] | tojson(indent=2) }}
{{ '%s and %d' | format('text', 3) }}{{ '{} {}'.format(1, 'x') }}{{ "a,b".split(",") | join("-") }}{{ [1, 2] + [3] }}
{% for i in range(3) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% else %}no{% endfor %}
{{ (1, 2)[0] }}{{ {'a': 1} }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 2 ** 10 }}{{ tools is none }}{{ bos_token }}
{{ messages | map(attribute='role') | unique | join('|') }}
{{ messages[0].content | indent(2) }}{{ nothing | default('d') }}"""


@pytest.mark.parametrize("template", [tiny_models.TEMPLATE, gguf_files.TEMPLATE, PLAIN_TEMPLATE, QWEN3, MANY])
def test_templates_come_out_as_without_limits(template: str) -> None:
    plain = Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>")
    messages: Any = CHAT
    assert render(CHAT, template=template, bos="<s>", eos="</s>") == plain(messages=messages).prompt


def test_tools_are_told() -> None:
    template = (
        "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    tools = [{"type": "function", "function": {"name": "größe"}}]
    text = render([CHAT[1]], template=template, bos="", eos="", tools=tools)
    assert text == '{"type": "function", "function": {"name": "größe"}}  What is\n2 × 3? '


def test_a_long_conversation_is_rendered_fast() -> None:
    messages = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "word " * 200}] * 500
    started = time.process_time()
    text = render(messages, template=tiny_models.TEMPLATE, bos="", eos="")
    assert text.count("word") == 200_000
    assert time.process_time() - started < 1


LOOP = "{% for i in range(60) %}"
HOSTILE = {
    "nested loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x", "steps"),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "more than",
    ),
    "a macro without end": ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion"),
    "many times": ("{{ 'a' * 3000000000 }}", "3,000,000,000 characters"),
    "many times a list": ("{{ ([1] * 3000000000) | length }}", "3,000,000,000 characters"),
    "a large range": ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    "a large power": ("{{ 9 ** (9 ** 9) }}", "4,096 bits"),
    "squares": ("{% set n = namespace(x=3) %}" + LOOP + "{% set n.x = n.x * n.x %}{% endfor %}", "4,096 bits"),
    "doubled by ~": ("{% set n = namespace(x='ab') %}" + LOOP + "{% set n.x = n.x ~ n.x %}{% endfor %}", "characters"),
    "doubled by +": ("{% set n = namespace(x='ab') %}" + LOOP + "{% set n.x = n.x + n.x %}{% endfor %}", "characters"),
    "doubled in a block": (
        "{% set n = namespace(x='ab') %}"
        + LOOP
        + "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
        "characters",
    ),
    "lists of lists": (
        "{% set n = namespace(x=[1]) %}" + LOOP + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "parts",
    ),
    "compared lists of lists": (
        "{% set n = namespace(x=(1,), y=(1,)) %}"
        + LOOP
        + "{% set n.x = (n.x, n.x) %}{% set n.y = (n.y, n.y) %}{% endfor %}{{ n.x == n.y }}",
        "parts",
    ),
    "replaced": ("{{ ('a' * 99999) | replace('a', 'b' * 99999) }}", "characters"),
    "the method": ("{{ ('a' * 99999).replace('a', 'b' * 99999) }}", "characters"),
    "joined": ("{{ ('b' * 99999).join('a' * 99999) }}", "characters"),
    "centred": ("{{ 'a' | center(10 ** 10) }}", "the number 10000000000"),
    "filled": ("{{ 'a'.ljust(10 ** 10) }}", "the number 10000000000"),
    "indented": ("{{ ('\n' * 99999) | indent('a' * 99999) }}", "characters"),
    "formatted": ("{{ '%10000000000d' % 1 }}", "five digits"),
    "formatted by a method": ("{{ '{:>10000000000}'.format(1) }}", "five digits"),
    "formatted with a width": ("{{ '{:{w}}'.format(1, w=10 ** 9) }}", "the number 1000000000"),
    "formatted many times": ("{{ ('{0}' * 9999).format('a' * 99999) }}", "characters"),
    "as JSON": ("{{ messages | tojson(indent=10 ** 9) }}", "the number 1000000000"),
    "lorem ipsum": ("{{ lipsum(n=10 ** 7) }}", "undefined"),
    "batches": ("{{ [1] | batch(10 ** 9, 0) | list | length }}", "the number 1000000000"),
    "the time": ("{{ strftime_now('%Y' * 100000) }}", "200 characters"),
    "translated": ("{{ 'aaaa'.translate({97: 'b' * 99999}) }}", "translate"),
    "a long template": ("x" * 300_000, "300,000 characters"),
    "deep brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be parsed"),
    "what prints itself": ("{{ raise_exception('\x1b]0;owned\x07') }}", "\\x1b]0;owned\\x07"),
    "insides": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "files": ("{% include '/etc/passwd' %}", "no loader"),
    "changed messages": ("{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}", "unsafe"),
}
TRIAL = """
import resource, sys
from eft_gguf.errors import OptionError
from eft_gguf.models.chat import render
render([{"role": "user", "content": "Hi"}], template="{{ 1 }}", bos="", eos="")
before = resource.getrusage(resource.RUSAGE_SELF)
for template in sys.stdin.read().split("\\0"):
    try:
        render([{"role": "user", "content": "Hi"}], template=template, bos="", eos="")
        print("rendered", repr(template[:60]))
    except OptionError:
        pass
after = resource.getrusage(resource.RUSAGE_SELF)
print(round(after.ru_utime - before.ru_utime, 1), (after.ru_maxrss - before.ru_maxrss) // 1024)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_refused_in_plain_words(name: str) -> None:
    template, reason = HOSTILE[name]
    with pytest.raises(OptionError) as caught:
        render([{"role": "user", "content": "Hi"}], template=template, bos="", eos="")
    assert reason in caught.value.message
    assert caught.value.message.isprintable() and len(caught.value.message) < 300
    assert "--raw" in caught.value.hint


def test_hostile_templates_take_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL],
        input="\0".join(template for template, _ in HOSTILE.values()),
        capture_output=True,
        text=True,
        check=True,
    )
    _seconds, megabytes = done.stdout.split()
    assert int(megabytes) < 300
