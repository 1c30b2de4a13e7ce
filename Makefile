# Needs Python 3.11 or newer and nothing else; every target first makes .venv where there is none.
PYTHON ?= python3
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo docs test test-slow test-peers lint format clean

demo: $(READY)  ## rank real documents with the released model, in under two minutes; writes demo_output/
	$(BIN)/mice-st demo

docs: $(READY)  ## the documentation as a site in build/docs; a link that leads nowhere ends it
	$(BIN)/python -m mkdocs build

# One process per core with one thread each, a file at a time: fixtures of a file are made once.
test: $(READY)  ## the quick tests, without network
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(PYTEST_ARGS)

test-slow: $(READY)  ## the tests that train, build the wheel or run the demo
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-peers: $(READY)  ## transformers' own common model tests on every type of backbone; see docs/peers.md
	$(BIN)/python scripts/peers/run.py

lint: $(READY) build/typing/mice_st/modeling  ## ruff, its formatter, mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# mypy knows a package by where its files lie: modeling/ has to lie under mice_st/ for it.
build/typing/mice_st/modeling:
	mkdir -p $(@D)
	ln -s ../../../modeling $@

# Done again whenever the dependencies change. torch comes first so that the largest download is cached on its own.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mice-st needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:  ## what the targets made, .venv excepted
	rm -rf build dist demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
