# Everything a checkout needs: `make demo` shows it, `make test` checks it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: setup demo lint test test-all clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: setup
	$(BIN)/suite demo

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread per process: two test processes share two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2

# Other runtimes, installation, faults. What is skipped here has not been checked: it fails.
test-all: setup
	$(BIN)/pytest -m slow --no-skips

clean:
	rm -rf .venv demo runs
