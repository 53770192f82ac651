# Everything here works with Python and make alone: the first target that needs it installs raystage into .venv.
# On a machine without a GPU, point PIP_EXTRA_INDEX_URL at the CPU index of PyTorch to install the small torch.

PYTHON ?= python3
SIZE ?= small
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --ignore tests/xla --ignore tests/cuda
XLA_VENV := .venv-xla
AUDIT_VENV := .venv-audit
XLA_STAMP := $(XLA_VENV)/.installed
comma := ,

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-long test-xla test-cuda check audit bench bench-peers bench-scaling bench-growth bench-growth-dynamics bench-trigger bench-restart soak soak-xla soak-tune soak-mlflow soak-jobs format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with the pinned versions (PYTHON=python3.12 picks another Python)

quickstart: $(STAMP) ## train a small GPT that paces and grows itself, on two workers
	$(BIN)/raystage train tune_configs/quickstart.yaml

test: $(STAMP) ## the tests but the long ones (9 minutes on two cores)
	$(PYTEST) -n 3 -m "not long"

test-long: $(STAMP) ## the long ones: runs on clusters that lose workers, nodes and servers, and go on (7 minutes)
	$(PYTEST) -n 2 -m long

test-xla: $(XLA_STAMP) ## the tests of XLA devices, in an environment of its own (.venv-xla, 8 GB)
	$(XLA_VENV)/bin/python -m pytest tests/xla

test-cuda: $(STAMP) ## the tests of CUDA devices, on a machine that has one
	$(BIN)/python -m pytest tests/cuda

check: $(STAMP) ## lint, formatting, types, import contracts, security (bandit)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet -c pyproject.toml -r raystage

audit: $(STAMP) ## known vulnerabilities of the pinned packages, in an environment of its own; asks the package index, which must have advisories
	@test -x $(AUDIT_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT_VENV) && $(AUDIT_VENV)/bin/python -m pip install --quiet 'pip-audit>=2.10,<3'; }
	$(AUDIT_VENV)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

reproduce-%: $(STAMP) ## a study of tune_configs/reproduce/, like reproduce-growth SIZE=gpu (small: hours on two cores; goes on where it stopped)
	$(BIN)/raystage reproduce tune_configs/reproduce/$*.yaml --size $(SIZE)

bench: $(STAMP) ## the benchmarks of the CPU (20 minutes on two cores of one's own, 15 GB)
	$(BIN)/python -m tests.bench

bench-peers: $(STAMP) ## whole loops of raystage, nanoGPT and transformers' Trainer, side by side on the CPU (a quarter of an hour)
	$(BIN)/python -m tests.bench.bench_peers

bench-scaling: $(STAMP) ## the same run on 1, 2, ... workers, as many as there are cores or GPUs: tokens/s and efficiency (5 minutes on 2 cores)
	$(BIN)/python -m tests.bench.bench_scaling

bench-growth: $(STAMP) ## growth of GPT-2 124M against one copy of the grown state, and how long it stops two workers (15 GB, 5 minutes)
	$(BIN)/python -m tests.bench.bench_growth
	$(BIN)/python -m tests.bench.growth_pause

bench-growth-dynamics: $(STAMP) ## does a grown model learn as fast as one from scratch (20 minutes on two cores; goes on where it stopped)
	$(BIN)/python -m tests.bench.growth_dynamics

soak: $(STAMP) ## a run whose controller is killed ten times, and one with fifty random faults, against the same left alone (half an hour)
	$(BIN)/python -m tests.soak.actor_killed
	$(BIN)/python -m tests.soak.fifty_faults

soak-xla: $(XLA_STAMP) ## the quickstart on two XLA devices against the same on the CPU (a quarter of an hour; goes on where it stopped)
	$(XLA_VENV)/bin/python -m tests.soak.xla_quickstart

soak-tune: $(STAMP) ## a search killed twice, and four trials at once on a cluster of two nodes (ten minutes)
	$(BIN)/python -m tests.soak.tune_killed
	$(BIN)/python -m tests.soak.tune_cluster

soak-mlflow: $(STAMP) ## a run whose MLflow server is dead for a third of it, against one whose server is well (ten minutes)
	$(BIN)/python -m tests.soak.mlflow_killed

soak-jobs: $(STAMP) ## jobs on a cluster with a token: a node joins, one leaves, one job is stopped and goes on (a quarter of an hour)
	$(BIN)/python -m tests.soak.cluster_jobs

bench-restart: $(STAMP) ## from the kill of a worker to the next step, beside torchrun (8 minutes)
	$(BIN)/python -m tests.bench.restart

bench-trigger: $(STAMP) ## the slope trigger on made curves: how often too early, how late, or never (half an hour on two cores)
	$(BIN)/python -m tests.bench.bench_trigger

format: $(STAMP) ## rewrite the code as the checks want it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, .venv-xla, .venv-audit and caches; runs and prepared data stay
	rm -rf $(VENV) $(XLA_VENV) $(AUDIT_VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find raystage tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One pip call, so that one resolver run settles everything; its warnings and errors are shown, the dots only say that it lives.
define INSTALL
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "raystage needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1); name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing raystage into $(dir $@): some $(1) packages, a few minutes the first time"
	@$(PYTHON) -m venv $(dir $@)
	@(while sleep 2; kill -0 $$$$ 2>/dev/null; do printf .; done) & \
	  $(dir $@)bin/python -m pip install --quiet --disable-pip-version-check $(2)
	@touch $@
	@echo " done"
endef

$(STAMP): pyproject.toml constraints.txt
	$(call INSTALL,150,-c constraints.txt torch -e '.[dev]')

# torch_xla has no release for the pinned torch: the same pins but that one
$(XLA_STAMP): pyproject.toml constraints.txt
	@mkdir -p $(dir $@)
	@grep -v '^torch==' constraints.txt > $(dir $@)constraints.txt
	$(call INSTALL,170 (8 GB),-c $(dir $@)constraints.txt -e '.[dev$(comma)xla]')
