# Two stages and the checks around them; `make help` lists the targets. Every stage skips what is done already.

TASKS   ?= cola mrpc rte
ENCODER ?= bert-base-cased
DATA    ?= hub
HEADS   ?= linear mlp effi_kan fast_kan faster_kan
SEEDS   ?= 0:5
CACHE   ?= cache
RUNS    ?= runs
DEVICE  ?= auto

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

empty :=
space := $(empty) $(empty)
comma := ,
list   = $(subst $(space),$(comma),$(strip $(1)))

DEMO_TASKS := cola sst2 mrpc

.PHONY: setup demo embed heads report all test coverage lint format docs bench clean help
.DEFAULT_GOAL := help

setup: $(VENV)/.installed  ## install the project and its checks into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps kan-gpt
	@touch $@

demo: setup  ## both stages on the bundled sample, with minilm: no network, a minute on two cores
	$(BIN)/python embed.py run $(DEMO_TASKS) --encoder minilm --data sample --cache $(CACHE)/sample --device $(DEVICE)
	$(BIN)/python fit_heads.py sweep --task $(call list,$(DEMO_TASKS)) --head $(call list,$(HEADS)) --encoder minilm \
		--seeds $(SEEDS) --cache $(CACHE)/sample --results $(RUNS)/results.sqlite --device $(DEVICE)
	@$(MAKE) --no-print-directory $(RUNS)/report.html CACHE=$(CACHE)/sample

embed: setup  ## stage one: TASKS with ENCODER from DATA into CACHE
	$(BIN)/python embed.py run $(TASKS) --encoder '$(ENCODER)' --data '$(DATA)' --cache $(CACHE) --device $(DEVICE)

heads: setup  ## stage two: HEADS on TASKS with SEEDS, from CACHE into RUNS
	$(BIN)/python fit_heads.py sweep --task $(call list,$(TASKS)) --head $(call list,$(HEADS)) --encoder '$(ENCODER)' \
		--seeds $(SEEDS) --cache $(CACHE) --results $(RUNS)/results.sqlite --device $(DEVICE)

report: setup $(RUNS)/report.html  ## the report on RUNS/results.sqlite: RUNS/report.html

$(RUNS)/report.html: $(wildcard $(RUNS)/results.sqlite)
	$(BIN)/python fit_heads.py report --results $(RUNS)/results.sqlite --cache $(CACHE) --out $@

all: embed  ## embed, then heads, then the report
	$(MAKE) heads
	$(MAKE) report

# One thread a worker: two that share a core spin on each other.
test: setup  ## the tests; GLUE_DIR=FOLDER adds those on real GLUE rows
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: setup  ## style, types, generated pages and the docs site, checked only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m docs.make_families --check
	$(BIN)/python -m docs.make_cli --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

coverage: setup  ## the tests, and which lines of pipeline/ none of them runs: build/coverage/index.html
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		--cov pipeline --cov-report term:skip-covered --cov-report html:build/coverage

format: setup  ## style and format, mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write the pages that come from the code, and the docs site into build/site
	$(BIN)/python -m docs.make_families
	$(BIN)/python -m docs.make_cli
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench: setup  ## how fast both stages run on this machine: two minutes
	$(BIN)/python embed.py bench --quick
	$(BIN)/python fit_heads.py bench --quick

clean:  ## remove caches, results and the environment
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find $(CACHE) $(RUNS) -mindepth 1 ! -name .gitignore -delete

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 10
	@echo 'variables: TASKS="$(TASKS)" ENCODER=$(ENCODER) DATA=$(DATA) HEADS="$(HEADS)" SEEDS=$(SEEDS)'
	@echo '           CACHE=$(CACHE) RUNS=$(RUNS) DEVICE=$(DEVICE)'
