# make demo   a first plot from embedded data, in minutes      make test   the test suite
# Everything is installed into .venv; give PYTHON=… to choose the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
DEMO_ARGS := runs=$(DEMO)/runs prepared=$(DEMO)/prepared

.PHONY: demo test lint environment clean-demo smoke

environment: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; give PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --editable '.[dev]'
	touch $@

# scikit-learn's digits: the baseline and a rotation network, both measured over the rotation grid. Their features are
# larger than the paper's and their fit images few, so online SGD takes a third of the paper's rate (docs/solvers.md)
demo: $(VENV)/installed
	$(BIN)/invariance-prepare data=digits $(DEMO_ARGS)
	$(BIN)/invariance-train data=digits model=tiny $(DEMO_ARGS)
	$(BIN)/invariance-train data=digits model=tiny transform=rotation range=20 $(DEMO_ARGS)
	$(BIN)/invariance-measure 'networks=[digits/baseline,digits/rotation_20]' 'grids=[rotation]' \
		solver.online_sgd.rate=0.03 $(DEMO_ARGS)
	$(BIN)/invariance-report out=$(DEMO)/report $(DEMO_ARGS)

clean-demo:
	rm -rf $(DEMO)

# one process a core, up to four, each with one thread: test files are dealt out whole
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# the whole study, tiny, on digits: 36 networks, measured, compared, finetuned, reported (multirun_templates/smoke_*.yaml)
SMOKE := smoke
TEMPLATE := --config-dir multirun_templates --config-name
SMOKE_ARGS = runs=$(SMOKE)/runs prepared=$(SMOKE)/prepared progress=false
LAUNCHER := local

smoke: $(VENV)/installed
	$(BIN)/invariance-prepare data=digits $(SMOKE_ARGS)
	$(BIN)/invariance-train -m $(TEMPLATE) smoke_networks hydra/launcher=$(LAUNCHER) $(SMOKE_ARGS)
	$(BIN)/invariance-measure -m $(TEMPLATE) smoke_measure hydra/launcher=$(LAUNCHER) $(SMOKE_ARGS)
	$(BIN)/invariance-distance $(TEMPLATE) smoke_distance features=$(SMOKE)/features $(SMOKE_ARGS)
	$(BIN)/invariance-finetune -m $(TEMPLATE) smoke_finetune hydra/launcher=$(LAUNCHER) $(SMOKE_ARGS)
	$(BIN)/invariance-report out=$(SMOKE)/report $(SMOKE_ARGS)
