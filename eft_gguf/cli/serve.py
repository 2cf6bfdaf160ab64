"""`eft-gguf serve`: the server."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import click

from eft_gguf.cli import display
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import Given, check_models, dial_options, model_options, sampling_options
from eft_gguf.errors import EFTError

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@click.command(cls=Command, short_help="Serve OpenAI's API, and a page with the two dials.")
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen; others than loopback need a key.  [default: 127.0.0.1]"
)
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="0 finds a free one.  [default: 8080]")
@click.option("--parallel", type=int, metavar="N", help="Replies at a time, each with a context.  [default: 4]")
@click.option("--queue", type=int, metavar="N", help="Requests that may wait beyond these.  [default: 64]")
@click.option("--name", metavar="NAME", help="What clients call the blend.  [default: the family's name]")
@click.option(
    "--api-key-file",
    "key_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="API keys, one a line; or one in EFT_GGUF_API_KEY.",
)
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="A name that clients may call this machine by."
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Another server whose pages may use this one, as https://example.org.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="The longest that a request may take.  [default: 600]")
@click.option("--patience", type=float, metavar="SECONDS", help="How long to wait for a slow client.  [default: 30]")
@click.option(
    "--grace", type=float, metavar="SECONDS", help="What replies get when the server is stopped.  [default: 10]"
)
@click.option("--body-limit", type=int, metavar="BYTES", help="The largest request.  [default: 4000000]")
@dial_options
@sampling_options
@model_options
def serve(key_file: Path | None, dials: Given, sampling: Given, models: Given, **options: Any) -> None:
    """Serve OpenAI's API, and a page with the two dials, until Ctrl-C.

    Dials and sampling are those of requests that name no others.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EFTError(
            f"the server needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="install them: pip install 'eft-gguf[server]'",
        )
    check_models(models)
    from eft_gguf import Sampling
    from eft_gguf.server.app import serve as run
    from eft_gguf.server.settings import Settings, read_keys

    keys = read_keys(key_file) if key_file else ()
    if key := os.environ.get("EFT_GGUF_API_KEY"):
        keys = (*keys, key)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    settings = Settings(models=models, dials=dials, sampling=Sampling(**sampling), api_keys=keys, **given)

    def started(address: str) -> None:
        display.note(f"eft-gguf serves {address}: the page there, OpenAI's API at {address}/v1. Ctrl-C stops.")

    run(settings, started)
