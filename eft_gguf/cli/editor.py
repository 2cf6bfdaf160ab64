"""Where the user's messages come from: an editable line in a terminal, or lines from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from eft_gguf.cli.display import note
from eft_gguf.cli.reading import plain
from eft_gguf.errors import OptionError
from eft_gguf.files import state_folder

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

Reader = Callable[[], str | None]


def messages(commands: Iterable[str]) -> Reader:
    """A function that gives the next message, or None when there are no more."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return typed(list(commands))
    lines = piped()
    return lambda: next(lines, None)


def typed(commands: list[str]) -> Reader:
    """Line editing with prompt_toolkit, with a history that outlives the session."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    session: PromptSession[str] = PromptSession(
        history=_history(),
        enable_suspend=True,
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        multiline=True,
        prompt_continuation="· ",
        key_bindings=_keys(),
    )

    def read() -> str | None:
        try:
            return session.prompt("> ")
        except (EOFError, KeyboardInterrupt):
            return None

    return read


def _history() -> History:
    """What was typed before, on disk; in memory alone where that cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            # A full disk, or bytes that are no UTF-8, must not end the chat.
            with contextlib.suppress(OSError, UnicodeEncodeError):
                super().store_string(string)

    path = state_folder() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        if not path.is_file():
            raise OSError(0, "no regular file")
        path.open("rb").close()
    except OSError as error:
        note(f"note: earlier messages are not at hand: {path}: {error.strerror}")
        return InMemoryHistory()
    return Kept(str(path))


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\":
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def piped() -> Iterator[str]:
    """One message a line; a backslash at its end joins the next one to it."""
    held = ""
    for number, data in enumerate(sys.stdin.buffer, 1):
        try:
            text = data.decode("utf-8")
            line = held + (plain(text) if number == 1 else text.replace("\r\n", "\n")).removesuffix("\n")
        except UnicodeDecodeError:
            raise OptionError(
                f"line {number} of standard input is not UTF-8",
                hint="convert it first, for example with iconv",
            ) from None
        if line.endswith("\\"):
            held = line[:-1] + "\n"
        else:
            held = ""
            yield line
    if held:
        yield held
