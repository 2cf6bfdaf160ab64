"""The commands within a chat: /help and the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eft_gguf.cli.display import figures
from eft_gguf.cli.lazy import meaning
from eft_gguf.cli.options import FILTER, dials_in_use, filter_in_use, fitting, reopening
from eft_gguf.cli.session import Session, chats, load, peek, save
from eft_gguf.cli.setting import set_sampling
from eft_gguf.cli.talk import Talk
from eft_gguf.errors import OptionError


class Leave(Exception):
    """The user wants to go."""


def obey(talk: Talk, line: str) -> str | None:
    """Carry out one command. Returns what to show, or None where a reply is to follow.

    Raises OptionError for an unknown command or a wrong argument, Leave for /quit.
    """
    name, _, argument = line.partition(" ")
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        raise OptionError(
            f"there is no command {name}.{meaning(name, [*COMMANDS, *ALIASES])}".removesuffix("."),
            hint="/help lists them; to say it to the model, begin with a space",
        )
    usage, _, function = COMMANDS[name]
    if usage == name and argument.strip():
        raise OptionError(f"{name} takes nothing after it", hint="/help lists the commands")
    return function(talk, argument.strip())


def _help(talk: Talk, argument: str) -> str:
    lines = [f"{usage:<25}{summary}" for usage, summary, _ in COMMANDS.values()]
    keys = (
        "/clear is /reset, /retry is /regen, /bye and /exit are /quit, and so are exit and quit alone.",
        "Enter sends. Alt-Enter, or a backslash before Enter, begins a new line.",
        "Ctrl-C stops a reply, clears what is typed, and with nothing typed leaves.",
    )
    return "\n".join((*lines, *keys))


def _reset(talk: Talk, argument: str) -> str:
    talk.session.record("replace", system=talk.conversation.system, messages=[])
    return "The conversation begins anew; system message and dials stay."


def _regen(talk: Talk, argument: str) -> None:
    if not talk.conversation.messages:
        raise OptionError("there is no reply to make again", hint="say something first")
    if not talk.conversation.unanswered:
        talk.session.record("retract")
    talk.attempt += 1


def _undo(talk: Talk, argument: str) -> str:
    if not talk.conversation.messages:
        raise OptionError("there is nothing to take back", hint="say something first")
    if not talk.conversation.unanswered:
        talk.session.record("retract")
    if not talk.conversation.unanswered:
        return "The reply is taken back."
    question = talk.conversation.messages[-1]["content"]
    talk.session.record("retract")
    return f"Taken back, with its reply: {question}"


def _drop(talk: Talk, argument: str) -> str:
    count = int(_number(argument or "1", "/drop 2"))
    messages = talk.conversation.messages
    starts = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not 1 <= count < len(starts):
        raise OptionError(
            f"/drop takes from 1 to {len(starts) - 1} of the {len(starts)} turns"
            if len(starts) > 1
            else "/drop leaves out the oldest turns, and there is no older one",
            hint="/reset forgets all of them",
        )
    talk.session.record("replace", system=talk.conversation.system, messages=messages[starts[count] :])
    return f"Left out: the oldest {'turn' if count == 1 else f'{count} turns'}. {len(starts) - count} stay."


def _name(talk: Talk, argument: str) -> str:
    if argument:
        talk.session.record("name", text=argument)
    return f"This chat: {talk.conversation.title or 'no name yet'}"


def _chats(talk: Talk, argument: str) -> str:
    found = chats()
    if argument:
        number = _number(argument, "/chats 2")
        if not 1 <= number <= len(found) or number != int(number):
            raise OptionError(f"there is no chat {argument}", hint=f"/chats lists them, 1 to {len(found)}")
        return _resume(talk, found[int(number) - 1])
    lines = []
    for number, path in enumerate(found[:LISTED], 1):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        chat = peek(path)
        told = f"{chat.title}  ({len(chat.messages)} messages)" if chat else "damaged"
        lines.append(f"{number:>3}  {when}  {told}{'  ← this one' if path == talk.session.path else ''}")
    if len(found) > LISTED:
        lines.append(f"and {len(found) - LISTED} older ones")
    return "\n".join(
        [*lines, "/chats 2 goes on with the second; /name TEXT names this one."] if lines else ["no chats"]
    )


def _resume(talk: Talk, path: Path) -> str:
    if path == talk.session.path:
        raise OptionError("that is this chat", hint="/chats lists the others")
    session = Session.open(path)
    talk.session.close()
    talk.session, talk.last = session, None
    kept = session.conversation
    talk.set_blend(fitting(kept.dials, talk.eft))
    others = "" if kept.models == reopening(talk.eft) else "\nIt was with other models; those loaded now go on with it."
    return f"{kept.title}: {len(kept.messages)} messages{others}"


def _compare(talk: Talk, argument: str) -> str:
    from eft_gguf.cli.compare import compare

    return compare(talk)


def _system(talk: Talk, argument: str) -> str:
    if argument:
        talk.session.record("system", text="" if argument == "none" else argument)
    return f"System message: {talk.conversation.system or 'none'}"


def _knowledge(talk: Talk, argument: str) -> str:
    return _dial(talk, "knowledge", argument)


def _behaviour(talk: Talk, argument: str) -> str:
    return _dial(talk, "behaviour", argument)


def _dial(talk: Talk, name: str, argument: str) -> str:
    if argument:
        changed: dict[str, Any] = {name: _number(argument, f"/{name} 0.8")}
        talk.set_blend(dataclasses.replace(talk.blend, **changed))
    return f"{name}: {getattr(talk.blend, name):g}"


def _trait(talk: Talk, argument: str) -> str:
    if argument:
        name, _, weight = argument.rpartition(" ")
        if not name.strip():
            raise OptionError("/trait takes a name and a weight", hint="for example: /trait cautious 0.5")
        value = _number(weight, "/trait cautious 0.5")
        talk.set_blend(dataclasses.replace(talk.blend, traits={**talk.blend.traits, name.strip(): value}))
    weights = dials_in_use(talk.eft, talk.blend)["traits"]
    return "traits: " + ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def _filter(talk: Talk, argument: str) -> str:
    example = "/filter untuned_floor -7"
    if argument:
        name, _, value = argument.partition(" ")
        if name != "off" and (name not in FILTER or not value.strip()):
            raise OptionError(f"/filter takes one of {', '.join(FILTER)} and a number", hint=f"for example: {example}")
        changed: dict[str, Any] = dict.fromkeys(FILTER)
        if name != "off":
            changed = {name: None if value.strip() == "off" else _number(value, example)}
        talk.set_blend(dataclasses.replace(talk.blend, filter=dataclasses.replace(talk.blend.filter, **changed)))
    return "filter: " + (_filter_line(talk) or "off")


def _filter_line(talk: Talk) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in filter_in_use(talk.blend).items())


def _examples(talk: Talk, argument: str) -> str:
    if argument not in ("", "on", "off"):
        raise OptionError(
            f"/examples takes on or off, not {argument!r}", hint="eft-gguf chat --examples N shows others"
        )
    talk.examples = argument == "on" if argument else talk.examples
    shown = talk.eft.examples(talk.blend) if talk.examples else ()
    if not shown:
        return "examples: off" if talk.eft.examples_tokens else "examples: none; eft-gguf chat --examples 2 shows two"
    lines = [f"examples, {talk.eft.examples_tokens} tokens in base and untuned:"]
    return "\n".join([*lines, *(f"  {message['role']}: {message['content']}" for message in shown)])


def _why(talk: Talk, argument: str) -> str:
    from eft_gguf.cli.inspect_view import show
    from eft_gguf.inspection import inspect_reply

    prompt = talk.conversation.prompt()
    if not prompt or prompt[-1]["role"] != "assistant":
        raise OptionError("there is no reply to look into", hint="say something first")
    text = prompt.pop()["content"]
    # The very tokens where they are known, the one that ended the reply among them; after /load there is only text.
    late = talk.last is not None and talk.last.text == text
    reply = talk.last.tokens if talk.last and late else text
    return show(inspect_reply(talk.eft, prompt, reply, blend=talk.blend, examples=talk.examples))


def _stats(talk: Talk, argument: str) -> str:
    dials = dials_in_use(talk.eft, talk.blend)
    traits = ", ".join(f"{name} {weight:g}" for name, weight in dials["traits"].items())
    lines = [f"knowledge {dials['knowledge']:g} · behaviour {dials['behaviour']:g} · {traits}"]
    if filter_in_use(talk.blend):
        lines[0] += f" · {_filter_line(talk)}"
    if talk.last is None:
        lines.append("no reply yet")
    else:
        used = talk.last.timings.prompt_tokens + talk.last.timings.generated_tokens
        lines.append(f"context: {used} of {talk.eft.ctx} tokens")
        lines.append(figures(talk.last.timings, talk.last.finish_reason))
    return "\n".join(lines)


def _save(talk: Talk, argument: str) -> str:
    path = _path(argument, "/save")
    save(talk.conversation, path)
    return f"Saved in {path}"


def _load(talk: Talk, argument: str) -> str:
    path = _path(argument, "/load")
    loaded = load(path)
    talk.set_blend(fitting(loaded.dials, talk.eft))
    talk.session.record("replace", system=loaded.system, messages=loaded.messages)
    return f"Loaded {len(loaded.messages)} messages from {path}"


def _quit(talk: Talk, argument: str) -> str:
    raise Leave


def _path(argument: str, command: str) -> Path:
    """Raises OptionError for what can be no file."""
    example = f"for example: {command} talk.json"
    if not argument:
        raise OptionError(f"{command} takes the name of a file", hint=example)
    if len(argument.rpartition("/")[2].encode("utf-8", "replace")) > 200:
        raise OptionError("the name of the file is too long", hint=example)
    try:
        path = Path(argument).expanduser()
        if "\0" in argument or path.is_dir() or not path.name:
            raise OptionError(f"{argument!r} is no name of a file", hint=example)
    except (RuntimeError, ValueError, OSError) as error:  # nobody called so behind ~, half characters, too long
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{argument[:80]!r} is no name of a file", hint=example) from None
    return path


def _number(text: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r} is not a number", hint=f"for example: {example}") from None


COMMANDS: dict[str, tuple[str, str, Callable[[Talk, str], str | None]]] = {
    usage.partition(" ")[0]: (usage, summary, function)
    for usage, summary, function in (
        ("/help", "this list", _help),
        ("/reset", "forget what was said", _reset),
        ("/drop [N]", "leave out the oldest turn, or N of them", _drop),
        ("/undo", "take back the last question and its reply", _undo),
        ("/regen", "make the last reply again", _regen),
        ("/system [TEXT|none]", "show or set the system message", _system),
        ("/knowledge [X]", "show or set how much of base's pre-training is in", _knowledge),
        ("/behaviour [X]", "show or set how much of the fine-tuning is in", _behaviour),
        ("/trait [NAME WEIGHT]", "show the traits, or set the weight of one", _trait),
        ("/filter [NAME X|off]", "show, set or switch off what holds noise down", _filter),
        ("/examples [on|off]", "show, use or leave out what base and untuned are shown", _examples),
        ("/set [NAME [X|default]]", "show or set how replies are drawn: /set temperature 0.3", set_sampling),
        ("/compare", "the last question to each model alone, the blend and your dials", _compare),
        ("/why", "which model decided which token of the last reply", _why),
        ("/stats", "dials, context, and the figures of the last reply", _stats),
        ("/chats [N]", "list the chats on disk, or go on with one", _chats),
        ("/name [TEXT]", "show or set what this chat is called", _name),
        ("/save FILE", "write the conversation to a file", _save),
        ("/load FILE", "go on with a conversation from a file", _load),
        ("/quit", "leave; eft-gguf chat --continue comes back", _quit),
    )
}

ALIASES = {"/clear": "/reset", "/retry": "/regen", "/bye": "/quit", "/exit": "/quit"}
LISTED = 20
"""Chats that /chats shows."""
