# Everything a clone needs: `make demo` and `make test` set up what they use, inside the clone.
PYTHON ?= python3
UV_VERSION := 0.13.8
UV := .uv/bin/uv
BIN := .venv/bin
export VLLM_CONSOLE_ENGINES ?= $(CURDIR)/.engines
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv

.PHONY: demo test check shots bench bench-gateway bench-history faults setup engine clean help

help:            ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.ready-runtime      ## a live fleet of real vLLM workers, with traffic, in the console
	@$(BIN)/vllm-console demo $(ARGS)

test: setup engine              ## every test, real vLLM included
	@$(BIN)/pytest -q $(ARGS)

check: setup                    ## lint, types, borders, lock
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/check_lock.py
	@$(BIN)/python scripts/check_tree.py

shots: setup                    ## the PNGs in screenshots/, from a scripted fleet
	@$(BIN)/python scripts/screenshots.py

bench: setup engine             ## every figure of the README, one table each
	$(BIN)/python benchmarks/status_cost.py
	$(BIN)/python benchmarks/console_cost.py --fleet benchmarks/four.toml
	$(BIN)/python benchmarks/ready_overhead.py -n 5 --model tiny-chat
	$(BIN)/python benchmarks/daemon_restart.py
	$(BIN)/python benchmarks/nvml_cost.py
	$(BIN)/python -m benchmarks.supervisor_cost
	$(BIN)/python -m benchmarks.console_paint
	$(BIN)/python -m benchmarks.key_to_paint
	$(BIN)/python benchmarks/first_token.py

faults: setup engine            ## what becomes of a fleet under faults, one table (ARGS=--fake-only)
	$(BIN)/python -m benchmarks.faults $(ARGS)

bench-history: setup engine     ## what history costs and how fast it answers (ARGS=--prometheus PATH)
	$(BIN)/python benchmarks/scrape_cost.py --part parse,hung
	$(BIN)/python benchmarks/quantile_error.py
	$(BIN)/python -m benchmarks.history $(ARGS)
	$(BIN)/python -m benchmarks.history.questions $(ARGS)
	$(BIN)/python benchmarks/real_percentiles.py

bench-gateway: setup engine     ## the gateway beside other routers, under faults, on real vLLM
	$(BIN)/python -m benchmarks.gateway $(ARGS)
	$(BIN)/python -m benchmarks.gateway.streams
	$(BIN)/python -m benchmarks.gateway.priority
	$(BIN)/python -m benchmarks.gateway.chaos
	$(BIN)/python -m benchmarks.gateway.chaos --fleet
	$(BIN)/python -m benchmarks.gateway.fuzz
	$(BIN)/python -m benchmarks.gateway.real

engine: setup
	@$(BIN)/vllm-console engines install cpu

setup: .venv/.ready

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vllm-console needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.11")'
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.ready: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet --compile-bytecode --python $(PYTHON)
	@$(BIN)/python -m compileall -q vllm_console
	@touch .venv/.ready .venv/.ready-runtime

.venv/.ready-runtime: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet --compile-bytecode --no-dev --python $(PYTHON)
	@$(BIN)/python -m compileall -q vllm_console
	@rm -f .venv/.ready && touch .venv/.ready-runtime

clean:           ## remove what make made (the engine environments too)
	@rm -rf .uv .venv .engines dist build
