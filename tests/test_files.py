"""Files of the user's: whole or not at all, never through another's link, never in a device's place."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from eft_gguf import files
from eft_gguf.errors import OptionError
from eft_gguf.files import OWN, aside, home_expanded, parsed, read_file, read_text, write_aside


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_aside(path, "first")
    write_aside(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), aside(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_beside_cannot_be_guessed_and_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = []
    for _ in range(2):
        with aside(tmp_path / "out") as beside:
            names.append(beside.name)
    assert len(set(names)) == 2 and str(os.getpid()) not in "".join(names)
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "guessed")
    (tmp_path / ".guessed.part").symlink_to(victim)
    with pytest.raises(OptionError, match="cannot write"):
        write_aside(tmp_path / "out", "mine")
    assert victim.read_text() == "precious"


def test_what_people_said_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text("old")
    path.chmod(0o644)
    write_aside(path, "new", private=True)
    assert stat.S_IMODE(path.stat().st_mode) == OWN
    other = tmp_path / "plot.svg"
    other.write_text("old")
    other.chmod(0o640)
    write_aside(other, "new")
    assert stat.S_IMODE(other.stat().st_mode) == 0o640


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_aside(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "folder" / "later")
    write_aside(dangling, "new")
    assert dangling.is_symlink() and dangling.read_text() == "new"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OptionError, match="cannot write"):  # nobody reads it, and nobody is waited for
        write_aside(pipe, "lost")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    for _ in range(100):
        try:
            write_aside(pipe, "said")
            break
        except OptionError:
            time.sleep(0.02)
    reader.join()
    assert read == [b"said"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["folder", "no/such", "n" * 300, "a\0b"])
def test_outputs_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OptionError, match="cannot write") as caught:
        write_aside(tmp_path / name, "x")
    assert caught.value.hint


def test_a_pipe_is_read_and_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read_text(pipe) == ""  # no one has opened it for writing
    holder = os.open(pipe, os.O_RDWR)
    try:
        with pytest.raises(OSError, match=r"nothing was written to the pipe for 0\.1 s"):
            read_file(pipe)
        os.write(holder, b"text")
        with pytest.raises(OSError, match="nothing was written"):  # what is read has no end
            read_file(pipe)
    finally:
        os.close(holder)
    writer = threading.Thread(target=pipe.write_text, args=("all of it",))
    writer.start()
    text = ""
    while not text:
        text = read_text(pipe)
    writer.join()
    assert text == "all of it"


def test_reading_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    (tmp_path / "large").write_bytes(bytes(1001))
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_file(tmp_path / "large")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


def test_json_that_is_none_is_one_kind_of_error() -> None:
    assert parsed('{"a": [1]}') == {"a": [1]}
    for text in ("{", "[" * 100_000, "9" * 5000 + "x"):
        with pytest.raises(ValueError):
            parsed(text)


def test_a_home_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_expanded("~nobody-has-this/x") == Path("~nobody-has-this/x")
    monkeypatch.setenv("EFT_GGUF_HOME", "~nobody-has-this")
    monkeypatch.delenv("EFT_GGUF_CACHE", raising=False)
    assert files.state_folder() == Path("~nobody-has-this")
    assert files.cache_folder() == Path("~nobody-has-this/cache")
