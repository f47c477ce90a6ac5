# `make demo` and `make test` work on a fresh clone: each sets everything up first.

PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test docs bench fuzz demo-model lint lock audit-deps sbom clean

setup: $(READY)

$(READY): pyproject.toml requirements.lock ops/setup/bootstrap.py
	$(PYTHON) ops/setup/bootstrap.py
	@touch $@

demo: $(READY)
	$(BIN)/python -m cli.demo

test: $(READY)
	$(BIN)/python -m pytest

# The pages with the parts that are made from the code, as a site in build/site. A broken link is an error.
docs: $(READY)
	$(BIN)/python -m ops.docs

# Every figure of the project, each a ratio of one run: about half an hour. One by itself: `python -m ops.bench.NAME`.
bench: $(READY)
	$(BIN)/penstock bench
	$(BIN)/python -m ops.bench.overhead
	$(BIN)/python -m ops.bench.first_token
	$(BIN)/python -m ops.bench.batches
	$(BIN)/python -m ops.bench.replays --jobs 100
	$(BIN)/python -m ops.bench.exact

fuzz: $(READY)
	$(BIN)/python -m ops.fuzz

demo-model: $(READY)
	$(BIN)/python -m ops.demo_model.train

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs uv. Names and versions only: no index, no path.
lock:
	$(UV) pip compile pyproject.toml --universal --python-version 3.11 --extra all --extra dev \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

# Asks PyPI's advisory service about every locked package; says so, and goes on, where that cannot be reached.
audit-deps: $(READY)
	$(BIN)/python -m ops.supply.audit

# The locked packages as a CycloneDX bill of materials. The same lock gives the same bytes.
sbom: $(READY)
	$(BIN)/python -m ops.supply.sbom sbom.cdx.json

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
