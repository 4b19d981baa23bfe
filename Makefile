# ovbench: `make demo` and `make test` are all that a fresh machine needs. `make help` lists every verb.
# On a machine without an NVIDIA card, `make demo CPU=1` takes PyTorch's CPU build, which is gigabytes smaller.

SHELL    := /bin/bash
# The first Python on the path that is new enough; override with `make PYTHON=/path/to/python demo`.
PYTHON   ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
              $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV     := .venv
BIN      := $(VENV)/bin
# Processes that share the tests; a file stays in one of them.
TEST_JOBS ?= 2
ENCODERS := ovis3 clip siglip random
PIP_ARGS := --disable-pip-version-check --quiet -c constraints.txt
ifdef CPU
# One retry: where that index cannot be reached, pip would otherwise wait for it again for every package.
PIP_ARGS += --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo check test slow golden speed wheel clean

help:  ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on the path; name one: make PYTHON=/path/to/python ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of packages: an installed environment is not touched again until its inputs change.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing ovbench into $(VENV) (a few minutes, once)"
	$(BIN)/python -m pip install $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing ovbench and its development tools into $(VENV) (a few minutes, once)"
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/.core

setup: $(VENV)/.dev  ## virtual environment with everything that the other verbs need

demo: $(VENV)/.core  ## the main job: four encoders on understanding, comparison tables, report.html
	$(BIN)/ovbench run $(foreach name,$(ENCODERS),--encoder $(name)) --suite understanding
	$(BIN)/ovbench leaderboard --suite understanding $(foreach kind,csv md tex html,--export leaderboard.$(kind))
	$(BIN)/ovbench report --out report.html

check: $(VENV)/.dev  ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: $(VENV)/.dev  ## the default tests; ARGS="-k name" passes options to pytest
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(ARGS)

slow: $(VENV)/.dev  ## the tests that take longer than ten seconds
	$(BIN)/python -m pytest -m "slow and not gpu and not network" $(ARGS)

golden: $(VENV)/.dev  ## rewrite tests/golden from what the code gives now, and show the difference
	$(BIN)/python -m pytest -q --update-golden $(ARGS)
	git --no-pager diff -- tests/golden

speed: $(VENV)/.dev  ## run the speed measurements, one JSON object each
	@set -e; for script in scripts/speed_*.py; do $(BIN)/python $$script; done

wheel: $(VENV)/.dev  ## build dist/*.whl and refuse one of 20 MB or more
	rm -rf dist
	$(BIN)/python -m build --wheel
	@find dist -name '*.whl' -size +19999999c | (! grep .) || { echo "error: the wheel is 20 MB or more" >&2; exit 1; }

clean:  ## remove the virtual environment, builds and tool caches; runs and cached results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
