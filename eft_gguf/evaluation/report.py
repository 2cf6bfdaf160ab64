"""One HTML page of a run or several: verdicts, pictures, tables, replies, and what a repetition needs.

The page asks for nothing from outside, and its policy forbids it to. Everything that models or users wrote is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf.errors import EFTError, OptionError
from eft_gguf.evaluation.run_file import read_run
from eft_gguf.files import read_json

TITLES = {
    "gate": "Is blending worth it?",
    "matrix": "Pre-training scale × fine-tuning scale",
    "frontier": "The frontier between two traits",
    "tokens": "Token by token",
}
REPLIES = 40
"""Prompts whose replies a page shows: those that the systems answer differently first."""
HINT = "name a file that --run wrote, or the output of --json"
STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Document:
    """What one file holds. replies: by prompt, then by system, what was said and the marks for it."""

    path: Path
    evaluation: str
    verdict: str
    tables: Sequence[Mapping[str, Any]]
    figures: Mapping[str, Any]
    about: Mapping[str, Any]
    inputs: Mapping[str, Any]
    replies: Mapping[str, Mapping[str, Mapping[str, Any]]]


def read_document(path: Path) -> Document:
    """A run file, or what `--json` printed. Raises OptionError for others, and for a run that is not at its end."""
    record = _json(path)
    if record is not None and ("tables" in record or "format" not in record):
        return _printed(path, record)
    head, done, result = read_run(path)
    if result is None:
        raise OptionError(f"{path} is not at its end: {len(done):,} pieces are done", hint="repeat its command first")
    return Document(
        path,
        _known(path, head["evaluation"]),
        str(result.get("verdict", "")),
        result["tables"],
        result["figures"],
        head["about"],
        head["inputs"],
        _replies(head["evaluation"], done),
    )


def page(documents: Sequence[Document]) -> str:
    """The page."""
    title = TITLES[documents[0].evaluation] if len(documents) == 1 else "Evaluation report"
    body = "\n".join(_section(document) for document in documents)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _json(path: Path) -> dict[str, Any] | None:
    """The file as one object, None if it is something else, such as a run."""
    try:
        record = read_json(path)
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint=HINT) from None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _printed(path: Path, record: Mapping[str, Any]) -> Document:
    evaluation = _known(path, record.get("evaluation"))
    if not isinstance(record.get("tables"), list):
        raise OptionError(f"{path} holds no tables: an older version wrote it", hint="repeat its command")
    about = {**record.get("about", {}), **{k: record[k] for k in ("command", "started", "versions") if k in record}}
    if "machine" in record:
        about["machine"] = record["machine"]
    inputs = record.get("inputs") or {k: record[k] for k in ("family", "questions", "sampling") if k in record}
    verdict = record.get("verdict", "")
    if isinstance(verdict, Mapping):
        verdict = f"{verdict['word']}: {verdict['reason']}"
    return Document(path, evaluation, verdict, record["tables"], record.get("figures", record), about, inputs, {})


def _known(path: Path, evaluation: Any) -> str:
    if evaluation not in TITLES:
        raise OptionError(f"{path} is no evaluation of {', '.join(TITLES)}", hint=HINT)
    return str(evaluation)


def _replies(evaluation: str, done: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The replies that a run kept, by prompt; those of the gate's other half, which chose the dials, left out."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, value in done.items():
        part, slash, prompt = key.partition("/")
        if not slash or evaluation not in ("gate", "matrix") or part == "choose":
            continue
        for system, reply in value.items():
            name = system if evaluation == "gate" else f"base {part}" + (f" + pair {system}" if system else "")
            found.setdefault(prompt, {})[name] = reply
    return found


def _section(document: Document) -> str:
    parts = [f"<h1>{html.escape(TITLES[document.evaluation])}</h1>"]
    if document.verdict:
        parts.append(f'<p class="verdict">{_lines(document.verdict)}</p>')
    picture = _picture(document)
    if picture:
        parts.append(f"<figure>{picture}</figure>")
    parts += map(_table, document.tables)
    if document.replies:
        parts.append(_reply_table(document))
    parts.append(_provenance(document))
    return '<section class="document">\n' + "\n".join(parts) + "\n</section>"


def _picture(document: Document) -> str:
    """The evaluation's plot; nothing where matplotlib is not installed."""
    from eft_gguf.evaluation import frontier_plot, gate_plot, matrix_plot, tokens_plot
    from eft_gguf.evaluation.plots import inline_svg

    draw = {
        "gate": gate_plot.draw,
        "matrix": matrix_plot.draw,
        "frontier": frontier_plot.draw,
        "tokens": tokens_plot.draw,
    }[document.evaluation]
    try:
        return inline_svg(draw(document.figures))
    except ImportError:
        return ""
    except (LookupError, TypeError, ValueError) as error:
        raise EFTError(f"{document.path} lacks figures that are to be drawn: {error!r}", hint=HINT) from None


def _table(table: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{html.escape(str(column))}</th>' for column in table["columns"])
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in table["rows"]
    )
    note = f'<p class="note">{html.escape(table["note"])}</p>' if table.get("note") else ""
    return (
        f'<h2>{html.escape(table["title"])}</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>{note}"
    )


def _reply_table(document: Document) -> str:
    def differing(prompt: str) -> int:
        marks = {json.dumps(_marks(reply)) for reply in document.replies[prompt].values()}
        return -len(marks)

    shown = sorted(document.replies, key=differing)[:REPLIES]
    parts = []
    for prompt in shown:
        rows = "\n".join(
            f'<tr><td>{html.escape(system)}</td><td class="said">{_lines(reply["text"])}</td>'
            f"<td>{html.escape(_marks(reply))}</td></tr>"
            for system, reply in document.replies[prompt].items()
        )
        name = f"line {prompt}" if prompt.isdecimal() else prompt
        parts.append(
            f'<details><summary>{html.escape(name)}</summary><div class="wide"><table class="replies">\n{rows}\n'
            "</table></div></details>"
        )
    many = f"{len(shown)} of {len(document.replies):,} prompts; those with differing marks first"
    return f'<h2>Replies</h2>\n<p class="note">{many}.</p>\n' + "\n".join(parts)


def _marks(reply: Mapping[str, Any]) -> str:
    """As `accuracy 1, form no`: what is scored of a reply."""
    marks = [f"{name} {reply[name]:g}" for name in ("accuracy", "facts", "helpful") if reply.get(name) is not None]
    if reply.get("form") is not None:
        marks.append(f"form {'yes' if reply['form'] else 'no'}")
    return ", ".join([*marks, *([] if reply.get("finished", True) else ["cut off"])])


def _provenance(document: Document) -> str:
    about = document.about
    machine = ", ".join(str(value) for key, value in about.get("machine", {}).items() if key != "instructions")
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    rows = {
        "command": about.get("command", ""),
        "started": about.get("started", ""),
        "machine": machine,
        "versions": versions,
        "read from": document.path.name,
    }
    listed = "\n".join(
        f'<tr><th scope="row">{name}</th><td>{html.escape(value)}</td></tr>' for name, value in rows.items() if value
    )
    inputs = html.escape(json.dumps(document.inputs, indent=1, ensure_ascii=False))
    return (
        f'<h2>To repeat it</h2>\n<div class="wide"><table class="about">\n{listed}\n</table></div>\n'
        f"<details><summary>All inputs, with the hashes of files</summary><pre>{inputs}</pre></details>"
    )


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
