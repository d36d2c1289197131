# `make` lists the targets. Nothing but Python 3.11+ and make is assumed.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
# Tests wait for as long as they work: two of them share a core.
WORKERS = $(shell $(PYTHON) -c 'import os; print(2 * os.cpu_count())')

# What the tests start, dozens of times, is compiled once, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run ## Serve the demo on 127.0.0.1:8000, its data in ./var
	@exec $(BIN)/entitlements demo --port $(PORT)

test: .venv/dev ## Run every test, on SQLite and PostgreSQL
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

# A part of it, or what failed the last time: make soak ONLY="tests/faults/test_every_call.py -k sqlite", ONLY=--last-failed
soak: ONLY := tests/faults tests/scenarios/test_impact_of_many.py tests/graphql/test_fuzz.py
soak: .venv/dev ## Every fault at every call, every death, 10,000 webhooks, random lives and documents; some hours
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -v --soak $(ONLY)

bench: .venv/dev ## Measure, and print tables; some minutes
	PYTHONPATH=. $(BIN)/python tests/bench/bench_catalog.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_unlocks.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_webhooks.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_abuse.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_usage.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_migrations.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_access.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_consume.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_mixed.py
	PYTHONPATH=. $(BIN)/python tests/bench/bench_finance.py

lighthouse: .venv/dev ## What Lighthouse says of the portal and the console; some minutes
	PYTHONPATH=. $(BIN)/python tests/portal/lighthouse/scores.py

check: .venv/dev ## Lint, types, the house's import rules, the lock
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: .venv/dev ## Look for what is insecure in the code (bandit), and known to be in what is locked (pip-audit)
	$(BIN)/uv tool run bandit@1.9.4 -q -r entitlements graphql_schema -c pyproject.toml
	$(BIN)/uv tool run pip-audit@2.10.1 --strict --require-hashes --disable-pip -r requirements.lock

lock: .venv/dev ## Write the lock files anew from pyproject.toml
	$(BIN)/uv pip compile $(UPGRADE) $(LOCK) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile $(UPGRADE) $(LOCK) --extra otel --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
LOCK := -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

schema: .venv/dev ## Write graphql_schema/schema.graphql anew
	$(BIN)/python -m graphql_schema.schema > graphql_schema/schema.graphql

node: ## Install what some tests run in Node, where it is: an audit of GraphQL over HTTP, clients
	npm ci --prefix tests/node --no-audit --no-fund

wheel: .venv/dev ## Build the wheel into ./dist
	$(BIN)/python -m build --wheel --no-isolation

clean: ## Remove what was installed and built; the demo's data in ./var stays
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make run PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/run: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: help run test soak audit bench lighthouse check lock schema node wheel clean
