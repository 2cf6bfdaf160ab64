"""native/eft.h, compiled as a shared library by each compiler that is there."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] or [
    name for name in ("cc",) if shutil.which(name)
]

if not COMPILERS:
    collect_ignore_glob = ["test_*.py"]


def build(compiler, folder):
    path = folder / f"libeft-{compiler}.so"
    flags = ["-std=c11", "-O3", "-march=native", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, str(NATIVE / "eft.c"), "-lm", "-o", str(path)], check=True)
    return path


@pytest.fixture(scope="session", params=COMPILERS)
def each_library(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="session")
def one_library(tmp_path_factory):
    return build(COMPILERS[0], tmp_path_factory.mktemp("native"))


@pytest.fixture
def library(each_library, monkeypatch):
    """The kernels of eft_gguf.blend.native on this library; the library itself, its other functions declared."""
    monkeypatch.setenv("EFT_GGUF_NATIVE_LIB", str(each_library))
    from eft_gguf.blend import native

    opened = native.open_library()
    monkeypatch.setattr(native, "_library", opened)
    real, size, pointer = ctypes.c_double, ctypes.c_size_t, ctypes.c_void_p
    for name, result, arguments in (
        ("eft_sample", ctypes.c_int32, (pointer, size, real)),
        ("eft_accept", ctypes.c_int, (real, real, real)),
        ("eft_sample_residual", ctypes.c_int32, (pointer, real, pointer, real, size, real)),
        ("eft_log_softmax", None, (pointer, size, pointer)),
        ("eft_temper", ctypes.c_int, (pointer, size, ctypes.c_float)),
        ("eft_factors", ctypes.c_int, (real, real, pointer, pointer, size, pointer)),
    ):
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments
    return opened
