"""What the server's process and the one that holds the models say to each other, over a pipe.

Orders go to the worker. What comes back is all that one step brought: a list of (number of the order, event), and
Figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eft_gguf.blend.equation import Blend
from eft_gguf.engine.sampling import Sampling

# ---- to the worker


@dataclass(frozen=True, slots=True)
class Begin:
    """Make a reply. prompt: a text, messages, or token ids.  inspect: tell of each token who decided.

    tools: what the template is told of tools, where the prompt is messages.  whole: send the reply when it is finished.
    examples: show base and untuned the family's.  variables: of the chat template.
    """

    prompt: str | list[dict[str, Any]] | list[int]
    blend: Blend
    sampling: Sampling
    inspect: bool = False
    tools: list[dict[str, Any]] | None = None
    whole: bool = False
    examples: bool = True
    variables: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities of a text's own tokens; with each, of so many that are likeliest in its place."""

    prompt: str | list[int]
    blend: Blend
    likeliest: int


@dataclass(frozen=True, slots=True)
class Inspect:
    """Who decided what of a reply to a prompt: one that is given, or where it is None one made greedily."""

    prompt: str | list[dict[str, Any]]
    reply: str | None
    blend: Blend
    sampling: Sampling
    examples: bool = True


@dataclass(frozen=True, slots=True)
class Steer:
    """Go on with other dials."""

    blend: Blend


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this one any longer."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave."""


Order = Begin | Score | Inspect
Message = tuple[int, Order | Steer | Cancel | Stop]

# ---- from the worker


@dataclass(frozen=True, slots=True)
class Loading:
    """How far loading is, in words."""

    text: str


@dataclass(frozen=True, slots=True)
class About:
    """The models, loaded: what /v1/models and the page tell of them.

    traits: names and the family's weights.  members: file names by member.  template: the tuned model's.
    blend: the family's dials.  examples: the messages that base and untuned are shown.  bytes: of all files.
    """

    name: str
    members: dict[str, str]
    traits: dict[str, float]
    ctx: int
    n_vocab: int
    warnings: list[str]
    template: str
    blend: Blend = field(default_factory=Blend)
    examples: tuple[Mapping[str, Any], ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """The models could not be loaded."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Figures:
    """How many replies have a slot, and how many orders wait."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Begun:
    """An order was found right and is under way, or in line."""

    seed: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """How far the prompt is read, in tokens."""

    done: int
    total: int


# These two are tuples, which take a fifth of the time to pickle: there is one for each token.


class Token(NamedTuple):
    """A token id, its bytes, and its natural log-probability under the blend."""

    id: int
    data: bytes
    logprob: float


class Piece(NamedTuple):
    """A token of a reply: the text that is certain by it, the token where log-probabilities or inspection were asked
    for, and the likeliest in its place. Where none of that was asked for, and the reply as a whole, all of its text."""

    text: str
    token: Token | None = None
    likeliest: tuple[Token, ...] = ()
    inspected: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a reply, with all figures, or the outcome of another order."""

    finish_reason: str = "stop"
    timings: dict[str, Any] = field(default_factory=dict)
    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of an order that could not be carried out.

    kind: "request" (the client can mend it), "context", "full", "failed" (this one went wrong), "crashed" (the engine
    did), "timeout", "stopping", "loading".
    """

    kind: str
    message: str
    hint: str = ""


Event = Begun | Read | Piece | Done | Failed
State = Loading | About | Broken | Figures
