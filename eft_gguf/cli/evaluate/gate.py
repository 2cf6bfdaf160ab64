"""`eft-gguf evaluate gate`: is blending worth it, for the user's own prompts?"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eft_gguf.cli.display import note
from eft_gguf.cli.evaluate.common import Countdown, require_leave, run_option, stopped
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import NAMING, Given, dial_options, model_options, open_models
from eft_gguf.errors import OptionError

if TYPE_CHECKING:
    from eft_gguf import EFT


@click.command(cls=Command, short_help="Is blending worth it, for your own prompts?")
@click.argument("prompts", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--large-tuned", metavar="REF", help="The really tuned large model; lora:FILE for an adapter on base.")
@click.option("--base-system", metavar="TEXT", help="A further rival: base, asked for the form by this system message.")
@click.option("--regex", metavar="PATTERN", help="The form of each reply whose line names none.")
@click.option("--max-tokens", type=int, default=256, metavar="N", help="The longest reply.  [default: 256]")
@click.option("--limit", type=int, metavar="N", help="Use only N of the prompts, drawn by the seed.")
@click.option("--seed", type=int, default=0, metavar="N", help="Draws the halves of the prompts.  [default: 0]")
@click.option("--run-judges", is_flag=True, help="Run the commands that the file names as judges.")
@click.option("--judge-timeout", type=float, default=60.0, metavar="S", help="Seconds for each.  [default: 60]")
@click.option("--save", is_flag=True, help="Write the best dials, filter and examples into the family's file.")
@click.option("--save-as", metavar="NAME", help="Write them into a new family of yours, with these models.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every figure.")
@run_option
@dial_options
@model_options
def gate(
    prompts: Path,
    large_tuned: str | None,
    base_system: str | None,
    regex: str | None,
    max_tokens: int,
    limit: int | None,
    seed: int,
    run_judges: bool,
    judge_timeout: float,
    save: bool,
    save_as: str | None,
    as_json: bool,
    run: Path | None,
    dials: Given,
    models: Given,
) -> None:
    """Ask PROMPTS of every model alone and of the blend, and say if blending is worth it.

    PROMPTS has a JSON object a line, such as {"question": "…", "answers": ["…"], "regex": "…"}. On one half of them
    dials, filter and examples are chosen, the other half is reported. With dials given nothing is chosen, all are
    reported. A rival is the base that is shown the same examples: two, if neither --examples nor the family says.

    Exit code 0 whatever the verdict.
    """
    from eft_gguf import EFT, Blend
    from eft_gguf.evaluation import gate as gates
    from eft_gguf.evaluation.cases import parted, read_cases
    from eft_gguf.evaluation.gate_tables import sentence, tables
    from eft_gguf.evaluation.record import about_record, dials_record, family_record, file_record
    from eft_gguf.evaluation.run_file import Run
    from eft_gguf.models.family_dials import require_own_file, save_dials
    from eft_gguf.models.family_dials import save_as as save_family_as
    from eft_gguf.models.presets import check_name

    if save_as:
        check_name(save_as)
    if max_tokens < 1:
        raise OptionError(f"max_tokens must be 1 or more, not {max_tokens}", hint="leave it out for 256")
    if not judge_timeout > 0:
        raise OptionError(f"the judge's timeout must be above 0, not {judge_timeout:g}", hint="leave it out for 60 s")
    if limit is not None and limit < 2:
        raise OptionError(f"a limit of {limit} leaves no two halves", hint="give 2 or more")
    cases = read_cases(prompts, regex=regex)
    require_leave(prompts, cases, run_judges)
    if save and save_as:
        raise click.UsageError("--save and --save-as exclude each other")
    Blend(**dials)  # what is out of range is refused before anything is loaded
    settings = [] if dials else list(gates.SETTINGS)
    choosing, reporting = parted(cases, seed, limit) if settings else ([], cases[:limit])
    if not reporting:
        raise OptionError(f"{prompts} holds no prompt to report on", hint='give some lines "split": "report"')
    if settings and not choosing:
        raise OptionError(f"{prompts} holds no prompt to choose settings on", hint="give more prompts, or the dials")
    started = time.time()
    own = chosen_examples(models)
    with open_with_examples(models, own, gates.EXAMPLES) as eft:
        family = eft.family
        if save:
            require_own_file(family)
        given = gates.Setting(family.blended(dials), bool(own) and eft.examples_tokens > 0)
        settings = gates.settings_for(eft, settings or [given])
        large = None if large_tuned is None else gates.large_tuned_family(family, large_tuned)
        machine = {name: value for name, value in models.items() if name not in NAMING}

        def open_large() -> AbstractContextManager[EFT]:
            assert large is not None
            return EFT.open(large, probe=True, **machine)

        plan = gates.Plan(
            choosing, reporting, settings, base_system, open_large if large else None, max_tokens, judge_timeout
        )
        inputs = {
            "family": family_record(family),
            "large tuned": family_record(large) if large else None,
            "prompts": file_record(prompts),
            "regex": regex,
            "base system": base_system,
            "settings": [{**dials_record(one.blend, family), "shown": one.examples} for one in settings],
            "seed": seed,
            "limit": limit,
            "sampling": {"temperature": 0, "max_tokens": max_tokens},
            "models": machine,
        }
        record = Run(run, "gate", inputs, about_record(started))
        try:
            with Countdown("prompts") as countdown:
                result = gates.gate(eft, plan, record, countdown.progress)
        except KeyboardInterrupt:
            stopped(run)
    found = tables(result)
    if save or save_as:
        examples = family.examples if result.chosen.examples else 0
        assert not isinstance(examples, tuple)  # the command line names a number or a file
        if save_as:
            path = save_family_as(save_as, family, result.chosen.blend, examples)
        else:
            path = require_own_file(family)
            save_dials(path, result.chosen.blend, examples)
        note(f"written: {path}")
    whole = {**record.head, **result.record, "seconds": round(time.time() - started, 3)}
    whole["tables"] = [table.as_dict() for table in found]
    record.finish(
        {"verdict": sentence(result), "tables": [table.as_dict() for table in found], "figures": result.record}
    )
    if as_json:
        click.echo(json.dumps(whole, ensure_ascii=False))
    else:
        click.echo("\n\n".join([sentence(result), *(table.text() for table in found)]))
    if not any(case.regex or case.schema is not None or case.judge for case in cases):
        note("no prompt asks for a form: what fine-tuning taught does not count in the verdict (see --regex)")


def open_with_examples(models: Given, own: Any, default: int) -> EFT:
    """The models, opened with their own examples, or with `default` of them where these can be shown."""
    from eft_gguf.errors import ContextError

    if own or "examples" in models:
        return open_models(models)
    try:
        return open_models({**models, "examples": default})
    except (ContextError, OptionError) as error:
        note(f"note: no examples are shown: {error.message}")
        return open_models({**models, "examples": 0})


def chosen_examples(models: Given) -> Any:
    """What --examples says, or the family's file; 0 where neither shows any."""
    from eft_gguf.models.examples import checked_choice
    from eft_gguf.models.family import load_family

    if "examples" in models:
        return checked_choice(models["examples"])
    return 0 if "base" in models else load_family(models.get("family")).examples
