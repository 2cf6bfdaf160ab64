"""What each model contributed to each token of a reply, and who decided it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.compiled import differences, kernels, likeliest, log_mass
from eft_gguf.blend.equation import Blend
from eft_gguf.blend.layout import Rows
from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.prompts import Messages

DECISIONS = {
    "both": "base and tuned would each have chosen it alone",
    "base": "base alone would have chosen it, tuned would not",
    "tuned": "tuned alone would have chosen it, base would not",
    "blend": "neither would have chosen it, only both together",
    "chance": "not the blend's first choice: drawn by chance, asked for by a grammar, or given",
}
"""Who decided a token, and what that means. "Chosen" is most likely; with several traits, tuned is any one in use."""

ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that may have come, and how likely it was."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """One token of a reply. All tables are by member name; `probabilities` and `alternatives` have "blend" as well.

    text: what it adds to the reply; empty in the middle of a character.  decided_by: one of DECISIONS.
    alternatives: the most likely tokens, likeliest first.
    total_variation: between the member and the blend, 0 to 1: ½ Σ |p − q|.
    kl: KL(blend ‖ member) in nats: how far the blend has moved away from the member.
    """

    token: int
    text: str
    decided_by: str
    probabilities: dict[str, float]
    alternatives: dict[str, tuple[Alternative, ...]]
    total_variation: dict[str, float]
    kl: dict[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A reply in figures: tokens, and the share and the places of each decision; means by member name."""

    tokens: int
    shares: dict[str, float]
    places: dict[str, list[int]]
    mean_total_variation: dict[str, float]
    mean_kl: dict[str, float]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A reply, token by token.

    voices: base and the traits in use, whose choices tell who decided.
    """

    tokens: tuple[InspectedToken, ...]
    voices: tuple[str, ...]

    @property
    def text(self) -> str:
        """The reply, control tokens written out."""
        return "".join(token.text for token in self.tokens)

    @property
    def summary(self) -> Summary:
        """The figures of the whole reply."""
        places = {name: [i for i, token in enumerate(self.tokens) if token.decided_by == name] for name in DECISIONS}
        members = list(self.tokens[0].total_variation)
        return Summary(
            tokens=len(self.tokens),
            shares={name: len(found) / len(self.tokens) for name, found in places.items()},
            places=places,
            mean_total_variation={m: float(np.mean([t.total_variation[m] for t in self.tokens])) for m in members},
            mean_kl={m: float(np.mean([t.kl[m] for t in self.tokens])) for m in members},
        )

    def most_disputed(self, count: int) -> list[int]:
        """The places of the tokens before which the blend was farthest from one of the voices, farthest first."""
        dispute = [max(token.total_variation[voice] for voice in self.voices) for token in self.tokens]
        return sorted(range(len(dispute)), key=lambda place: -dispute[place])[:count]


def inspect_reply(
    eft: EFT,
    prompt: str | Messages,
    reply: str | Sequence[int] | None = None,
    *,
    blend: Blend | None = None,
    sampling: Sampling | None = None,
    examples: bool = True,
) -> Inspection:
    """Inspect a reply to messages, or to a string as plain text: a text, a Completion's tokens, or one made now.

    blend: under which it is inspected, and made.  sampling: how it is made; greedily unless given.  examples: whether
    base and untuned are shown the family's.

    The reply is read once more by all models, the prompt as far as it is no longer cached. No logits are kept.
    Probabilities are those that a token is drawn from, before sampling options: what no reply may hold, such as
    <|im_start|>, has none. Raises as `EFT.complete`, and OptionError for an empty reply.
    """
    blend = blend or eft.family.blend
    if reply is None:
        sampling = sampling or Sampling(temperature=0)
        reply = eft.complete(prompt, blend=blend, sampling=sampling, examples=examples).tokens
    weights = eft.family.weights | dict(blend.traits)
    voices = ("base", *(name for name in eft.trait_names if weights[name] != 0))
    replayed = eft.replay(prompt, reply, blend=blend, examples=examples)
    seen = [_inspect(eft, token, logits, voices) for token, logits in replayed]
    texts = _texts([eft.bytes_of(token.token) for token in seen])
    return Inspection(tuple(replace(token, text=text) for token, text in zip(seen, texts, strict=True)), voices)


class Witness:
    """Inspects each token of a reply as it is drawn: what `EFT.begin` takes, for a reply that is to be seen at once.

    Unlike `inspect_reply` it decodes nothing, so only models that the blend looks at have a say: with behaviour 0 the
    base alone. `tokens` has no texts, and grows with the reply.
    """

    def __init__(self, eft: EFT) -> None:
        self._eft = eft
        self.tokens: list[InspectedToken] = []

    def __call__(
        self,
        rows: Mapping[int, NDArray[np.float32]],
        used: Rows,
        factors: NDArray[np.float64],
        token: int,
    ) -> None:
        blended = np.empty(self._eft.n_vocab, np.float32)
        kernels.blend_into(used, factors, blended)
        logits = {self._eft.members[member]: row[: len(blended)] for member, row in rows.items()}
        voices = [name for name in logits if name == "base" or name in self._eft.trait_names]
        self.tokens.append(_inspect(self._eft, token, {**logits, "blend": blended}, voices))


def who_decided(token: int, choices: dict[str, int]) -> str:
    """One of DECISIONS. choices: the first choice of base, the traits in use, and "blend"."""
    if choices["blend"] != token:
        return "chance"
    base = choices.get("base") == token
    tuned = any(choice == token for name, choice in choices.items() if name not in ("base", "blend"))
    return {(True, True): "both", (True, False): "base", (False, True): "tuned", (False, False): "blend"}[base, tuned]


def _inspect(eft: EFT, token: int, logits: dict[str, NDArray[np.float32]], voices: Sequence[str]) -> InspectedToken:
    masses = {name: log_mass(row) for name, row in logits.items()}
    ids = np.empty(ALTERNATIVES, np.int32)
    alternatives = {}
    for name, row in logits.items():
        found = ids[: likeliest(row, ids)].tolist()
        alternatives[name] = tuple(
            Alternative(other, eft.bytes_of(other).decode("utf-8", "replace"), _probability(row, masses[name], other))
            for other in found
        )
    apart = {
        name: differences(logits["blend"], masses["blend"], row, masses[name])
        for name, row in logits.items()
        if name != "blend"
    }
    return InspectedToken(
        token=token,
        text="",
        decided_by=who_decided(token, {name: alternatives[name][0].token for name in (*voices, "blend")}),
        probabilities={name: _probability(row, masses[name], token) for name, row in logits.items()},
        alternatives=alternatives,
        total_variation={name: float(variation) for name, (variation, _) in apart.items()},
        kl={name: float(divergence) for name, (_, divergence) in apart.items()},
    )


def _probability(row: NDArray[np.float32], mass: float, token: int) -> float:
    return float(min(np.exp(float(row[token]) - mass), 1.0))


def _texts(pieces: Sequence[bytes]) -> list[str]:
    """What each token adds to the text: a character of several tokens comes with its last."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(piece, number == len(pieces)) for number, piece in enumerate(pieces, 1)]
