"""`/compare` within a chat: the last question to each model alone, to the plain blend, and under the dials in force."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

from rich.console import Console

from eft_gguf.cli.demo import CORNERS, Corner, setting, side_by_side
from eft_gguf.cli.display import coloured, columns
from eft_gguf.cli.reply import follow
from eft_gguf.cli.talk import Talk
from eft_gguf.errors import OptionError

LONGEST = 120
"""Tokens of each reply, unless /set max_tokens says otherwise."""


def compare(talk: Talk) -> str:
    """The replies as a table, none of which becomes part of the chat. Raises OptionError, EFTError.

    All are drawn with the same seed. Ctrl-C leaves out those that are not made yet.
    """
    prompt = talk.conversation.prompt()
    if prompt and prompt[-1]["role"] == "assistant":
        prompt.pop()
    if not prompt or prompt[-1]["role"] != "user":
        raise OptionError("there is no question to compare replies to", hint="say something first")
    seed = talk.sampling.seed if talk.sampling.seed is not None else talk.last.timings.seed if talk.last else 0
    sampling = replace(talk.sampling, seed=seed, max_tokens=talk.sampling.max_tokens or LONGEST)
    corners = [
        replace(corner, knowledge=1.0, behaviour=1.0) if corner.name == "blend" else corner for corner in CORNERS
    ]
    corners.append(Corner("yours", None, None, "your dials"))
    cells = []
    for corner in corners:
        blend = setting(corner, talk.blend)
        chunks = talk.eft.chat(prompt, blend=blend, sampling=sampling, examples=talk.examples)
        reply = follow(chunks, lambda text: None)
        cells.append((corner, reply, blend))
        if reply.finish_reason == "interrupted":
            break
    shown = io.StringIO()
    plain = coloured() is False or not sys.stderr.isatty()
    console = Console(file=shown, width=columns(), force_terminal=not plain, no_color=plain)
    console.print(side_by_side(prompt[-1]["content"], cells))
    return shown.getvalue()
