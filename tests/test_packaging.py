"""What pyproject.toml promises: every package is listed, convert/ is eft_gguf.convert, the data files are there."""

import importlib
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed() -> None:
    inits = [*ROOT.glob("eft_gguf/**/__init__.py"), *ROOT.glob("convert/**/__init__.py")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    names = {f"eft_gguf.{name}" if name.startswith("convert") else name for name in names}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == names


def test_the_convert_folder_installs_inside_the_package() -> None:
    convert = importlib.import_module("eft_gguf.convert")
    assert Path(str(convert.__file__)).parent.name == "convert"


def test_types_are_published() -> None:
    package = importlib.import_module("eft_gguf")
    assert (Path(str(package.__file__)).parent / "py.typed").exists()


def test_data_files_are_listed() -> None:
    """What is no Python in the package goes into the wheel: the bundled models, presets, pages."""
    package = ROOT / "eft_gguf"
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["eft_gguf"]
    listed = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    data = {path for path in files if path.suffix != ".py"}
    assert data <= listed, data - listed


def test_the_page_for_an_index_stands_alone() -> None:
    """Pictures and links that are relative would lead nowhere there."""
    page = (ROOT / SETTINGS["project"]["readme"]).read_text(encoding="utf-8")
    assert "](" not in page and "<img" not in page and len(page) > 500


def test_the_sdist_is_told_of_every_folder() -> None:
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    grafted = {line.removeprefix("graft ") for line in lines if line.startswith("graft ")}
    assert {"docs", "native", "tests", "tools", "examples", "benchmarks", "family"} <= grafted
    assert all((ROOT / folder).is_dir() for folder in grafted)
    assert SETTINGS["tool"]["setuptools"]["include-package-data"] is False


def test_the_demo_ends_with_how_to_go_on() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "/activate && eft-gguf chat" in makefile
    assert "`make demo`" in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def test_the_pinned_version_is_the_same_everywhere() -> None:
    [pin] = [entry for entry in SETTINGS["project"]["dependencies"] if entry.startswith("llama-cpp-python")]
    assert pin in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
