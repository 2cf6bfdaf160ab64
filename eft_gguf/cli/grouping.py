"""A command whose help has its options in groups, each with its default, and which knows the user's own defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from eft_gguf.cli.defaults import defaults_file, read_defaults
from eft_gguf.cli.options import DIALS, FILTER, MODELS, SAMPLING
from eft_gguf.errors import OptionError

OF_MODELS = ("family", "base", "untuned", "tuned", "examples", "offline")
SECTIONS: dict[str, tuple[str, ...]] = {
    "Models": OF_MODELS,
    "Dials": (*DIALS, *FILTER, "paper"),
    "Sampling": tuple(SAMPLING),
    "Machine": tuple(name for name in MODELS if name not in OF_MODELS),
}
EXCLUSIVE = (
    ("family", ("base", "untuned", "tuned")),
    ("grammar", ("json_schema",)),
    ("json_schema", ("grammar",)),
)
"""A default of the user's gives way where one of the others is given."""
ANSWERING = ("run", "chat", "serve")
"""Commands that take dials and sampling from the user's defaults; all others take models and machine alone."""


class Command(click.Command):
    """A command with the options of `eft_gguf.cli.options`.

    sampling_defaults: where they are not those of `Sampling`.
    """

    def __init__(self, *arguments: Any, sampling_defaults: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sampling_defaults = sampling_defaults or {}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        asks_help = "--help" in args or "-h" in args or extra.get("resilient_parsing")
        own = {} if asks_help else self._own_defaults()
        try:
            return super().make_context(info_name, args, parent, default_map=own, **extra)
        except click.BadParameter as error:
            given = {argument.partition("=")[0] for argument in args}
            if error.param and error.param.name in own and not given & set(error.param.opts):
                raise OptionError(f"{defaults_file()}: {error.format_message()}", hint="mend that line") from None
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for name, others in EXCLUSIVE:
            is_default = ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
            if is_default and any(ctx.get_parameter_source(o) is ParameterSource.COMMANDLINE for o in others):
                ctx.params[name] = None
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in SECTIONS}}
        section_of = {name: title for title, names in SECTIONS.items() for name in names}
        defaults = self._sampling_texts()
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is None:
                continue
            name = param.name or ""
            section = section_of.get(name, "Options")
            if section == "Sampling" and name in defaults and "[default:" not in record[1]:
                record = record[0], f"{record[1]}  [default: {defaults[name]}]"
            rows[section].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def _sampling_texts(self) -> dict[str, str]:
        from eft_gguf.engine.sampling import Sampling

        texts = {"max_tokens": "until the model ends, or the context is full"}
        for field in dataclasses.fields(Sampling):
            value = self.sampling_defaults.get(field.name, field.default)
            if isinstance(value, int | float):
                texts[field.name] = f"{value:g}"
        return texts

    def _own_defaults(self) -> dict[str, Any]:
        known = {name for names in SECTIONS.values() for name in names}
        mine = {param.name for param in self.params}
        if self.name not in ANSWERING:
            mine -= {*SECTIONS["Dials"], *SECTIONS["Sampling"]}
        return {name: value for name, value in read_defaults(known).items() if name in mine}


def is_default_family(ctx: click.Context) -> bool:
    """Whether the family comes from the user's defaults, not from the command line."""
    return ctx.get_parameter_source("family") is ParameterSource.DEFAULT_MAP
