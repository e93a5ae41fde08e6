.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
PYTHON := $(VENV)/bin/python
BASE_PYTHON := $(shell command -v python3.11 || command -v python3)
PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt
ROOMS := pictures guidance pipelines explain emoji evaluation debug scripts
TYPES := build/types
# Nothing here may wait for a network: the models are in the repository.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
BROWSERS := $(HEEDFUL_CHROMIUM) chromium chromium-browser google-chrome google-chrome-stable chrome

.PHONY: help demo test lint format clean types chromium
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runs ## Install, then draw "a cat and a frog" plain and guided into out/demo
	$(OFFLINE) $(VENV)/bin/heedful generate "a cat and a frog" --out out/demo

test: $(VENV)/.develops chromium ## Install what development needs, then run the tests (ARGS="-k name" to choose)
	$(OFFLINE) $(PYTHON) -m pytest -n logical --dist loadfile $(ARGS)

lint: $(VENV)/.develops types ## Check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	cd $(TYPES) && MYPYPATH=. $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p heedful

format: $(VENV)/.develops ## Put the code into the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# For the tests of the page alone: without it they are skipped, and under CI they fail.
chromium: ## Install the browser that tests the page, where it is missing and apt-get can
	@for name in $(BROWSERS); do command -v "$$name" >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0; \
	fi; \
	echo "no Chromium, so the page is not tested: install one (as root: apt-get install chromium)," \
		"or name yours: make test HEEDFUL_CHROMIUM=/path/to/chrome" >&2

clean: ## Remove what was built, not the environment
	rm -rf build dist out *.egg-info

$(PYTHON):
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heedful needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(BASE_PYTHON) -m venv $(VENV)

$(VENV)/.runs: pyproject.toml constraints.txt | $(PYTHON)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.develops: pyproject.toml constraints.txt | $(PYTHON)
	$(PIP_INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.runs

# A type checker follows folders, not the editable install's finder: give it the rooms as it expects them,
# and their code alone (the folder emoji/models holds weights and would hide emoji/models.py).
types:
	rm -rf $(TYPES)
	for file in $$(find $(ROOMS) -name '*.py'); do \
		mkdir -p "$(TYPES)/heedful/$$(dirname $$file)"; \
		ln -s "$(CURDIR)/$$file" "$(TYPES)/heedful/$$file"; \
	done
