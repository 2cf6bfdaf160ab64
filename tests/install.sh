#!/bin/sh
# Tries the ways of docs/install.md in empty environments: sh tests/install.sh [FOLDER]
#
# Not part of .ci/run: each way may compile llama.cpp, which takes minutes. Ways whose tool is missing are named and left out.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
export CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF}"
mkdir -p "$folder"

check() {
    (
        cd "$folder"
        "$@" --version
        "$@" run "What is the capital of Peru?" --temperature 0 --max-tokens 20 | grep -q Lima
    )
    echo "works: $*"
}

echo "== wheel and sdist"
"$python" -m venv "$folder/build"
"$folder/build/bin/python" -m pip install --quiet build
"$folder/build/bin/python" -m build --outdir "$folder/dist" . >"$folder/build.log" 2>&1 || { tail "$folder/build.log"; exit 1; }
if grep -E 'would be ignored|absent from|DeprecationWarning' "$folder/build.log"; then echo "error: the build warns" >&2; exit 1; fi
wheel=$(ls "$folder"/dist/*.whl)
test "$(wc -c <"$wheel")" -le 7000000 || { echo "error: $wheel is larger than 7 MB" >&2; exit 1; }
tar -tzf "$folder"/dist/*.tar.gz >"$folder/sdist.txt"
for wanted in CHANGELOG.md docs/install.md docs/demo.svg native/eft.h tests/conftest.py eft_gguf/bundled/family.toml; do
    grep -q "/$wanted\$" "$folder/sdist.txt" || { echo "error: the sdist lacks $wanted" >&2; exit 1; }
done

echo "== pip, from the wheel"
"$python" -m venv "$folder/pip"
"$folder/pip/bin/python" -m pip install --quiet "$wheel[server]"
check "$folder/pip/bin/eft-gguf"
check "$folder/pip/bin/python" -m eft_gguf

if command -v pipx >/dev/null; then
    echo "== pipx"
    PIPX_HOME="$folder/pipx" PIPX_BIN_DIR="$folder/pipx-bin" pipx install --python "$python" "$wheel[server]"
    check "$folder/pipx-bin/eft-gguf"
else
    echo "left out: pipx is not here"
fi

if command -v uv >/dev/null; then
    echo "== uv"
    UV_TOOL_DIR="$folder/uv" UV_TOOL_BIN_DIR="$folder/uv-bin" uv tool install --python "$python" "$wheel[server]"
    check "$folder/uv-bin/eft-gguf"
else
    echo "left out: uv is not here"
fi
