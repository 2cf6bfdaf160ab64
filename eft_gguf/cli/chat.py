"""`eft-gguf chat`: a conversation, with the dials at hand."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace

import click

from eft_gguf.cli import display
from eft_gguf.cli.editor import Reader, messages
from eft_gguf.cli.grouping import Command, is_default_family
from eft_gguf.cli.options import (
    REFERENCES,
    Given,
    dial_options,
    filter_in_use,
    fitting,
    model_options,
    open_models,
    sampling_options,
    tell_of_toys,
)
from eft_gguf.cli.session import Session
from eft_gguf.cli.slash import ALIASES, COMMANDS, Leave, obey
from eft_gguf.cli.talk import Talk
from eft_gguf.errors import ContextError, EFTError, OptionError

LEAVING = ("exit", "quit")
"""Messages that are meant for the program. With a space before it the model gets them."""


@click.command(cls=Command, short_help="Talk, with the dials at hand.")
@click.option("-c", "--continue", "continued", is_flag=True, help="Reopen the last chat where it was left.")
@click.option("--system", metavar="TEXT", help="A system message before the conversation.")
@click.option("--stats", is_flag=True, help="Print figures to stderr also where it is no terminal.")
@dial_options
@sampling_options
@model_options
def chat(continued: bool, system: str | None, stats: bool, dials: Given, sampling: Given, models: Given) -> None:
    """Talk, with the dials at hand. /help within the chat lists what can be done there.

    What is said is kept on disk as it is said. Where standard input is no terminal, each line is a message.
    """
    from eft_gguf import Blend, Filter, Sampling

    asked, options = Blend(**dials), Sampling(**sampling)  # refused here, before anything is loaded
    session = Session.last() if continued else Session.new()
    kept = session.conversation
    if continued and is_default_family(click.get_current_context()):
        models.pop("family", None)  # the chat's own models come before the user's default
    chosen = models if models.keys() & {"family", *REFERENCES} else {**kept.models, **models}
    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        eft = stack.enter_context(open_models(chosen))
        tell_of_toys(eft, chosen)
        before = fitting(kept.dials, eft)
        traits = {**before.traits, **asked.traits}
        talk = Talk(eft, session, before, options)
        stack.callback(lambda: talk.session.close())  # /chats may have put another in its place
        filter = replace(before.filter, **filter_in_use(asked)) if asked.filter != Filter() else dials.get("filter")
        talk.begin(replace(before, **{**dials, "traits": traits, "filter": filter or before.filter}), system)
        if interactive := sys.stdin.isatty():
            display.note(welcome(talk) + "\n")
        converse(talk, messages([*COMMANDS, *ALIASES]), patient=interactive, figures=stats or sys.stderr.isatty())
        if interactive and talk.conversation.messages:
            display.note("To come back to this chat: eft-gguf chat --continue")


def converse(talk: Talk, read: Reader, *, patient: bool, figures: bool) -> None:
    """Message after message to the end. A patient chat goes on after an error, a script's stops there."""
    while (line := read()) is not None:
        try:
            respond(talk, line, figures)
        except Leave:
            return
        except ContextError as error:
            older = len(talk.conversation.messages) > 0
            way_out = "/drop leaves out the oldest turn, /drop 3 the oldest three, /reset all; then say it again"
            display.complain(error.message, way_out if older else error.hint)
            _end_unless(patient)
        except EFTError as error:
            display.complain(error.message, error.hint)
            _end_unless(patient)


def _end_unless(patient: bool) -> None:
    if not patient:
        raise click.exceptions.Exit(2)


def respond(talk: Talk, line: str, figures: bool) -> None:
    """Carry out a command, or reply to a message."""
    if not line.strip():
        return
    if line in LEAVING:
        raise Leave
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("the message is not UTF-8", hint="check the terminal's encoding") from None
    if line.startswith("/"):
        shown = obey(talk, line)
        if shown is not None:
            click.echo(shown, err=True)
            return
    else:
        talk.attempt = 0
        talk.session.record("user", text=line.strip())
    reply = talk.answer()
    if reply.finish_reason == "interrupted" and not reply.text:
        rest = "/regen makes it" if talk.conversation.unanswered else "the question is taken back"
        display.note(f"Stopped before the reply began: {rest}.\n")
        return
    click.echo(nl=not reply.text.endswith("\n"))
    if figures:
        display.note(display.footer(reply.timings, reply.finish_reason) + "\n")


def welcome(talk: Talk) -> str:
    """What to know at the beginning; for a chat reopened, what was said last."""
    family = talk.eft.family
    models = [("base", family.base, ""), ("untuned", family.untuned, "")]
    models += [(trait.name, trait.model, f" × {trait.weight:g}") for trait in family.tuned]
    lines = [family.name]
    lines += [f"  {name:<10}{reference.path.name}{weight}" for name, reference, weight in models]
    lines.append("/help lists the commands. Alt-Enter: new line. Ctrl-C: stop. Ctrl-D: leave.")
    said = talk.conversation.messages
    if said:
        lines.append(f"{len(said)} messages so far; the last:")
        last = said[-1:] if talk.conversation.unanswered else said[-2:]
        lines += [
            f"{'> ' if message['role'] == 'user' else ''}{display.printable(message['content'])}" for message in last
        ]
    if talk.conversation.unanswered:
        lines.append("It has no reply yet: /regen makes it.")
    return "\n".join(lines)
