"""Which models a benchmark runs on: the real Qwen pair with the two-line adapter, or any family."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from eft_gguf import EFT, EFTError
from eft_gguf.models.family import Family, family_from_references, load_family

FOLDER = Path(os.environ.get("EFT_GGUF_MODELS", "~/.cache/eft-gguf-models")).expanduser()
BASE = FOLDER / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
UNTUNED = FOLDER / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
ADAPTER = FOLDER / "two-line-answers-lora-qwen2.5-coder-0.5b.gguf"


def parser(description: str | None, *, page: str = "docs/benchmarks.md") -> argparse.ArgumentParser:
    """An argument parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--family", help="a family file, or 'bundled' (default: the Qwen pair with its adapter)")
    parser.add_argument("--threads", type=int, help="threads for llama.cpp (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {page}")
    return parser


def real_family() -> Family | None:
    """The Qwen pair with its adapter, None where a file is missing."""
    if not all(path.exists() for path in (BASE, UNTUNED, ADAPTER)):
        return None
    return family_from_references(BASE, UNTUNED, f"lora:{ADAPTER}")


def chosen_family(arguments: argparse.Namespace) -> Family:
    """The family that the options name. Ends the program, with a word why, where there is none."""
    try:
        family = load_family(arguments.family) if arguments.family else real_family()
    except EFTError as error:
        sys.exit(f"error: {error}")
    if family is None:
        # No failure: `make bench` runs on machines without these files too.
        print(f"skipped: the models are not in {FOLDER} (set EFT_GGUF_MODELS, or pass --family)", file=sys.stderr)
        raise SystemExit(0)
    return family


def family_name(arguments: argparse.Namespace) -> str:
    """What tables call the chosen family."""
    return f"family {arguments.family}" if arguments.family else "Qwen2.5-Coder 1.5B + 0.5B + adapter"


def section_of(script: str, arguments: argparse.Namespace) -> str:
    """The section of docs/benchmarks.md for a script's figures of the chosen family."""
    return f"{script} {arguments.family}" if arguments.family else script


def open_family(arguments: argparse.Namespace, **options: Any) -> EFT:
    """Load the chosen family, with what is being loaded told on stderr; without speculation unless it is asked for."""
    options.setdefault("speculate", "off")
    return EFT(
        chosen_family(arguments),
        threads=arguments.threads,
        progress=lambda line: print(line, file=sys.stderr),
        **options,
    )
