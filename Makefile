# make demo          from nothing to a report: shards, pretraining of both heads, a new animal, generation
# make test          lint, format, types, tests (under 12 minutes on two cores)
# make test-slow     trained models against exact answers (minutes)
# make test-kill     kills a training run 50 times, which ends as one that was never killed (KILLS=50; an hour)
# make test-cluster  two nodes on this machine: Slurm, ssh, torchrun (root on Debian; installs what it needs; minutes)
# make results       the main table of RESULTS.md on real recordings (DATA=../shared/data; an hour)
# make results-lorenz  the Lorenz protocol of LDNS: heads, masked EAG and diffusion, three seeds (an hour and a half)
# make bench-data    samples/s of our reader against webdataset's decode, a plan of 10 million windows, 1,000 sessions through everything
# make bench-train   the training loop against a bare PyTorch loop, two ranks against one, MFU

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DATA ?= ../shared/data
READY := $(VENV)/.ready

.PHONY: demo test lint types unit test-slow test-kill test-cluster results results-lorenz bench-data bench-train lock clean

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python launch/demo.py

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not slow_kill and not cluster" -n auto --maxprocesses 8 --dist loadfile

test-slow: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m slow --timeout 1800

test-kill: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m slow_kill -s --timeout 7200 tests/launch/test_killed_at_random.py

test-cluster: $(READY)
	tests/cluster/install.sh
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest tests/cluster --timeout 1800

results: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python launch/results.py --recordings $(DATA)/steinmetz2019 --out runs/results

results-lorenz: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python launch/results_lorenz.py --out runs/lorenz --seeds 0 1 2 --jobs 2

bench-data: $(READY)
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/read_speed.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/plan_scale.py
	PYTHONPATH=. OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(BIN)/python tests/benchmarks/corpus_scale.py

bench-train: $(READY)
	PYTHONPATH=. OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(BIN)/python tests/benchmarks/train_speed.py

lock:
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0 && .lock-venv/bin/python -m pip install --quiet '.[dev]' setuptools wheel
	(echo "# Exact versions that the Makefile installs; made by 'make lock' from pyproject.toml in a fresh environment."; \
	 .lock-venv/bin/python -m pip list --format=freeze | grep -v -i -E '^(neurochorus|pip)=' | sed 's/+cpu//') > requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) demo build *.egg-info
