# Two commands on a fresh machine: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-all test-slow test-family test-times lint docs bench systems claims-check dist sbom audit constraints lowest clean
help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# PINNED=1 installs the versions of constraints.txt, as CI and the Docker image do.
INSTALL := $(BIN)/python -m pip install --quiet $(if $(PINNED),--constraint constraints.txt)

$(VENV)/.use: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[weights,serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.use

install: $(VENV)/.use ## a virtual environment with everything that a user needs

demo: $(VENV)/.use ## curate, train, evaluate and search real data, then write runs/demo/report.html
	$(BIN)/diptych demo

# Compiled files are kept, also where the shell says otherwise: without them workers spend a minute compiling tests, and so does each program
# that a test starts.
export PYTHONDONTWRITEBYTECODE :=
# A worker more than there are cores, each with one thread (1.5 GiB): tests that wait for a process or a port leave cores idle otherwise.
# The tests of a file stay together, since they share what is trained once. tests/conftest.py puts files into order.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev ## the fast tests, in parallel
	@$(BIN)/python -m compileall -q -j 0 src # once, and not by each worker
	$(PARALLEL) -m 'not slow'

test-all: test test-slow ## every test, the slow ones too

SLOW_LEDGER ?= runs/slow-tests.jsonl
test-slow: $(VENV)/.dev ## the slow tests that have not passed yet: MINUTES=10 stops after ten, the same command goes on; SLOW_LEDGER keeps the results
	OMP_NUM_THREADS=1 $(BIN)/python scripts/test_times.py --slow --ledger $(SLOW_LEDGER) --minutes $(or $(MINUTES),0)

test-family: $(VENV)/.dev ## the fast tests of one family: make test-family FAMILY=contrastive
	$(PARALLEL) -m 'not slow' $(or $(wildcard tests/*/$(FAMILY)),$(error no tests of family '$(FAMILY)'; there are: $(sort $(notdir $(wildcard tests/*/*/.)))))

test-times: $(VENV)/.dev ## processor seconds of the fast tests by folder, file, system and fixture: make test-times, or with FAMILY=contrastive
	OMP_NUM_THREADS=1 $(BIN)/python scripts/test_times.py $(wildcard tests/*/$(FAMILY))

lint: $(VENV)/.dev ## style, types, import order of the rooms, plain words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_language.py

docs: $(VENV)/.dev ## build the site into site/
	$(BIN)/mkdocs build --strict

claims-check: $(VENV)/.dev ## whether verdicts still speak about the code: traces those whose code changed (nightly; minutes)
	OMP_NUM_THREADS=1 $(BIN)/diptych claims check

systems: $(VENV)/.dev ## compute which systems work and the lists in the docs
	$(BIN)/python scripts/make_systems.py
	$(BIN)/python scripts/docs_lists.py
	$(BIN)/python scripts/public_names.py

bench: $(VENV)/.dev ## measure speed against peers into benchmarks/results/CLASS/, then docs/how-fast.md; PLAIN=1 keeps to AVX2
	$(BIN)/python benchmarks/run_all.py $(if $(PLAIN),--plain)

dist: $(VENV)/.dev ## wheel and sdist in dist/, installed and tried in a fresh environment; BORROW=1 uses the packages that are here
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python scripts/check_dist.py dist $(if $(BORROW),--borrow)
sbom: $(VENV)/.use ## what is installed with Diptych, by version, licence and SHA-256 of weights: dist/sbom.cdx.json (CycloneDX)
	$(BIN)/python scripts/make_sbom.py

audit: $(VENV)/.use ## known vulnerabilities of what is installed, by pip-audit (asks pypi.org)
	test -x $(VENV)-audit/bin/pip-audit || ($(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet 'pip-audit>=2.7')
	$(VENV)-audit/bin/pip-audit --skip-editable --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

UV := $(VENV)-uv/bin/uv
$(UV):
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/pip install --quiet 'uv>=0.8'

constraints: $(VENV)/.dev | $(UV) ## the versions that are installed and tested here, and the lowest that are declared, into constraints*.txt
	$(BIN)/python -m pip freeze --exclude-editable | grep == | sed 's/+[a-z0-9.]*$$//' > $(VENV)/installed.txt
	$(UV) pip compile --quiet pyproject.toml --extra dev --python $(BIN)/python --constraint $(VENV)/installed.txt \
		--no-annotate --no-header --output-file constraints.txt
	$(UV) pip compile --quiet pyproject.toml --extra dev --python $(BIN)/python --resolution lowest-direct \
		--no-annotate --no-header --upgrade --output-file constraints-lowest.txt

LOWEST := $(VENV)-lowest/bin/python
lowest: | $(UV) ## smoke tests with the lowest declared versions, in an environment of their own (with torch for CUDA: 7 GiB)
	test -x $(LOWEST) || $(UV) venv --quiet --python $(PYTHON) $(VENV)-lowest
	$(UV) pip install --quiet --python $(LOWEST) --constraint constraints-lowest.txt --editable '.[weights,serve,adapters]' \
		pytest pytest-timeout hypothesis
	OMP_NUM_THREADS=1 $(LOWEST) -m pytest -m 'not slow' tests/recipes/contrastive/test_clip.py tests/train/test_fit.py \
		tests/index/test_index_life.py tests/models/towers tests/cli/test_run_command.py \
		--ignore tests/models/towers/test_beit.py # names weights as newer transformers do

clean: ## remove the environment and what was built
	rm -rf $(VENV) $(VENV)-audit $(VENV)-uv $(VENV)-lowest site dist build
