# Needs Python 3.11+ with pip, and make. `make PYTHON=python3.12 setup` picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= auto
READY := .venv/.ready
CODE := $(strip $(foreach folder,src apps bench tests tools,$(if $(shell find $(folder) -name '*.py' 2>/dev/null),$(folder))))
LOCK_TOOL := pip-tools==7.6.2
LOCK := .venv-lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-config --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test check format-check lint types layers sizes docs screenshots bench format lock build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Prepare .venv from the locked requirements
	@echo ".venv is ready"

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Headwater needs Python 3.11 or newer; name one with: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { \
		echo "$(PYTHON) has no pip; install it (Debian, Ubuntu: apt install python3-pip)" \
			"or name a Python that has one: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --require-hashes -r requirements-dev.txt
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

run: $(READY) ## Start the server and play the tour; ONCE=1 ends after it
	@$(BIN)/headwater tour $(if $(ONCE),--once)

test: $(READY) ## Run the whole test suite; JOBS=1 in one process
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

check: format-check lint types layers sizes docs ## Check format, lint, types, layers, sizes and docs

format-check: $(READY)
	$(BIN)/ruff format --check $(CODE)

lint: $(READY)
	$(BIN)/ruff check $(CODE)

types: $(READY)
	$(BIN)/mypy $(CODE)

layers: $(READY)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_apps.py

sizes: $(READY)
	$(BIN)/python tools/check_sizes.py $(CODE)

docs: $(READY)
	$(if $(wildcard tests/docs),$(BIN)/python -m pytest tests/docs/test_reference.py tests/docs/test_security.py -q)

screenshots: $(READY) ## Write the pictures of the console, light and dark
	$(BIN)/python -m tools.screenshots

bench: $(READY) ## Run the benchmarks
	$(BIN)/python -m bench
	$(BIN)/python -m bench --engine postgres

format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lock: ## Pin the requirements, with hashes; UPGRADE=--upgrade takes the newest
	$(PYTHON) -m venv --clear --without-pip .venv-lock
	$(PYTHON) -m pip --python .venv-lock/bin/python install --quiet pip $(LOCK_TOOL)
	$(LOCK) $(UPGRADE) --output-file requirements.txt pyproject.toml
	$(LOCK) $(UPGRADE) --output-file requirements-dev.txt pyproject.toml requirements-dev.in
	sed -i.orig '1i\
# made by make lock' requirements.txt requirements-dev.txt
	rm -f requirements.txt.orig requirements-dev.txt.orig

build: $(READY) ## Build the wheel into dist/
	$(BIN)/python -m build --no-isolation --wheel

clean: ## Remove the environment, caches and builds
	rm -rf .venv .venv-lock build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
