# Everything runs from .venv, which devstack/bootstrap.sh makes (and mends) with what a fresh machine lacks.
# No Docker is needed for anything but compose-up and compose-down.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit chaos lint format bench up down compose-up compose-down clean

VENV := .venv
PYTHON := $(VENV)/bin/python
COMPOSE := docker compose
ARGS ?=
# Processes of tests side by side, each with a stack of its own of 3 GB; 0 is one without xdist.
JOBS ?= 2

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with all that the project, its tests and its linters need.
	@devstack/bootstrap.sh

demo: setup ## Start real services, move 60,000 rows, overload the source, prove the result. ARGS="--rows 200000" for more.
	@$(PYTHON) -m devstack.demo $(ARGS)

test: setup ## All tests; starts the services they need, once for each of JOBS (2). ARGS="-k name" for some.
	@$(PYTHON) -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

test-unit: setup ## The tests that need no service, in seconds.
	@$(PYTHON) -m pytest tests/unit $(ARGS)

chaos: setup ## Random faults for CHAOS_S seconds (180) against real workers, then the proof. CHAOS_SEED repeats a draw.
	@$(PYTHON) -m tests.chaos $(ARGS)

lint: setup ## ruff and mypy; both must be silent.
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

format: setup ## Put the code into ruff's form.
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

bench: setup ## Benchmarks, each against a baseline or a bound. ARGS="memory" for one.
	@$(PYTHON) -m benchmarks $(ARGS)

up: setup ## Start the development stack; settings for it are in .devstack/env. ARGS="--no-phoenix" for less.
	@$(PYTHON) -m devstack up $(ARGS)

down: ## Stop the development stack, within 10 s; its data stays.
	@if test -x $(PYTHON); then $(PYTHON) -m devstack down; else echo "nothing to stop: there is no $(VENV)"; fi

compose-up: ## docker compose: build the images, start everything, wait until it is healthy.
	@test -f .env || { echo "there is no .env: cp .env.example .env, then set the passwords in it" >&2; exit 2; }
	@$(COMPOSE) up --build --detach --wait

compose-down: ## docker compose: stop everything; the volumes stay.
	@$(COMPOSE) down

clean: ## Stop the development stack, delete its state and all caches; .venv stays.
	@if test -x $(PYTHON); then $(PYTHON) -m devstack wipe; fi
	@for beside in .devstack-*; do if test -d "$$beside"; then DEVSTACK_DIR="$$beside" $(PYTHON) -m devstack wipe; fi; done
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov build
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
