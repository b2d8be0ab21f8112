# make install     .venv with everything to run and to test     make test         the tests that need no SLURM
# make reproduce   the paper's claims at scale `tiny`            make test-slurm   those that do, on a SLURM started for them
# make lint        ruff and mypy                                                   (installs it; root or passwordless sudo)
# make lock        requirements.lock, from what .venv has
# make fuzz        damaged files by the thousand, none of which may crash the suite (minutes; FUZZ="--mutants 2000": fewer)
# make bench       our speed against that of others, in an environment of its own, .venv-bench; BAGEL=FOLDER: a clone of BAGEL too
#
# With any of them (docs/install.md says more):
# INDEX=cpu          torch for CPUs; INDEX=none: the build that pip takes, on Linux with CUDA; INDEX=URL: one more index for pip
# PYTHON=python3.12  what .venv is made with
VENV := .venv
BIN := $(VENV)/bin
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
  $$python -c '$(FITS)' 2>/dev/null && echo $$python && exit; done; echo python3)

# INDEX is what was asked for, else what .venv was made with, else a guess: CPUs where nothing hints at CUDA, as NVIDIA's driver
# does, its containers, WSL, and clusters, whose compute nodes may have the GPUs that this machine lacks.
LINUX := $(filter Linux,$(shell uname))
HAS := $(shell cat $(VENV)/.index 2>/dev/null)
ASKED := $(filter-out undefined,$(origin INDEX))
ifndef ASKED
INDEX := $(or $(HAS),$(shell \
  for name in nvidia-smi sinfo squeue qsub bsub; do command -v $$name >/dev/null && echo none && exit; done; \
  for file in /proc/driver/nvidia/version /dev/dxg; do test -e $$file && echo none && exit; done; \
  test -n "$$NVIDIA_VISIBLE_DEVICES" && echo none || echo cpu))
endif
override INDEX := $(or $(if $(LINUX),$(INDEX),$(filter-out cpu,$(INDEX))),none)
URL := $(findstring ://,$(INDEX))
$(if $(filter cpu none,$(INDEX))$(URL),,$(error INDEX=$(INDEX): must be cpu, none or the URL of a package index))

PIP := $(BIN)/python -m pip install --quiet $(if $(URL),--extra-index-url "$(INDEX)")
CPU_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
LOCK := requirements.lock
TORCH := $(shell sed -n '/^torch==/p' $(LOCK))
TORCHVISION := $(shell sed -n '/^torchvision==/p' $(LOCK))
CPU := for CPUs: 0.4 GB to download, 1.5 GB on disk with all the rest
CUDA := as pip takes it, on Linux with CUDA: 2.9 GB to download, 5.3 GB on disk with all the rest

.PHONY: install reproduce test test-slurm lint lock fuzz bench other-torch
.DELETE_ON_ERROR:

install: $(VENV)/.installed-dev

# A .venv without a working pip was left half-made, and is gone on with; one whose Python does not start is made anew.
# torch goes first and alone, so that nothing else draws in another, larger build. The suffix +cpu keeps pip from taking another;
# where that build was a guess and cannot be had, a line says so, and pip takes what it finds.
$(VENV)/.installed: pyproject.toml $(LOCK)
	@if ! $(BIN)/python -m pip install --quiet --no-index pip >/dev/null 2>&1; then \
	  $(PYTHON) -c '$(FITS)' || { echo "error: $(PYTHON) is not Python 3.11 to 3.14; name one that is:" \
	    "make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }; \
	  $(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make environments; on Debian and Ubuntu:" \
	    "apt install $$($(PYTHON) -c 'import sys; print("python3.%i-venv" % sys.version_info[1])');" \
	    "or name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }; \
	  $(PYTHON) -m venv $$($(BIN)/python -c '' 2>/dev/null || echo --clear) $(VENV); \
	fi
	@$(BIN)/python -c '$(FITS)' || { echo "error: $(VENV) is not of Python 3.11 to 3.14; remove it: rm -r $(VENV)" >&2; exit 2; }
ifeq ($(INDEX),cpu)
	@test "$(HAS)" = cpu || echo "$(TORCH) $(CPU); $(CUDA): make INDEX=none $(MAKECMDGOALS)"
ifdef ASKED
	$(PIP) --no-deps $(CPU_INDEX) "$(TORCH)+cpu"
	@echo cpu > $(VENV)/.index
else
	@said=$$($(PIP) --no-deps $(CPU_INDEX) --retries 0 --timeout 15 "$(TORCH)+cpu" 2>&1) && \
	  echo cpu > $(VENV)/.index || \
	  { echo "not to be had here ($$(echo "$$said" | tail -n 1)); so, $(CUDA)"; \
	    $(PIP) --no-deps "$(TORCH)" && echo none > $(VENV)/.index; }
endif
else
	@test -z "$(LINUX)" || test "$(HAS)" = "$(INDEX)" || echo "$(TORCH) $(CUDA); $(CPU): make INDEX=cpu $(MAKECMDGOALS)"
	$(PIP) --no-deps "$(TORCH)"
	@echo "$(INDEX)" > $(VENV)/.index
endif
	$(PIP) --constraint $(LOCK) -e .
	@touch $@

# torchvision's operators fit torch of the same build alone.
$(VENV)/.installed-dev: $(VENV)/.installed
	@! grep -qsx cpu $(VENV)/.index || $(PIP) --no-deps $(CPU_INDEX) --retries 0 --timeout 15 "$(TORCHVISION)"
	$(PIP) --constraint $(LOCK) -e ".[dev]"
	@touch $@

# The peers of benchmarks/peers, which nothing else needs.
$(VENV)/.installed-peers: $(VENV)/.installed benchmarks/requirements.txt
	$(PIP) --constraint $(LOCK) -e ".[hub]" --requirement benchmarks/requirements.txt
	@touch $@

# Another build than .venv has takes its place.
ifdef ASKED
ifneq ($(INDEX),$(HAS))
$(VENV)/.installed: other-torch
other-torch:
	@! test -x $(BIN)/python || $(BIN)/python -m pip uninstall --quiet --yes torch torchvision 2>/dev/null || true
endif
endif

reproduce: $(VENV)/.installed
	$(BIN)/rf-repro reproduce --scale tiny

test: install
	$(BIN)/python -m pytest -m "not slurm" -n auto --dist loadscope --no-loadscope-reorder

test-slurm: install
	RF_REPRO_NEEDS_SLURM=1 tests/cluster/run.sh $(BIN)/python -m pytest -m slurm tests/slurm_cluster

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without the builds' suffixes, and without what was installed from a file or a repository.
lock: install
	{ grep '^#' $(LOCK); $(BIN)/python -m pip freeze --exclude-editable | sed -n 's/^\([^#@ ]*==[^+]*\).*/\1/p'; } > $(LOCK).new
	mv $(LOCK).new $(LOCK)

fuzz: install
	$(BIN)/python -m tests.fuzz $(FUZZ)

bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench MAKECMDGOALS=bench .venv-bench/.installed-peers
	@mkdir -p bench
	.venv-bench/bin/python -m benchmarks.peers $(if $(BAGEL),--bagel "$(BAGEL)") --out bench/peers.json
