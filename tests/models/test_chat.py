"""Messages → text, by a model's template."""

from __future__ import annotations

from typing import Any

import pytest

from eft_gguf.errors import OptionError
from eft_gguf.models.chat import render
from tests.gguf_files import TEMPLATE

USER = [{"role": "user", "content": "Who?"}]


def fill(template: str, messages: Any = USER) -> str:
    return render(messages, template=template, bos="<s>", eos="</s>")


def test_a_conversation() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": "Me."}]
    assert fill(TEMPLATE, messages) == "<system>Be brief.</s><user>Who?</s><assistant>Me.</s><assistant>"


def test_the_assistants_turn_is_begun_and_special_tokens_are_the_models() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{% if add_generation_prompt %}go{% endif %}"
    assert fill(template) == "<s>Who?</s>go"


def test_only_role_and_content_reach_the_template() -> None:
    assert fill("{{ messages[0] | length }}", [{**USER[0], "name": "x"}]) == "2"


def refused(template: str, messages: Any = USER) -> OptionError:
    with pytest.raises(OptionError) as caught:
        fill(template, messages)
    assert caught.value.hint
    return caught.value


def test_a_templates_own_message_is_passed_on() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x"
    messages = [{"role": "system", "content": "Be brief."}, *USER]
    error = refused(template, messages)
    assert "System role not supported" in error.message
    assert "(system, user)" in error.message
    assert fill(template) == "x"


def test_damaged_templates() -> None:
    assert "cannot be parsed" in refused("{% for %}").message
    assert "refused" in refused("{{ nothing.here }}").message
    assert "no chat template" in refused(" ").message


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__.os }}",
        "{% set x = messages.append(1) %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_cannot_reach_out_of_the_sandbox(template: str) -> None:
    refused(template)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one"),
        ("Who?", "must be a list"),
        (None, "must be a list"),
        ({"role": "user", "content": "Who?"}, "must be a list"),
        (["Who?"], "message 1 is str"),
        ([*USER, {"role": "robot", "content": ""}], "message 2 has the role 'robot'"),
        ([{"content": "Who?"}], "message 1 has the role None"),
        ([{"role": ["user"], "content": "Who?"}], "has the role ['user']"),
        ([{"role": "user"}], "the content of message 1 is NoneType"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the content of message 1 is list"),
    ],
)
def test_wrong_messages(messages: Any, words: str) -> None:
    assert words in refused(TEMPLATE, messages).message
