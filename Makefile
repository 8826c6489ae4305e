# Each target works alone, from a fresh clone: it makes its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart findings test ui check format clean

quickstart: $(STAMP)
	$(BIN)/si-dagster run studies/quickstart.yaml

findings: $(STAMP)
	$(BIN)/si-dagster findings

test: $(STAMP)
	$(BIN)/pytest

ui: $(STAMP)
	$(BIN)/si-dagster ui

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m dagster definitions validate --workspace workspace.yaml
	$(BIN)/si-dagster validate

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
