# make record   set up and run the default record        make test    set up, lint, run the tests
# make setup    only set up                              make bench   set up and run the benchmarks

RECORD ?= $(lastword $(sort $(wildcard records/cpu_5min_1mb/*_baseline)))

# The first of these that runs and is new enough. PYTHON=... on the command line chooses another one.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$each" && break; done)

# Python compiles what it imports when it does; all of it, most of which nobody imports, takes a minute.
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt

# Spinning threads make a step several times slower as soon as anything else wants a core.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: record test setup bench
.DELETE_ON_ERROR:

record: setup
	.venv/bin/golf run $(RECORD)

test: setup
	.venv/bin/ruff check golf tests records benchmarks
	.venv/bin/python -m pytest

bench: setup
	@for each in $$(grep -l __main__ benchmarks/*.py); do echo "== $$each" && .venv/bin/python "$$each" || exit 1; done

setup: .venv/.ready

# torch first and alone: the pinned version is the one every later requirement has to agree with.
.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "golf needs Python 3.11 or newer and found none: apt-get install python3, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $@
