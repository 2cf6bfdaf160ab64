"""The record of a run, kept while it goes on: a stopped run goes on where it was, and a page can be made of it.

A file of JSON lines: first what the run is made of, then a line for every piece of work that is done (`key` and
`value`), at last, maybe several times, `result`. Lines are only appended, so that a crash costs the last one at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError
from eft_gguf.files import parsed, read_text, write_aside

FORMAT = 1
PLACES = ("path", "file")
"""Where an input lies may change: its hash is compared."""
OTHER = "name another file for a new run, or repeat the run with the same inputs"


class Run:
    """What is done of a run; in memory alone where no file is named.

    inputs: everything that decides the replies: a run goes on only where they are the same.  about: what else is worth
    knowing, such as the machine, of the time when the run began.

    Raises OptionError for a file that is no run, or one of other inputs, and then says which.
    """

    def __init__(self, path: Path | None, evaluation: str, inputs: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        # As it will be read back: tuples become lists.
        wanted = json.loads(json.dumps({"evaluation": evaluation, "inputs": inputs}))
        self.head = {"format": FORMAT, **wanted, "about": about}
        if path is None:
            return
        if path.exists():
            self.head, self.done, _ = read_run(path)
            _require_same(path, self.head, wanted)
        else:
            write_aside(path, _line(self.head))

    def add(self, key: str, value: Any) -> None:
        """Keep a piece of work."""
        self.done[key] = value
        self._append({"key": key, "value": value})

    def took(self, started: float, before: int) -> float:
        """Seconds that the run took so far, over all times it was gone on with; kept with it.

        started: when this time began, since the epoch.  before: how much was done then; where nothing came since, this
        time does not count.
        """
        spent: float = self.done.get("seconds", 0.0)
        if len(self.done) > before or not spent:
            spent = round(spent + time.time() - started, 3)
            self.add("seconds", spent)
        return spent

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep what came out."""
        self._append({"result": result})

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OptionError(f"cannot write {self.path}: {error.strerror}", hint="make room, and go on") from None


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Head, work that is done by its key, and the last result, None before the end.

    A last line that was cut off is taken out of the file. Raises OptionError for a file that is no run.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint="name the file of a run") from None
    except UnicodeDecodeError:
        raise OptionError(f"{path} is no run", hint="name a file that --run wrote") from None
    whole, _, cut_off = text.rpartition("\n")
    try:
        # Not splitlines: a reply may hold line breaks of Unicode's.
        entries = [parsed(line) for line in whole.split("\n")]
        head = entries[0]
        texts = (head["evaluation"], *(entry["key"] for entry in entries[1:] if "key" in entry))
        wrong = any(not isinstance(text, str) for text in texts)
        if head["format"] != FORMAT or not isinstance(head["inputs"], dict) or wrong:
            raise ValueError
        done = {entry["key"]: entry["value"] for entry in entries[1:] if "key" in entry}
        results = [entry["result"] for entry in entries[1:] if "result" in entry]
    except (ValueError, LookupError, TypeError):
        raise OptionError(f"{path} is no run", hint="name a file that --run wrote") from None
    if cut_off:
        write_aside(path, whole + "\n")
    return head, done, results[-1] if results else None


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """What differs between two values of JSON, as `place: before, now after`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in dict.fromkeys((*before, *now)) if key not in PLACES]
        found = (differences(before.get(key), now.get(key), f"{place}.{key}" if place else key) for key in keys)
        return [line for lines in found for line in lines]
    return [] if before == now else [f"{place}: {_short(before)}, now {_short(now)}"]


def _require_same(path: Path, head: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if head["evaluation"] != wanted["evaluation"]:
        raise OptionError(f"{path} is a run of {head['evaluation']}, not of {wanted['evaluation']}", hint=OTHER)
    differing = differences(head["inputs"], wanted["inputs"])
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise OptionError(f"{path} was made with other inputs: {'; '.join(differing[:3])}{more}", hint=OTHER)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
