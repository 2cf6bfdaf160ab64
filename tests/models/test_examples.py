import json

import pytest

from eft_gguf import OptionError
from eft_gguf.models.examples import NEUTRAL_QUESTIONS, Example, checked_choice, read_examples


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize(("choice", "number"), [(None, 0), (False, 0), (0, 0), ("off", 0), ("0", 0), (2, 2), ("3", 3)])
def test_numbers(choice, number):
    assert checked_choice(choice) == number
    assert [example.messages for example in read_examples(checked_choice(choice))] == [
        (user(question),) for question in NEUTRAL_QUESTIONS[:number]
    ]


def test_a_file_starts_from_the_folder_of_its_family(tmp_path):
    (tmp_path / "own.jsonl").write_text('\ufeff{"prompt": "a?", "reply": "A."}\r\n\n{"messages": [{"role": "user", '
                                        '"content": "b?"}, {"role": "assistant", "content": "B"}, {"role": "user", '
                                        '"content": "c?"}]}\n', encoding="utf-8")  # fmt: skip
    first, second = read_examples(checked_choice("own.jsonl", relative_to=tmp_path))
    assert first == Example((user("a?"),), "A.")
    assert second.reply is None
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]


def test_lines_may_be_given_from_python():
    assert read_examples(checked_choice([{"prompt": "a?", "reply": "A."}])) == (Example((user("a?"),), "A."),)


@pytest.mark.parametrize("choice", [-1, 17, True, 2.5, "", " ", b"2", {"prompt": "a"}, [1], [{"reply": "A"}]])
def test_anything_else_is_refused(choice):
    with pytest.raises(OptionError) as error:
        read_examples(checked_choice(choice))
    assert error.value.hint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "not an object"),
        (json.dumps({"reply": "A."}), "'prompt' and 'messages'"),
        (json.dumps({"prompt": "a?", "messages": [user("a?")]}), "'prompt' and 'messages'"),
        (json.dumps({"prompt": " ", "reply": "A."}), "'prompt' is no text"),
        (json.dumps({"prompt": "a?", "reply": ""}), "'reply' is no text, or empty"),
        (json.dumps({"prompt": "a?", "reply": 3}), "'reply' is no text, or empty"),
        (json.dumps({"prompt": "a?", "answer": "A."}), "'answer' is unknown"),
        (json.dumps({"messages": [user("a?"), {"role": "assistant", "content": "A."}]}), "roles user, assistant"),
        (json.dumps({"messages": [{"role": "system", "content": "s"}, user("a?")]}), "roles system, user"),
        (json.dumps({"messages": []}), "at least one message"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, says):
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a?", "reply": "A."}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(OptionError, match="line 3: ") as error:
        read_examples(checked_choice(path))
    assert says in error.value.message
    assert error.value.hint


def test_files_that_cannot_be_read(tmp_path):
    for name, content, says in (
        ("no.jsonl", None, "not there"),
        ("empty.jsonl", b"\n\n", "holds no example"),
        ("bytes.jsonl", b"\xff\xfe", "not UTF-8"),
        ("large.jsonl", b" " * 1_000_001, "1,000,001 bytes"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(OptionError, match=says):
            read_examples(checked_choice(path))
    with pytest.raises(OptionError, match="no regular file"):
        read_examples(checked_choice(tmp_path))
