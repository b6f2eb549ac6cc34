# Two commands do everything: `make demo` and `make test`. Each target calls one command.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test lint types

demo: $(READY)
	@echo "demo: text -> tokenizer -> shards -> ZeRO-2 training -> export, all under runs/demo"
	$(BIN)/electra-scale demo --out runs/demo $(if $(CORPUS),--corpus $(CORPUS))

test: $(READY)
	@echo "test: the whole suite"
	$(BIN)/python -m pytest $(TESTS)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	@echo "setup: $(VENV) with exact versions from constraints.txt (once; a few minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet -c constraints.txt torch numpy ninja py-cpuinfo
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation deepspeed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)
