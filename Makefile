# SPDX-License-Identifier: Apache-2.0
# `make` lists what there is. Nothing is needed but Python 3.11 or later: the database, Node and
# everything else come as Python packages into .venv, at exact versions and by their hashes.

# A distribution's Python is compiled with profiles; one that pyenv compiled is not, as a rule, and
# takes a quarter more time for the same Python.
PYTHON ?= $(shell for python in /usr/bin/python3 python3; do \
    $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
    break; done; echo $$python)
ARGS ?=
HOURS ?= 0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --root-user-action=ignore
# What stands on the database is tried on the machine's own PostgreSQL too, where there is one.
ORDINARY := $(wildcard /usr/lib/postgresql/*/bin/postgres)
ON_DATABASE := tests/base $(addprefix tests/rooms/, usage ledger identity) \
    $(addprefix tests/architecture/test_, tenancy.py migrations.py pool.py)
.DEFAULT_GOAL := help
.PHONY: help setup run dev test soak check fix bite corpus docs demo bench performance
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

help:
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/dev.stamp portal ## everything that running and testing need
	@$(BIN)/python tools/fetch_chromium.py

run: $(VENV)/run.stamp portal ## the whole system with demo data (ARGS="--port 8123 --data-dir X")
	@exec $(BIN)/nimbus serve --demo all $(ARGS)

dev: $(VENV)/dev.stamp ## as run, started anew on every change
	@exec $(BIN)/python tools/dev.py $(ARGS)

test: check ## the checks, then the tests (ARGS goes to pytest)
	$(BIN)/pytest -n 2 --dist loadscope $(ARGS)
	$(if $(ORDINARY),$(BIN)/pytest -n 2 --dist loadscope --postgres ordinary $(ON_DATABASE))

soak: setup ## the rigs at their full counts, an hour (HOURS=1: an hour of load more)
	$(BIN)/python tools/soak.py --hours $(HOURS) $(ARGS)

check: setup ## format, rules, types, import contracts, portal
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/web.py check

fix: setup ## repair format and what else can be repaired without a decision
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/web.py fix

corpus: setup ## hostile HTTP cases against a gateway (FILE=cases.json ONLY=id SPLITS=all)
	@$(BIN)/python -m tools.corpus $(if $(FILE),--file $(FILE)) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(SPLITS),--splits $(SPLITS)) $(ARGS)

bite: setup ## plant each known bug and see that its test finds it
	$(BIN)/python tools/bite.py $(ARGS)

docs: setup ## the reference pages that are generated from the code
	$(BIN)/python -m tools.generate_docs

demo: $(VENV)/run.stamp portal ## the main job, from registration to the invoice marked paid
	@exec $(BIN)/nimbus demo story $(ARGS)

bench: $(VENV)/run.stamp ## the gateway beside nginx and others (ARGS="--rounds 3 --only nginx,nimbus"), usage, bills
	@$(BIN)/nimbus bench gateway $(ARGS)
	@$(BIN)/nimbus bench usage
	@$(BIN)/nimbus bench bill

performance: bench ## bench, and its numbers into docs/reference/performance.md
	@$(BIN)/nimbus bench docs

# Built only when a file of web/ changed; also a part of the package's own build.
.PHONY: portal
portal: $(VENV)/run.stamp
	@$(BIN)/python tools/web.py build

# Stamps: a later make does again only what its inputs ask for.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Nimbus needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements/run.txt requirements/run.in pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@
