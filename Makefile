PYTHON ?= python3.11
# the first of these that runs
PYTHON_ARVIZ1 ?= $(shell for p in python3.12 python3.13 "$$(pyenv root 2>/dev/null)"/versions/3.1[23]*/bin/python; do \
	"$$p" -c "" 2>/dev/null && echo "$$p" && break; done)
BIN = .venv/bin

.PHONY: demo test test-slow test-compiled test-arviz1 python-arviz1 fuzz lint bench bench-posteriors bench-hierarchical bench-verdict docs docs-quick test-docs clean

# The environment is made once, and again when what it is made from changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: .venv/installed
	$(BIN)/python examples/eight_schools.py

test: .venv/installed
	$(BIN)/python -m pytest -n 2

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

# every fit of the tests and examples in Pyro, by replays and by Pyro
test-compiled: .venv/installed
	FITS_TWICE=1 $(BIN)/python -m pytest -n 1 -m slow tests/test_compile.py -k every_fit

# ArviZ 1.x wants Python 3.12: an environment of its own, with the newest JAX and NumPyro.
.venv-arviz1/installed: pyproject.toml constraints-arviz1.txt
	@test -n "$(PYTHON_ARVIZ1)" || { echo "ArviZ 1.x needs Python 3.12 or later: make test-arviz1 PYTHON_ARVIZ1=..."; exit 1; }
	$(PYTHON_ARVIZ1) -m venv .venv-arviz1
	.venv-arviz1/bin/pip install --quiet --disable-pip-version-check -c constraints-arviz1.txt torch
	.venv-arviz1/bin/pip install --quiet --disable-pip-version-check -c constraints-arviz1.txt \
		-e ".[pyro,numpyro,arviz]" pytest pytest-xdist scikit-learn funsor h5netcdf h5py
	touch $@

python-arviz1:
	@echo "$(PYTHON_ARVIZ1)"

test-arviz1: .venv-arviz1/installed
	.venv-arviz1/bin/python -m pytest -n 2 tests/test_arviz.py
	.venv-arviz1/bin/python -m pytest -n 2 -m "slow or not slow" tests/test_examples.py -k trains_its_flows

fuzz: .venv/installed
	$(BIN)/python -W error tests/fuzz_files.py
	$(BIN)/python tests/faults_of_saving.py

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python tests/benchmarks/training_step.py
	$(BIN)/python tests/benchmarks/inversion.py
	$(BIN)/python tests/benchmarks/svi_step.py
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/time_to_posterior.py --language numpyro
	$(BIN)/python tests/benchmarks/time_to_posterior.py --language pyro --targets eight_schools

bench-posteriors: .venv/installed
	$(BIN)/python tests/benchmarks/posteriors/run.py --language numpyro
	$(BIN)/python tests/benchmarks/posteriors/run.py --language pyro

bench-hierarchical: .venv/installed
	$(BIN)/python tests/benchmarks/hierarchical/run.py --language numpyro
	$(BIN)/python tests/benchmarks/hierarchical/run.py --language pyro

bench-verdict: .venv/installed
	mkdir -p out
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --language numpyro > out/verdict_numpyro.jsonl
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --language pyro --seeds 1 > out/verdict_pyro.jsonl
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --report out/verdict_numpyro.jsonl out/verdict_pyro.jsonl

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

SPHINX = $(BIN)/python -m sphinx -b html -W --keep-going docs

# what is written into the sources from the code, then the site, docs/_build/full/html; what ran once is kept
docs: .venv/installed-docs
	$(BIN)/python docs/make_layers.py
	$(BIN)/python docs/make_stubs.py
	$(BIN)/python docs/make_figures.py
	$(SPHINX) docs/_build/full/html

# the same site with twenty steps a fit, to see whether everything runs
docs-quick: .venv/installed-docs
	DOCS_STEPS=20 $(SPHINX) docs/_build/quick/html

# the site of `make docs` in headless Chromium (CHROMIUM=...), pictures in out/site
test-docs: .venv/installed-docs
	$(BIN)/python -m pytest tests/site_in_browser.py

clean:
	rm -rf .venv .venv-arviz1 out docs/_build docs/_runs docs/api
