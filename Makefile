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

# ---- the whole study: from data to the report, as templates in multirun_templates/ that a user copies and edits
#
#   make smoke                                     36 tiny networks on digits, on this machine
#   make paper DATA=rvl_cdip RVL_CDIP=/data/rvl    35 networks (and a third baseline) on each GPU that is there
#   make paper ILSVRC=/data/imagenet RVL_CDIP=/data/rvl HISTORICAL=/data/scans LAUNCHER=slurm ARGS='hydra.launcher.partition=gpu'
#   make paper-networks GPUS=4                     a part: prepare, networks, measure, distance, finetune, cross, report
#   make plan                                      how many jobs and hours, and how much room, at this machine's pace
#   make status                                    how far it is
#
# Whatever was interrupted, give the same line again. A job that fails is named at the end with its cause and its command,
# the parts behind it go on with what is there, and make ends with an error.
DATA ?= ilsvrc rvl_cdip
LAUNCHER ?= local
GPUS ?=
ARGS ?=
RUNS ?= runs
PREPARED ?= prepared
FEATURES ?= features
REPORT ?= report
SMOKE ?= smoke
PARTS := prepare networks measure distance finetune cross report
LAUNCHERS := one local slurm

ifeq ($(filter $(LAUNCHER),$(LAUNCHERS)),)
$(error LAUNCHER=$(LAUNCHER): choose one of $(LAUNCHERS))
endif
LAUNCH_one = $(if $(GPUS),$(error GPUS=$(GPUS): LAUNCHER=one runs one job at a time; choose LAUNCHER=local))
LAUNCH_local = hydra/launcher=local $(if $(GPUS),hydra.launcher.gpus=$(GPUS))
LAUNCH_slurm = hydra/launcher=slurm $(if $(GPUS),hydra.launcher.array_parallelism=$(GPUS))
LAUNCH = $(LAUNCH_$(LAUNCHER))
TEMPLATE := --config-dir multirun_templates --config-name
PLACES = runs=$(RUNS) prepared=$(PREPARED)

# runs every part in its order, whatever became of the one before
all_parts = status=0; for part in $(PARTS); do \
	$(MAKE) --no-print-directory $(1)-$$part || { status=$$?; [ $$status -lt 128 ] || exit $$status; }; done; exit $$status

.PHONY: smoke paper plan status $(PARTS:%=smoke-%) $(PARTS:%=paper-%)
.NOTPARALLEL:
MAKEFLAGS += --keep-going

smoke paper: $(VENV)/installed
	@$(call all_parts,$@)

$(PARTS:%=smoke-%): RUNS = $(SMOKE)/runs
$(PARTS:%=smoke-%): PREPARED = $(SMOKE)/prepared
$(PARTS:%=smoke-%): $(VENV)/installed
smoke-prepare:
	$(BIN)/invariance-prepare data=digits $(PLACES) $(ARGS)
smoke-networks:
	$(BIN)/invariance-train -m $(TEMPLATE) smoke_networks $(LAUNCH) $(PLACES) $(ARGS)
smoke-measure:
	$(BIN)/invariance-measure -m $(TEMPLATE) smoke_measure $(LAUNCH) $(PLACES) $(ARGS)
smoke-distance:
	$(BIN)/invariance-distance -m $(TEMPLATE) smoke_distance features=$(SMOKE)/features $(LAUNCH) $(PLACES) $(ARGS)
smoke-finetune:
	$(BIN)/invariance-finetune -m $(TEMPLATE) smoke_finetune $(LAUNCH) $(PLACES) $(ARGS)
smoke-cross:
	$(BIN)/invariance-measure -m $(TEMPLATE) smoke_cross $(LAUNCH) $(PLACES) $(ARGS)
smoke-report:
	$(BIN)/invariance-report out=$(SMOKE)/report logger=csv $(PLACES)

# ILSVRC=/data/imagenet is data.root of data=ilsvrc, and so on
upper = $(shell echo $(1) | tr a-z A-Z)
data_of = data=$(1) $(if $($(upper)),data.root=$($(upper)))
comma := ,
empty :=
space := $(empty) $(empty)

BY_DATA := prepare networks measure distance finetune
$(foreach part,$(BY_DATA),$(eval paper-$(part): $(DATA:%=paper-$(part).%)))
.PHONY: $(foreach part,$(BY_DATA),$(DATA:%=paper-$(part).%))
$(foreach part,$(BY_DATA),$(DATA:%=paper-$(part).%)) paper-cross paper-report plan status: $(VENV)/installed

$(DATA:%=paper-prepare.%): paper-prepare.%:
	$(BIN)/invariance-prepare -m $(call data_of,$*) size=227,240,256,288,320 $(PLACES)
$(DATA:%=paper-networks.%): paper-networks.%:
	$(BIN)/invariance-train -m $(TEMPLATE) paper_networks $(call data_of,$*) $(LAUNCH) $(PLACES) $(ARGS)
$(DATA:%=paper-measure.%): paper-measure.%:
	$(BIN)/invariance-measure -m $(TEMPLATE) paper_measure of=$* $(LAUNCH) $(PLACES) $(ARGS)
# the third baseline is for the distances alone
$(DATA:%=paper-distance.%): paper-distance.%:
	$(BIN)/invariance-train -m $(TEMPLATE) paper_networks network=baseline_3 $(call data_of,$*) $(LAUNCH) $(PLACES) $(ARGS)
	$(BIN)/invariance-distance -m $(TEMPLATE) paper_distance of=$* features=$(FEATURES) $(LAUNCH) $(PLACES) $(ARGS)
$(DATA:%=paper-finetune.%): paper-finetune.%:
	$(BIN)/invariance-finetune -m $(TEMPLATE) paper_finetune of=$* recipe=finetune_$* $(LAUNCH) $(PLACES) $(ARGS)
paper-cross:
ifdef HISTORICAL
	$(BIN)/invariance-measure -m $(TEMPLATE) paper_cross data.root=$(HISTORICAL) $(LAUNCH) $(PLACES) $(ARGS)
else
	@echo "Fig. 10 is left out: give HISTORICAL=, a folder of page images"
endif
paper-report:
	$(BIN)/invariance-report out=$(REPORT) $(PLACES)

plan:
	$(BIN)/invariance-plan 'data=[$(subst $(space),$(comma),$(strip $(DATA)))]' $(ARGS)

status:
	$(BIN)/invariance-status runs=$(RUNS)
