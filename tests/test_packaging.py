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
