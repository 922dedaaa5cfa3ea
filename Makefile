# Everything a contributor does, from a clean clone with Python 3.11+ and make. `make` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements.lock setup.py schemas/_codec.pyx
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Make .venv with the exact versions of requirements.lock

.PHONY: demo
demo: setup ## Start everything, place orders, kill a worker, print what was proved
	$(BIN)/orderflow demo

.PHONY: up
up: setup ## Start Kafka, registry, worker and edge on port 8080, with demo data; Ctrl-C stops
	$(BIN)/orderflow up --demo

.PHONY: test
test: setup ## All tests, on a real Kafka and registry started by the run itself
	$(BIN)/python -m pytest

.PHONY: test-unit
test-unit: setup ## The tests that need no Kafka
	$(BIN)/python -m pytest -m "not box"

.PHONY: coverage
coverage: setup ## Branch coverage of the rules: at least 95 %
	$(BIN)/python -m pytest -q tests/flow $(wildcard tests/unit/test_stock*.py tests/unit/test_order*.py tests/unit/test_fulfillment*.py tests/unit/test_channel*.py tests/unit/test_holds.py tests/unit/test_payment.py tests/unit/test_payment_[arw]*.py tests/unit/test_backorders.py tests/unit/test_cod.py tests/unit/test_disputes.py tests/unit/test_claims.py tests/unit/test_shortages.py tests/unit/test_undelivered.py tests/unit/test_sagas.py) --cov=orderflow.streams.domain --cov-branch --cov-report=term-missing --cov-fail-under=95

.PHONY: check
check: setup ## Format, lint, types, import contracts, schemas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.typing $(BIN)/lint-imports
	$(BIN)/orderflow schemas check

.PHONY: format
format: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: setup ## Generate docs/reference from the code
	$(BIN)/orderflow docs

.PHONY: bench-j1
bench-j1: setup ## The job of docs/benchmarks.md: exactly-once events per second on one core
	$(BIN)/orderflow bench j1

.PHONY: bench-micro
bench-micro: setup ## The parts of an event's cost beside their stored ratios; a dearer one is a warning
	$(BIN)/orderflow bench micro --quick

.PHONY: lock
lock: ## Resolve the ranges of pyproject.toml to requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable --exclude orderflow | LC_ALL=C sort -f > requirements.lock

.PHONY: clean
clean: ## Remove what was built or measured, not the caches of the box
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
