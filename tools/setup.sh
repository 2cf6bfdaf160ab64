#!/bin/sh
# Makes the virtual environment that the Makefile works in: sh tools/setup.sh VENV
#
# Does nothing when that was done before for this pyproject.toml in this folder. Needs Python 3.10 to 3.13 with its
# venv module, and a C++ compiler, because llama-cpp-python is published as source. PYTHON chooses the interpreter,
# CMAKE_ARGS how llama.cpp is built, EXTRAS which of pyproject.toml's optional dependencies are installed.
set -eu

venv=$1
extras=${EXTRAS:-dev,server}
log=$venv/setup.log
stamp=$venv/setup.stamp

fail() {
    printf 'error: %s\n' "$1" >&2
    printf '%s\n' "$2" >&2
    exit 2
}

# ---- done before?
# The folder is part of the stamp because an editable install points at it.
wanted="$(cksum <pyproject.toml) $PWD $extras"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

# ---- an interpreter that fits
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python3.10; fi
python=
for candidate in "$@"; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
case $(uname) in
    Darwin) python_help="brew install python@3.13" compiler_help="xcode-select --install" ;;
    *) python_help="apt install python3 python3-venv" compiler_help="apt install g++" ;;
esac
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no Python"
    fail "Python 3.10 to 3.13 is needed, and ${PYTHON:-python3} is: $found" \
        "Install one ($python_help), or name one: make PYTHON=/path/to/python3.12 …"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$("$python" --version) has no venv module" "Install it: $python_help"

# ---- a compiler, unless llama-cpp-python is there already
if ! "$venv/bin/python" -c 'import importlib.metadata as m; m.version("llama-cpp-python")' 2>/dev/null; then
    echo 'int main() { return 0; }' | ${CXX:-c++} -x c++ -o /dev/null - 2>/dev/null ||
        fail "no working C++ compiler (${CXX:-c++}), which building llama.cpp needs" "Install one: $compiler_help"
    echo "Setting up in $venv. Building llama.cpp takes some minutes the first time; log: $log"
else
    echo "Bringing $venv up to date; log: $log"
fi

# ---- install
# A virtual environment whose interpreter has gone (an upgrade of Python does that), or that was not finished, is
# made anew.
"$venv/bin/python" -c 'import pip' 2>/dev/null || "$python" -m venv --clear "$venv"

# pip stays in the foreground, so that Ctrl-C reaches it and its compilers; the clock runs beside it.
clock() {
    seconds=0
    while sleep 1 && kill -0 $$ 2>/dev/null; do
        seconds=$((seconds + 1))
        if [ -t 1 ]; then
            printf '\r  installing … %d:%02d ' $((seconds / 60)) $((seconds % 60))
        elif [ $((seconds % 30)) -eq 0 ]; then
            printf '  installing … %d:%02d\n' $((seconds / 60)) $((seconds % 60))
        fi
    done
}
clock &
clock_pid=$!
stop_clock() {
    kill "$clock_pid" 2>/dev/null || true
    wait "$clock_pid" 2>/dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
}
trap 'stop_clock; echo "stopped; the same command goes on from here" >&2; exit 130' INT TERM

# llama.cpp's image and sound library is a third of the build, and nothing here uses it.
if CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF}" "$venv/bin/python" -m pip install --no-input \
    --disable-pip-version-check --editable ".[$extras]" </dev/null >"$log" 2>&1; then
    stop_clock
    printf '%s\n' "$wanted" >"$stamp"
    echo "Ready."
else
    stop_clock
    tail -n 25 "$log" >&2
    fail "the installation failed; its last lines are above" "The whole log is in $log"
fi
