# The first two commands: make demo, make test. Each installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check bench

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
