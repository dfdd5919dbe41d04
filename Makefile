# make demo   a first plot from embedded data, in minutes      make test   the test suite      make check   its long part
# make gpu-check   whether a GPU computes rightly and fast; without one, at toy size on the CPU (docs/gpu.md)
# Everything is installed into .venv; give PYTHON=… to choose the interpreter it is made with.
#
# which variables were typed behind make, before any is set here
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
DEMO_ARGS := runs=$(DEMO)/runs prepared=$(DEMO)/prepared

.PHONY: demo test check gpu-check lint environment clean-demo smoke

environment: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: Python 3.11, 3.12 or 3.13 is needed; give PYTHON=/path/to/python3.11" >&2; exit 1; }
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

# one process a core, up to four, each with one thread: test files are dealt out whole; check has what is long by nature
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4
test: $(VENV)/installed
	$(PYTEST) --dist loadfile -m 'not long'

check: $(VENV)/installed
	$(PYTEST) --dist loadgroup -m long

gpu-check: $(VENV)/installed
	$(BIN)/python benchmarks/gpu_check.py --json gpu-check.json

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# ---- the whole study: from data to the report, as templates in multirun_templates/ that a user copies and edits
#
#   make smoke                                     36 tiny networks on digits, on this machine
#   make paper TOY=1 ILSVRC=/small/imagenet RVL_CDIP=/small/rvl HISTORICAL=/small/scans     the paper's at toy scale, in toy/
#   make paper DATA=rvl_cdip RVL_CDIP=/data/rvl    35 networks (and a third baseline) on each GPU that is there
#   make paper ILSVRC=/data/imagenet RVL_CDIP=/data/rvl HISTORICAL=/data/scans LAUNCHER=slurm ARGS='hydra.launcher.partition=gpu'
#   make paper KEEP=1                              with images of all sizes at once, which stay: more room, less waiting
#   make paper-networks GPUS=4                     a part: check, prepare, networks, measure, distance, finetune, cross, report
#   make paper DRY=1                               which commands would run, how many jobs, which are finished; nothing is begun
#   make plan                                      how many jobs and hours, and how much room, at this machine's pace
#   make status                                    how far it is; RUNS=smoke/runs of make smoke, TOY=1 of make paper TOY=1
#
# make paper takes one size of images after another: it prepares them, does all that needs them, and gives their room back.
#
# What is needed is checked before the first part, and nothing is begun where something lacks. Whatever was interrupted, give the
# same line again. A job that fails is named at the end with its cause and its command, the parts behind it go on with what is
# there, and make ends with an error. A part that is interrupted ends it all.
DATA ?= ilsvrc rvl_cdip
LAUNCHER ?= local
GPUS ?=
ARGS ?=
NETWORKS ?=
OFF := 0 n N no No NO f F false False FALSE off Off OFF
override TOY := $(filter-out $(OFF),$(TOY))
override DRY := $(filter-out $(OFF),$(DRY))
override KEEP := $(filter-out $(OFF),$(KEEP))
override LAUNCHER := $(strip $(LAUNCHER))
override STUDY := $(if $(TOY),toy,paper)
override IN := $(if $(TOY),toy/)
RUNS ?= $(IN)runs
PREPARED ?= $(IN)prepared
FEATURES ?= $(IN)features
REPORT ?= $(IN)report
SMOKE ?= smoke
TURNS := 227 240 256 288 320
PIXELS_paper := 227:227 240:240 256:256 288:288 320:320
PIXELS_toy := 227:67 240:71 256:76 288:85 320:94
PARTS := prepare networks measure distance finetune cross report
LAUNCHERS := one local slurm

DATA_SETS := $(patsubst conf/data/%.yaml,%,$(wildcard conf/data/*.yaml))
ROOTS := $(shell echo $(DATA_SETS) | tr a-z A-Z)
quote := '

# What is typed and not heeded is refused. These may be set, and what make itself and the commands read from their surroundings;
# what another makefile was given may be meant for itself
SETTINGS := DATA $(ROOTS) LAUNCHER GPUS ARGS $(PARTS:%=ARGS_%) NETWORKS TOY DRY KEEP RUNS PREPARED FEATURES REPORT SMOKE
SURROUNDINGS := PYTHON% VENV BIN DEMO DEMO_ARGS PYTEST% MAKE% MFLAGS GNUMAKEFLAGS SHELL .SHELLFLAGS INVARIANCE_% HYDRA_% WANDB_% \
	OMP_% MKL_% CUDA_% NVIDIA_% TORCH% SLURM_% SBATCH_% PIP_% XDG_% LC_% LANG HOME PATH TMPDIR TERM COLUMNS %_proxy %_PROXY
ifeq ($(MAKELEVEL),0)
$(foreach name,$(filter-out $(SETTINGS) $(SURROUNDINGS),$(TYPED)),$(error $(name)=: there is no such variable; choose of $(SETTINGS)))
endif
ifneq ($(filter smoke%,$(MAKECMDGOALS)),)
PAPERS := $(filter DATA $(ROOTS) $(PARTS:%=ARGS_%) NETWORKS TOY KEEP FEATURES REPORT,$(TYPED))
$(foreach name,$(PAPERS),$(if $($(name)),$(error $(name)=$($(name)): make smoke is always the same study and does not take it; leave it out, or use make paper)))
endif
ifneq ($(filter paper% plan status,$(MAKECMDGOALS)),)
$(if $(filter smoke%,$(MAKECMDGOALS)),,$(if $(filter SMOKE,$(TYPED)),$(if $(SMOKE),$(error SMOKE=$(SMOKE): it is the folder of make smoke alone; leave it out, or give RUNS=, PREPARED=, FEATURES= and REPORT=))))
endif
ifneq ($(filter paper% smoke% plan status,$(MAKECMDGOALS)),)
$(foreach name,RUNS PREPARED FEATURES REPORT SMOKE GPUS $(ROOTS),$(if $(findstring $(quote),$($(name))),$(error $(name)=$($(name)): it cannot have a quote ($(quote)) in it; choose another name)))
endif

ifneq ($(words $(LAUNCHER)) $(words $(filter $(LAUNCHERS),$(LAUNCHER))),1 1)
$(error LAUNCHER=$(LAUNCHER): choose one of $(LAUNCHERS))
endif
ifneq ($(filter paper% plan,$(MAKECMDGOALS)),)
override DATA := $(sort $(DATA))
$(if $(DATA),,$(error DATA= is empty: choose of $(DATA_SETS), several with blanks between them))
$(foreach data,$(filter-out $(DATA_SETS),$(DATA)),$(error DATA=$(data): choose of $(DATA_SETS), several with blanks between them))
THERE := $(patsubst conf/network/%.yaml,%,$(wildcard conf/network/*.yaml))
$(foreach network,$(filter-out $(THERE),$(NETWORKS)),$(error NETWORKS=$(network): choose of $(THERE), several with blanks between them))
$(foreach network,$(NETWORKS),$(if $(word 2,$(filter $(network),$(NETWORKS))),$(error NETWORKS=$(NETWORKS): $(network) is there twice; name it once)))
$(if $(NETWORKS),$(if $(filter-out baseline_%,$(NETWORKS)),,$(error NETWORKS=$(NETWORKS): name one besides the baselines, to be finetuned)))
$(foreach name,$(filter-out $(PARTS:%=ARGS_%),$(filter ARGS_%,$(.VARIABLES))),$(error $(name)=$($(name)): there is no such part; choose of $(PARTS:%=ARGS_%)))
endif
LAUNCH_one = $(if $(GPUS),$(error GPUS=$(GPUS): LAUNCHER=one runs one job at a time; choose LAUNCHER=local))
LAUNCH_local = hydra/launcher=local $(if $(GPUS),'hydra.launcher.gpus=$(GPUS)')
LAUNCH_slurm = hydra/launcher=slurm $(if $(findstring [,$(GPUS)),$(error GPUS=$(GPUS): with LAUNCHER=slurm give how many jobs are to run at once))$(if $(GPUS),hydra.launcher.array_parallelism=$(GPUS))
LAUNCH = $(if $(DRY),hydra/launcher=dry,$(LAUNCH_$(LAUNCHER)))
TEMPLATE := --config-dir multirun_templates --config-name
PLACES = 'runs=$(RUNS)' 'prepared=$(PREPARED)'

# shows a command and runs it; one that was interrupted or killed leaves the file $INVARIANCE_STOP, for make itself makes 2 of any
# status, and where that is nothing is run
ifneq ($(filter paper% smoke%,$(MAKECMDGOALS)),)
ifndef INVARIANCE_STOP
export INVARIANCE_STOP := $(shell mktemp -u)
endif
endif
RUN = sh -c '[ ! -e "$$INVARIANCE_STOP" ] || exit 130; echo "$$@"; "$$@"; s=$$?; \
	[ $$s -lt 128 ] || (: > "$$INVARIANCE_STOP") || true; exit $$s' --

# runs every part in its order, whatever became of the one before, unless that was interrupted
PARTS_smoke := $(PARTS)
PARTS_paper := $(if $(DRY),check) $(if $(KEEP),$(PARTS),turns distance cross report)
all_parts = status=0; for part in $(PARTS_$(1)); do \
	$(MAKE) --no-print-directory $(1)-$$part || { status=$$?; [ $$status -lt 128 ] || exit $$status; \
	[ ! -e "$$INVARIANCE_STOP" ] || { echo "$(1)-$$part was interrupted; the same command goes on with it" >&2; exit 130; }; \
	}; done; exit $$status

.PHONY: smoke paper paper-check plan status $(PARTS:%=smoke-%) $(PARTS:%=paper-%)
.NOTPARALLEL:
MAKEFLAGS += --keep-going

smoke: $(VENV)/installed
	@$(call all_parts,$@)
paper: $(VENV)/installed $(if $(DRY),,paper-check)
	@$(call all_parts,$@)

$(PARTS:%=smoke-%): RUNS = $(SMOKE)/runs
$(PARTS:%=smoke-%): PREPARED = $(SMOKE)/prepared
$(PARTS:%=smoke-%): $(VENV)/installed
smoke-prepare:
	@$(RUN) $(BIN)/invariance-prepare data=digits $(PLACES) $(if $(DRY),plan=true)
smoke-networks:
	@$(RUN) $(BIN)/invariance-train -m $(TEMPLATE) smoke_networks $(LAUNCH) $(PLACES) $(ARGS)
smoke-measure:
	@$(RUN) $(BIN)/invariance-measure -m $(TEMPLATE) smoke_measure $(LAUNCH) $(PLACES) $(filter-out $(TRAINED),$(ARGS))
smoke-distance:
	@$(RUN) $(BIN)/invariance-distance -m $(TEMPLATE) smoke_distance 'features=$(SMOKE)/features' $(LAUNCH) $(PLACES) $(filter-out $(TRAINED),$(ARGS))
smoke-finetune:
	@$(RUN) $(BIN)/invariance-finetune -m $(TEMPLATE) smoke_finetune $(LAUNCH) $(PLACES) $(ARGS)
smoke-cross:
	@$(RUN) $(BIN)/invariance-measure -m $(TEMPLATE) smoke_cross $(LAUNCH) $(PLACES) $(filter-out $(TRAINED),$(ARGS))
smoke-report:
	@$(if $(DRY),echo,$(RUN)) $(BIN)/invariance-report 'out=$(SMOKE)/report' logger=csv $(PLACES)

# ARGS= goes to every part that trains or measures, its model and recipe to those that have one, its logger= to the report too;
# ARGS_networks=, ARGS_finetune= and so on to one part, and ARGS_prepare= to the one that does neither
MODEL := model=% model.% $(quote)model=% $(quote)model.%
RECIPE := recipe=% recipe.% $(quote)recipe=% $(quote)recipe.%
# measuring is always in full float32 and uncompiled
TRAINED := $(foreach key,precision deterministic compile channels_last workers,trainer.$(key)=% $(quote)trainer.$(key)=%)
MORE_networks = $(ARGS) $(ARGS_networks)
MORE_finetune = $(filter-out $(MODEL),$(ARGS)) $(ARGS_finetune)
MEASURED = $(filter-out $(MODEL) $(RECIPE) $(TRAINED),$(ARGS))
MORE_measure = $(MEASURED) $(ARGS_measure)
MORE_distance = $(MEASURED) $(ARGS_distance)
LOGGER = $(or $(filter logger=% $(quote)logger=%,$(ARGS)),$(if $(TOY),logger=csv))
MORE_cross = $(MEASURED) $(ARGS_cross)

# NETWORKS='baseline_1 rotation_20' instead of those of the templates; a baseline's run is baseline/seed0 and so on
comma := ,
empty :=
space := $(empty) $(empty)
listed = $(subst $(space),$(comma),$(strip $(1)))
runs_of = $(patsubst baseline_1,baseline/seed0,$(patsubst baseline_2,baseline/seed1,$(patsubst baseline_3,baseline/seed2,$(1))))
NETWORK = $(if $(NETWORKS),network=$(call listed,$(NETWORKS)))
WHICH = $(if $(NETWORKS),which=$(call listed,$(call runs_of,$(NETWORKS))))
FINETUNED = $(if $(NETWORKS),which=$(call listed,$(filter-out baseline_%,$(NETWORKS))))
pixels = $(patsubst $(1):%,%,$(filter $(1):%,$(PIXELS_$(STUDY))))
SIZES = $(foreach turn,$(TURNS),$(call pixels,$(turn)))

# One size of images after another: TURN=227 is what all networks but Crop's need and the third baseline, TURN=240 Crop's of 240
# pixels and so on; paper-turns alone gives TURN=, and ENDED=, the turns that ended well before. The baselines are measured over
# Crop's grid of that size in its turn, and features kept, which are all that distances need of images
listed_in = $(subst $(comma), ,$(shell sed -n '/which: >-/,$$p' multirun_templates/$(1).yaml | sed 1d))
templated = $(or $(call listed_in,$(STUDY)_$(1)),$(call listed_in,paper_$(1)),$(error multirun_templates/$(STUDY)_$(1).yaml has \
	no list of networks below "which: >-"; give NETWORKS=, or KEEP=1))
CHOSEN = $(or $(NETWORKS),$(patsubst baseline/seed0,baseline_1,$(patsubst baseline/seed1,baseline_2,$(call templated,measure))))
BASELINES = $(filter baseline_%,$(CHOSEN))
of_turn = $(if $(filter 227,$(TURN)),$(filter-out crop_%,$(1)),$(filter crop_$(TURN),$(1)))
TURNED = $(call of_turn,$(CHOSEN))
NOT_EMPTY = $(foreach TURN,$(TURNS),$(if $(filter 227,$(TURN))$(TURNED)$(BASELINES),$(TURN)))
PAIRS :=
ifneq ($(origin TURN),command line)
override undefine TURN
endif
ifdef TURN
SIZES = $(call pixels,$(TURN))
NETWORK = network=$(call listed,$(TURNED))
GRIDS = $(if $(filter 227,$(TURN)),color_jitter elastic blur noise mirror perspective rotation shear,crop_$(TURN))
MEASURED_NOW = $(filter-out baseline_%,$(TURNED))
WHICH = which=$(call listed,$(MEASURED_NOW))
FEATURED = $(TURNED) $(if $(filter 227,$(TURN)),$(filter-out $(TURNED),baseline_3))
PAIRS = pairs=false 'networks=[$(call listed,$(patsubst %,$${of}/%,$(call runs_of,$(FEATURED))))]'
FINETUNED_NOW = $(call of_turn,$(filter-out baseline_%,$(or $(NETWORKS),$(call templated,finetune))))
FINETUNED = which=$(call listed,$(FINETUNED_NOW))
IN_TURN = prepare $(if $(TURNED),networks) $(if $(MEASURED_NOW),measure) $(if $(BASELINES),baselines) $(if \
	$(strip $(FEATURED)),distance) $(if $(FINETUNED_NOW),finetune)
endif

# ILSVRC=/data/imagenet is data.root of data=ilsvrc, and so on
upper = $(shell echo $(1) | tr a-z A-Z)
data_of = data=$(1) $(if $($(upper)),'data.root=$($(upper))')

BY_DATA := prepare networks measure distance finetune
$(foreach part,$(BY_DATA) turns,$(eval paper-$(part): $(DATA:%=paper-$(part).%)))
.PHONY: paper-turns $(foreach part,$(BY_DATA) turns turn baselines,$(DATA:%=paper-$(part).%))
$(foreach part,$(BY_DATA),$(DATA:%=paper-$(part).%)) paper-cross paper-report plan status: $(VENV)/installed

prepare = $(BIN)/invariance-prepare $(call data_of,$*) 'size=[$(call listed,$(1))]' $(PLACES)
$(DATA:%=paper-prepare.%): paper-prepare.%:
	@$(RUN) $(call prepare,$(SIZES)) restore=false $(ARGS_prepare) $(if $(DRY),plan=true)
$(DATA:%=paper-turns.%): paper-turns.%:
	@status=0; ended=; for turn in $(NOT_EMPTY); do \
		$(MAKE) --no-print-directory paper-turn.$* TURN=$$turn ENDED="$$ended" && ended="$$ended $$turn" || status=$$?; \
		[ ! -e "$$INVARIANCE_STOP" ] || exit 130; done; exit $$status
# behind all parts of a turn, if they ended well: its images, and those of earlier turns, which it may have made again or which
# were being read then. What another process reads (status 75) stays, for the next turn or that process's make to give back
$(foreach data,$(DATA),$(eval paper-turn.$(data): $(IN_TURN:%=paper-%.$(data))))
$(DATA:%=paper-turn.%): paper-turn.%:
	@$(if $(DRY),echo,$(RUN)) $(call prepare,$(foreach turn,$(TURN) $(ENDED),$(call pixels,$(turn)))) \
		$(filter-out renew=% $(quote)renew=%,$(ARGS_prepare)) give_back=true || [ $$? = 75 ]
$(DATA:%=paper-networks.%): paper-networks.%:
	@$(RUN) $(BIN)/invariance-train -m $(TEMPLATE) $(STUDY)_networks $(call data_of,$*) $(NETWORK) $(LAUNCH) $(PLACES) $(MORE_networks)
$(DATA:%=paper-measure.%): paper-measure.%:
	@$(RUN) $(BIN)/invariance-measure -m $(TEMPLATE) $(STUDY)_measure of=$* $(WHICH) $(LAUNCH) $(PLACES) $(MORE_measure)
$(DATA:%=paper-baselines.%): paper-baselines.%:
	@$(RUN) $(BIN)/invariance-measure -m $(TEMPLATE) $(STUDY)_measure of=$* which=$(call listed,$(call runs_of,$(BASELINES))) \
		'grids=[$(call listed,$(GRIDS))]' $(LAUNCH) $(PLACES) $(MORE_measure)
# the third baseline is for the distances alone
$(DATA:%=paper-distance.%): paper-distance.%:
	@status=0; $(if $(filter-out 227,$(TURN)),,$(RUN) $(BIN)/invariance-train -m $(TEMPLATE) $(STUDY)_networks network=baseline_3 \
		$(call data_of,$*) $(LAUNCH) $(PLACES) $(MORE_networks) || status=$$?; [ $$status -lt 128 ] || exit $$status;) \
		$(RUN) $(BIN)/invariance-distance -m $(TEMPLATE) $(STUDY)_distance of=$* $(PAIRS) \
		'features=$(FEATURES)' $(LAUNCH) $(PLACES) $(MORE_distance) || status=$$?; exit $$status
$(DATA:%=paper-finetune.%): paper-finetune.%:
	@$(RUN) $(BIN)/invariance-finetune -m $(TEMPLATE) $(STUDY)_finetune of=$* recipe=finetune_$* $(FINETUNED) $(LAUNCH) $(PLACES) $(MORE_finetune)
paper-cross:
ifdef HISTORICAL
ifeq ($(filter rvl_cdip,$(DATA)),)
	@echo "Fig. 10 is left out: it is of networks trained on RVL-CDIP, and DATA=$(DATA)"
else
	@[ -e '$(HISTORICAL)' ] || { echo "error: HISTORICAL=$(HISTORICAL): there is no such folder or archive" >&2; exit 2; }
	@$(RUN) $(BIN)/invariance-measure -m $(TEMPLATE) $(STUDY)_cross 'data.root=$(HISTORICAL)' $(WHICH) $(LAUNCH) $(PLACES) $(MORE_cross)
endif
else
	@echo "Fig. 10 is left out: give HISTORICAL=, a folder or an archive of page images"
endif
paper-report:
	@$(if $(DRY),echo,$(RUN)) $(BIN)/invariance-report 'out=$(REPORT)' $(LOGGER) $(PLACES) $(ARGS_report)

# what the commands of the study are given, for invariance-plan, which looks at all of them at once and has some keys of its own
text = '$(subst $(quote),'\'',$(1))'
said = $(subst ",\",$(strip $(1)))
root_of = $(if $(filter-out $(firstword $(DATA)),$(1)),$(comma))$(1):$(if $($(call upper,$(1))),"$($(call upper,$(1)))",null)
OWN := $(MODEL) $(RECIPE) trainer=% trainer.% seconds=% cross=% json=% templates=% progress=%
given = $(call said,$(LAUNCH) $(filter-out $(OWN),$(ARGS)) $(ARGS_$(1)) $(2))
EACH = networks:"$(call given,networks,$(NETWORK))",measure:"$(call given,measure,$(WHICH))",distance:"$(call \
	given,distance)",finetune:"$(call given,finetune,$(FINETUNED))",cross:"$(call given,cross,$(if \
	$(HISTORICAL),'data.root=$(HISTORICAL)') $(WHICH))"
WHOLE = study=$(STUDY) 'data=[$(call listed,$(DATA))]' $(if $(TOY),count=true) $(if $(KEEP),keep=true) \
	$(call text,roots={$(subst $(space)$(comma),$(comma),$(foreach data,$(DATA),$(call root_of,$(data))))}) \
	$(call text,args={$(EACH)}) $(PLACES) $(filter $(OWN),$(ARGS))

paper-check: $(VENV)/installed
	@$(BIN)/invariance-plan check=true launcher=$(LAUNCHER) 'features=$(FEATURES)' $(WHOLE)

plan:
	$(if $(findstring [,$(GPUS)),$(error GPUS=$(GPUS): give a plan how many))$(BIN)/invariance-plan \
		$(if $(GPUS),gpus=$(GPUS)) $(WHOLE)

status:
	$(BIN)/invariance-status 'runs=$(RUNS)'
