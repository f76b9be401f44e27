# Set-up, batch, tests and book. `make help` lists the targets.
PROFILE ?= quick
CORES ?= all
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
NOTEBOOKS := $(strip $(NOTEBOOK))
SEED_FLAG := $(if $(SEEDS),--seeds $(SEEDS))
SEED_CONFIG := $(if $(SEEDS),seeds=$(SEEDS))
BOOK_PROFILE := $(if $(filter command line environment,$(origin PROFILE)),--profile $(PROFILE))

SNAKEMAKE = $(BIN)/snakemake --profile workflow/local --cores $(CORES) \
  --config profile=$(PROFILE) notebooks="$(NOTEBOOKS)" $(SEED_CONFIG)

.DEFAULT_GOAL := help
.PHONY: help figures test lint book serve publish benchmarks clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "variables: PROFILE=smoke|quick|full|gpu  NOTEBOOK=03  SEEDS=3  CORES=2  PORT=8000"

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/embedood || echo "installing about 2 GB of packages into .venv: minutes, without a word"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all]"
	touch $@

figures: .venv/installed  ## run the notebooks of PROFILE (quick), or only NOTEBOOK=03
	@$(BIN)/embedood check $(NOTEBOOKS) --profile $(PROFILE) $(SEED_FLAG)
	@if ls .snakemake/locks/* >/dev/null 2>&1; then $(BIN)/snakemake --cores 1 --unlock --quiet all; fi
	@$(SNAKEMAKE) || { \
	  echo "still to do:" >&2; $(SNAKEMAKE) --dry-run --quiet rules; exit 1; }
	@$(BIN)/embedood status --profile $(PROFILE)

test: export EMBEDOOD_DATA ?= $(wildcard ../shared/data)
test: .venv/installed  ## all tests, with the real data of EMBEDOOD_DATA where there is some
	$(BIN)/python -m pytest -n 2 --dist loadscope

lint: .venv/installed  ## style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy embedood
	$(BIN)/codespell

book: .venv/installed  ## render the book; with PROFILE=quick from your own results
	$(BIN)/embedood book $(BOOK_PROFILE)

serve:  ## show the rendered book at http://localhost:8000
	@test -d build/book/html || { echo "no book yet: run 'make book' first"; exit 1; }
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory build/book/html

publish: .venv/installed  ## copy outputs and numbers of PROFILE into the book: PROFILE=full NOTEBOOK=03
	$(BIN)/embedood publish $(NOTEBOOKS) --profile $(PROFILE)

benchmarks: .venv/installed  ## measure every claim about speed
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean:  ## delete build/ (trained models stay in the run cache)
	rm -rf build .snakemake
