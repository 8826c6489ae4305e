# Each target works alone, from a fresh clone: it makes its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed

.PHONY: quickstart findings test test-vllm vllm ui check format clean

quickstart: $(STAMP)
	$(BIN)/si-dagster run studies/quickstart.yaml

findings: $(STAMP)
	$(BIN)/si-dagster findings

test: $(STAMP)
	$(BIN)/pytest

# vLLM for CPU; on a GPU machine install the extra [vllm] instead.
vllm: $(VLLM_STAMP)

test-vllm: $(STAMP) $(VLLM_STAMP)
	SI_DAGSTER_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(BIN)/pytest -m vllm tests/engines tests/orchestration

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

# Without dependencies, for all are listed: three that vLLM asks for come as CUDA builds and break it on CPU.
$(VLLM_STAMP): constraints-vllm.txt
	test -d $(VLLM) || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --no-deps --no-compile --requirement constraints-vllm.txt
	touch $(VLLM_STAMP)

clean:
	rm -rf $(VENV) $(VLLM)
