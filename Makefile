# Every target sets up what it needs; a second call finds it done. Works with GNU make 3.81, which macOS ships.
# PYTHON=/path/to/python3.12 chooses another interpreter.

VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint bench family picture fuzz

help:
	@echo "make demo     ask untuned, tuned, base and blend one question, side by side"
	@echo "make test     run the tests                       (ARGS='tests/cli -x' narrows them)"
	@echo "make lint     ruff and mypy"
	@echo "make bench    run the benchmarks                  (minutes; wants a quiet machine)"
	@echo "make fuzz     try wrong model files                 (an hour; ARGS='--seconds 600' for another time)"
	@echo "make family   train the bundled family anew       (under 45 minutes on two cores)"
	@echo "make picture  draw the README's picture anew, from the real output"

setup:
	@sh tools/setup.sh $(VENV)

demo: setup
	@$(BIN)/eft-gguf demo
	@echo 'To have eft-gguf in this terminal, and to talk to these toy models:'
	@echo '    . $(BIN)/activate && eft-gguf chat'

test: setup
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	@set -e; for script in benchmarks/*.py; do \
	    echo "== $$script"; $(BIN)/python $$script; \
	done

# Files that do harm are kept in fuzz-found/.
fuzz: setup
	$(BIN)/python -m tests.hostile.fuzz --cheap 20000 --full 1000000 --seconds 3600 $(ARGS)

# Training needs PyTorch, which nothing else here does: it gets a virtual environment of its own.
family: setup
	@test -x .venv-family/bin/python || $(BIN)/python -m venv .venv-family
	.venv-family/bin/python -m pip install --quiet -r family/requirements.txt
	.venv-family/bin/python -m family.build

picture: setup
	$(BIN)/eft-gguf demo --svg docs/demo.svg
