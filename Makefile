# The first two commands: make demo, make test. Each installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin

TRIES ?= 2000

.PHONY: install demo test check bench fuzz

install: $(BIN)/smalti

$(BIN)/smalti: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/smalti demo --out runs/demo

test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.run

fuzz: install
	$(BIN)/python -m benchmarks.fuzz --tries $(TRIES)
