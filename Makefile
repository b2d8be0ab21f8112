# make install     .venv with everything to run and to test     make test         the tests that need no SLURM
# make reproduce   the paper's claims at scale `tiny`            make test-slurm   those that do, on a SLURM started for them
# make lint        ruff and mypy                                                   (installs it; root or passwordless sudo)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install reproduce test test-slurm lint
.DELETE_ON_ERROR:

install: $(VENV)/.installed-dev

# torch first and alone, by its pin, so that nothing else draws in a newer, larger build.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; give a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

reproduce: $(VENV)/.installed
	$(BIN)/rf-repro reproduce --scale tiny

test: install
	$(BIN)/python -m pytest -m "not slurm"

test-slurm: install
	RF_REPRO_NEEDS_SLURM=1 tests/cluster/run.sh $(BIN)/python -m pytest -m slurm tests/slurm_cluster

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
