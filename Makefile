# Two commands do everything: `make demo` and `make test`. Each target calls one command.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# The benchmarks' peers need other versions of some packages, so they have an environment of their own.
BENCH := .venv-bench
BENCH_READY := $(BENCH)/.installed

# The suite starts hundreds of processes: without files of compiled modules each would compile them all again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast torture fuzz bench gpu study lint types

demo: $(READY)
	@echo "demo: text -> tokenizer -> shards -> ZeRO-2 training -> export, all under runs/demo"
	$(BIN)/electra-scale demo --out runs/demo $(if $(CORPUS),--corpus $(CORPUS))

test: $(READY)
	@echo "test: the whole suite, four files at a time, since some wait for clusters, the longest first (about a quarter of an hour on two cores; TESTS= chooses)"
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(TESTS)

test-fast: $(READY)
	@echo "test-fast: every test that is not marked slow (4 minutes on two cores); make test runs all"
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(TESTS)

torture: $(READY)
	@echo "torture: one run, 25 kills at every kind of moment; KILLS= and SEED= change that (docs/checkpoints.md)"
	TORTURE_KILLS=$(or $(KILLS),25) TORTURE_SEED=$(or $(SEED),1) \
	    $(BIN)/python -m pytest -s --timeout 3600 tests/integration/test_torture.py

fuzz: $(READY)
	@echo "fuzz: generated inputs, 10 minutes for each promise, seeds printed; FUZZ_SECONDS= and FUZZ_SEED= change that"
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) FUZZ_SEED=$(or $(FUZZ_SEED),1) \
	    $(BIN)/python -m pytest -s -n 2 --dist load --timeout 3600 tests/integration/fuzz $(TESTS)

bench: $(BENCH_READY)
	@test -n "$(CORPUS)" || { echo "bench: name the text to measure with: make bench CORPUS=folder"; exit 2; }
	@echo "bench: build, loader and training steps against their peers, and a store of 10 GB; tables here, JSON in runs/bench"
	$(BENCH)/bin/python -m benchmarks.peers.data --text $(CORPUS) --megabytes 150 --rounds 3 --out runs/bench/data.json
	$(BENCH)/bin/python -m benchmarks.streaming.stream --out runs/bench/stream.json
	$(BENCH)/bin/python -m benchmarks.training.peers --lengths full documents sorted --out runs/bench/training.json

# On a machine with a GPU and nothing else: PYTHON is the one that has torch, WHEELS a folder of what requirements.txt lists.
gpu:
	@echo "gpu: the tests that need a device, loss curves in two precisions, tokens/s and MFU; ten minutes, into runs/gpu"
	$(if $(WHEELS),$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target runs/gpu/site $(WHEELS)/*.whl)
	PYTHONPATH=.:runs/gpu/site $(PYTHON) -m benchmarks.gpu.check --out runs/gpu $(GPU)

study: $(READY)
	@echo "study: every arm of recipes/ablation with every seed, in the background (docs/experiments.md)"
	$(BIN)/python -m benchmarks.study.study --out $(or $(OUT),runs/study) $(if $(CORPUS),--corpus $(CORPUS)) $(STUDY)

lint: $(READY)
	@echo "lint: style and format, imports that go round or up, code that nothing uses"
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo --no-cache && $(BIN)/vulture

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

$(BENCH_READY): pyproject.toml constraints.txt benchmarks/requirements.txt benchmarks/requirements-no-deps.txt
	@echo "setup: $(BENCH) with the peers (once; some minutes)"
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --upgrade pip setuptools wheel
	$(BENCH)/bin/pip install --quiet -c constraints.txt torch numpy ninja py-cpuinfo
	$(BENCH)/bin/pip install --quiet -c constraints.txt -r benchmarks/requirements.txt
	$(BENCH)/bin/pip install --quiet -c constraints.txt --no-build-isolation deepspeed
	$(BENCH)/bin/pip install --quiet -c constraints.txt -e '.[fast,finetune,mpi,s3]'
	$(BENCH)/bin/pip install --quiet --no-deps -r benchmarks/requirements-no-deps.txt
	# litdata asks for it and uses nothing of it; built for a torch with CUDA, it fails in all that import it where it is found.
	$(BENCH)/bin/pip uninstall --quiet --yes torchvision
	touch $(BENCH_READY)
