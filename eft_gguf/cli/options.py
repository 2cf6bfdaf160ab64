"""The options that commands share: which models, which dials, how to sample. The same words everywhere.

Each decorator hands the command one dict of the options that were given and no others, named like the fields of
`Blend`, of `Sampling` and the arguments of `EFT.open`, so that defaults are decided once, there.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eft_gguf.cli.display import Status, note
from eft_gguf.cli.reading import read_text
from eft_gguf.errors import EFTError

if TYPE_CHECKING:
    from eft_gguf import EFT, Blend
    from eft_gguf.models.references import Reference

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Given = dict[str, Any]
REFERENCES = ("base", "untuned", "tuned")
NAMING = ("family", *REFERENCES)


def _weights(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    return dict(_weight(value) for value in values)


def _weight(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        if name and equals:
            return name, float(number)
    except ValueError:
        pass
    raise click.BadParameter(f"{text!r} is not of the form NAME=WEIGHT, as in cautious=0.5")


def _biases(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for value in values:
        token, _, bias = value.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not of the form ID=BIAS, as in 11=-1.5") from None
    return biases


def _content(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """What stands in a file of the user's."""
    if value is None:
        return None
    try:
        text = read_text(Path(value))
    except EFTError as error:
        raise click.BadParameter(error.message) from None
    if not text.strip():
        raise click.BadParameter(f"{value} is empty")
    return text


def _families(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of families and TOML files, for a shell's completion."""
    from click.shell_completion import CompletionItem

    from eft_gguf.models.presets import names

    found = [CompletionItem(name) for name in ("bundled", *names()) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _schema(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A JSON schema as it stands, or what stands in a file."""
    return value if value is not None and value.lstrip().startswith("{") else _content(ctx, param, value)


def _offline(ctx: click.Context, param: click.Parameter, value: bool | None) -> None:
    """For the rest of the process: references are resolved in many places."""
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"


MODELS: dict[str, Decorator] = {
    "family": click.option(
        "-f",
        "--family",
        metavar="NAME|FILE.toml",
        shell_complete=_families,
        help="The models, by name or in a file.  [default: that of families use, else the bundled toy models]",
    ),
    "base": click.option("--base", metavar="REF", help="Instead of a family: the model whose knowledge is wanted."),
    "untuned": click.option("--untuned", metavar="REF", help="The tuned model before its fine-tuning."),
    "tuned": click.option(
        "--tuned",
        metavar="[TRAIT=]REF[:WEIGHT]",
        multiple=True,
        help="The fine-tuned model; lora:FILE for an adapter on untuned. Several are traits, each named.",
    ),
    "ctx": click.option(
        "--ctx", type=int, metavar="N", help="Context length in tokens.  [default: the family's, else 4096 or less]"
    ),
    "batch": click.option("--batch", type=int, metavar="N", help="Prompt tokens decoded at a time.  [default: 128]"),
    "threads": click.option(
        "--threads", type=int, metavar="N", help="Threads.  [default: the cores; 1 for tiny models]"
    ),
    "gpu_layers": click.option(
        "--gpu-layers", type=int, metavar="N", help="Layers on the GPU; -1 is all.  [default: -1]"
    ),
    "device": click.option(
        "--device",
        metavar="[MODEL=]NAME",
        multiple=True,
        help="Where models are computed: CPU, or a GPU by llama.cpp's name; base=NAME for one.  [default: all]",
    ),
    "flash_attn": click.option(
        "--flash-attn", metavar="auto|on|off", help="Flash attention.  [default: where the device has it]"
    ),
    "kv_type": click.option(
        "--kv-type", metavar="TYPE", help="How the KV cache is kept: f16, q8_0, q4_0 …  [default: f16]"
    ),
    "speculate": click.option(
        "--speculate", metavar="auto|off|N", help="Tokens drafted ahead: as many as pay, none, or N.  [default: auto]"
    ),
    "examples": click.option(
        "--examples",
        metavar="N|FILE|off",
        help="Show base and untuned N replies of the tuned side before each chat, or those of a JSONL file.  "
        "[default: the family's]",
    ),
    "force": click.option(
        "--force",
        is_flag=True,
        default=None,
        help="Load the models even where memory has no room for them.  [default: refuse]",
    ),
    "offline": click.option(
        "--offline",
        is_flag=True,
        default=None,
        callback=_offline,
        help="Fetch nothing: take models from this disk alone, as HF_HUB_OFFLINE=1 does.",
    ),
    "repack": click.option(
        "--repack/--no-repack",
        default=None,
        help="Keep weights in an order that suits the processor, or as they are in the file.  [default: repack]",
    ),
}

PAPER = click.option(
    "--paper", is_flag=True, help="The paper's blend: both dials 1, no filter, no examples, whatever the family says."
)

DIALS: dict[str, Decorator] = {
    "knowledge": click.option(
        "--knowledge", type=float, metavar="X", help="How much of base's pre-training.  [default: the family's, else 1]"
    ),
    "behaviour": click.option(
        "--behaviour", type=float, metavar="X", help="How much of the fine-tuning.  [default: the family's, else 1]"
    ),
    "traits": click.option(
        "--trait",
        "traits",
        metavar="NAME=WEIGHT",
        multiple=True,
        callback=_weights,
        help="The weight of one trait.  [default: the family's]",
    ),
}

FILTER: dict[str, Decorator] = {
    "tuned_top_p": click.option(
        "--tuned-top-p",
        type=float,
        metavar="X",
        help="Knowledge counts only for the tuned side's likeliest X.  [default: the family's]",
    ),
    "base_top_p": click.option(
        "--base-top-p",
        type=float,
        metavar="X",
        help="Only tokens among base's likeliest that make up X.  [default: the family's]",
    ),
    "base_min_p": click.option(
        "--base-min-p",
        type=float,
        metavar="X",
        help="Only tokens that base finds X times as likely as its first.  [default: the family's]",
    ),
    "untuned_floor": click.option(
        "--untuned-floor",
        type=float,
        metavar="X",
        help="Raise untuned's log-probabilities to X, for example -7.  [default: the family's]",
    ),
}

SAMPLING: dict[str, Decorator] = {
    "temperature": click.option(
        "--temperature", type=float, metavar="X", help="0 takes the likeliest token each time."
    ),
    "top_k": click.option("--top-k", type=int, metavar="N", help="Keep the N likeliest tokens; 0 keeps all."),
    "top_p": click.option("--top-p", type=float, metavar="X", help="Keep the likeliest tokens that make up X."),
    "min_p": click.option(
        "--min-p", type=float, metavar="X", help="Keep tokens at least X times as likely as the first."
    ),
    "typical_p": click.option(
        "--typical-p", type=float, metavar="X", help="Keep tokens of a typical surprise, up to X."
    ),
    "top_n_sigma": click.option(
        "--top-n-sigma", type=float, metavar="X", help="Keep tokens within X deviations of the best logit."
    ),
    "xtc_probability": click.option(
        "--xtc-probability", type=float, metavar="X", help="How often to leave out the likeliest choices."
    ),
    "xtc_threshold": click.option("--xtc-threshold", type=float, metavar="X", help="From which probability on."),
    "repeat_penalty": click.option("--repeat-penalty", type=float, metavar="X", help="Above 1: repeat less."),
    "frequency_penalty": click.option(
        "--frequency-penalty", type=float, metavar="X", help="Less of a token for each time it was said."
    ),
    "presence_penalty": click.option(
        "--presence-penalty", type=float, metavar="X", help="Less of every token that was said."
    ),
    "penalty_window": click.option(
        "--penalty-window", type=int, metavar="N", help="How many of the last tokens penalties look at."
    ),
    "dry_multiplier": click.option(
        "--dry-multiplier", type=float, metavar="X", help="Against repeated runs of tokens, for example 0.8."
    ),
    "dry_base": click.option("--dry-base", type=float, metavar="X", help="How fast that grows with a run's length."),
    "dry_allowed_length": click.option(
        "--dry-allowed-length", type=int, metavar="N", help="Runs up to this length are let pass."
    ),
    "logit_bias": click.option(
        "--logit-bias", metavar="ID=BIAS", multiple=True, callback=_biases, help="Add BIAS to a token's logit."
    ),
    "grammar": click.option("--grammar", metavar="FILE", callback=_content, help="A GBNF grammar to keep to."),
    "json_schema": click.option(
        "--json-schema", metavar="FILE|JSON", callback=_schema, help="A JSON schema to keep to."
    ),
    "regex": click.option("--regex", metavar="REGEX", help="A regular expression that the whole answer matches."),
    "lark": click.option("--lark", metavar="FILE", callback=_content, help="A Lark grammar to keep to."),
    "seed": click.option(
        "--seed", type=int, metavar="N", help="The same seed gives the same answer.  [default: drawn]"
    ),
    "max_tokens": click.option("--max-tokens", type=int, metavar="N", help="The longest answer."),
    "stop": click.option("--stop", metavar="TEXT", multiple=True, help="End the answer before TEXT. May be repeated."),
}


def _group(argument: str, options: dict[str, Decorator]) -> Decorator:
    """A decorator that adds `options` and gathers those given into the one argument `argument`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gather(**arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in options}
            arguments[argument] = {name: value for name, value in values.items() if value not in (None, (), {})}
            return command(**arguments)

        decorated: Callable[..., Any] = gather
        for option in reversed(options.values()):
            decorated = option(decorated)
        return decorated

    return decorate


def _blend_options(options: dict[str, Decorator]) -> Decorator:
    """A decorator for some of the dials, with the filter as one of them if any of its options was given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gather(dials: Given, filter: Given, paper: bool, **arguments: Any) -> Any:
            from eft_gguf import Filter

            if filter:
                dials["filter"] = Filter(**filter)
            if paper:
                dials = {"knowledge": 1.0, "behaviour": 1.0, "filter": Filter(), **dials}
                if "examples" in arguments:
                    arguments["examples"] = arguments["examples"] or "off"
            return command(dials=dials, **arguments)

        return _group("dials", options)(_group("filter", FILTER)(PAPER(gather)))

    return decorate


dial_options = _blend_options(DIALS)
knowledge_options = _blend_options({"knowledge": DIALS["knowledge"]})  # for commands that turn the other dials
model_options = _group("models", MODELS)
machine_options = _group("machine", {name: option for name, option in MODELS.items() if name not in NAMING})
sampling_options = _group("sampling", SAMPLING)


def in_flags(message: str) -> str:
    """An error's message with the option it begins with as it is typed: `--top-p`, where Python says `top_p`."""
    first, _, rest = message.partition(" ")
    known = {**MODELS, **DIALS, **FILTER, **SAMPLING}
    pair = re.fullmatch(r"and (\w+) (exclude each other.*)", rest)
    if first in known and pair and pair[1] in known:
        return f"{_flag(first)} and {_flag(pair[1])} {pair[2]}"
    return f"{_flag(first)} {rest}" if first in known and rest.startswith(("must ", "has ", "is no ")) else message


def _flag(name: str) -> str:
    return "--trait" if name == "traits" else "--" + name.replace("_", "-")


def open_models(models: Given) -> EFT:
    """Load the models that the options name, telling in a terminal what is being loaded."""
    check_models(models)
    from eft_gguf import EFT

    with Status() as status:
        return EFT.open(**models, probe=True, progress=status)


def tell_of_toys(eft: EFT, models: Given) -> None:
    """Say in a terminal that the models are toys, where nobody has asked for them."""
    from eft_gguf.models.family import BUNDLED

    if sys.stderr.isatty() and not models.keys() & set(NAMING) and eft.family.path == BUNDLED:
        note("These are the bundled toy models. Real ones: eft-gguf families; your default: eft-gguf families use NAME")


def check_models(models: Given) -> None:
    """Raise UsageError where the options name models in two ways, or not all three."""
    named = [name for name in REFERENCES if name in models]
    if named and "family" in models:
        raise click.UsageError(f"--family and --{named[0]} exclude each other: a family names all three models")
    if named and len(named) < len(REFERENCES):
        missing = " and ".join(f"--{name}" for name in REFERENCES if name not in models)
        raise click.UsageError(f"--base, --untuned and --tuned belong together; missing: {missing}")


def dials_in_use(eft: EFT, blend: Blend) -> Given:
    """Both dials, the weight of every trait and what is set of the filter, as a reply is blended with them."""
    traits = eft.family.weights | dict(blend.traits)
    dials = {"knowledge": blend.knowledge, "behaviour": blend.behaviour, "traits": traits}
    return {**dials, "filter": filter_in_use(blend)}


def filter_in_use(blend: Blend) -> dict[str, float]:
    """What is set of the filter."""
    values = {name: getattr(blend.filter, name) for name in FILTER}
    return {name: value for name, value in values.items() if value is not None}


def fitting(dials: Given, eft: EFT) -> Blend:
    """Dials kept from another time, without traits that these models and filters that this version does not have."""
    from eft_gguf import Filter

    fit = {**dials, "traits": {n: weight for n, weight in dials.get("traits", {}).items() if n in eft.trait_names}}
    if "filter" in dials:
        fit["filter"] = Filter(**{name: value for name, value in dials["filter"].items() if name in FILTER})
    return eft.family.blended(fit)


def reopening(eft: EFT) -> Given:
    """The model options that open the same models again, from any folder."""
    from eft_gguf.models.family import BUNDLED

    family = eft.family
    examples = {} if isinstance(family.examples, tuple) else {"examples": str(family.examples)}
    if family.path:
        return {"family": "bundled" if family.path == BUNDLED else str(family.path.resolve()), **examples}

    def absolute(reference: Reference) -> str:
        scale = f"@{reference.scale!r}" if reference.scale != 1 else ""
        return ("lora:" if reference.adapter else "") + str(reference.path.resolve()) + scale

    tuned = [f"{trait.name}={absolute(trait.model)}:{trait.weight!r}" for trait in family.tuned]
    return {"base": absolute(family.base), "untuned": absolute(family.untuned), "tuned": tuned, **examples}
