PYTHON ?= python3.11
BIN = .venv/bin
# the first Python of a version that runs
find_python = $(shell for p in python$(1) "$$(pyenv root 2>/dev/null)"/versions/$(1).*/bin/python; do \
	"$$p" -c "" 2>/dev/null && echo "$$p" && break; done)
# the classifiers of pyproject.toml and the workflow name the same
PYTHONS = 3.11 3.12 3.13
CELLS = $(foreach version,$(PYTHONS),$(version)-oldest $(version)-newest)
ARVIZ1 ?= $(firstword $(foreach version,3.12 3.13,$(if $(call find_python,$(version)),$(version)-newest)))

.PHONY: demo test test-slow test-long test-compiled test-distributed test-matrix test-arviz1 python-arviz1 release-check fuzz lint bench bench-posteriors bench-hierarchical bench-verdict bench-exact bench-sbibm docs docs-quick test-docs clean

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
	$(BIN)/python -m pytest -n 2 -m "slow and not long"

test-long: .venv/installed
	$(BIN)/python -m pytest -n 2 -m long

# every fit of the tests and examples in Pyro, by replays and by Pyro
test-compiled: .venv/installed
	FITS_TWICE=1 $(BIN)/python -m pytest -n 1 -m slow tests/test_compile.py -k every_fit

# several processes and several devices
test-distributed: .venv/installed
	$(BIN)/python -m pytest -m "distributed or not distributed" tests/test_ranks.py tests/test_mesh.py

# An environment for a Python and the oldest or the newest dependencies, such as .venvs/3.12-oldest
.venvs/%/installed: pyproject.toml constraints-oldest.txt constraints-newest.txt
	@test -n "$(call find_python,$(firstword $(subst -, ,$*)))" || { echo "there is no Python for $*"; exit 1; }
	$(call find_python,$(firstword $(subst -, ,$*))) -m venv .venvs/$*
	.venvs/$*/bin/pip install --quiet --disable-pip-version-check -c constraints-$(lastword $(subst -, ,$*)).txt torch
	.venvs/$*/bin/pip install --quiet --disable-pip-version-check -c constraints-$(lastword $(subst -, ,$*)).txt \
		-e ".[all,ode]" hypothesis pytest pytest-xdist scikit-learn funsor h5netcdf h5py zuko
	touch $@

# the core, both languages and ArviZ in every cell, and a table; CELLS=3.12-oldest for one of them
test-matrix: $(CELLS:%=.venvs/%/installed)
	.venvs/$(firstword $(CELLS))/bin/python tests/matrix.py $(CELLS)

# ArviZ 1.x wants Python 3.12: the cell of the matrix that has it.
python-arviz1:
	@echo "$(ARVIZ1)"

test-arviz1: .venvs/$(or $(ARVIZ1),3.12-newest)/installed
	$(<D)/bin/python -m pytest -n 2 tests/test_arviz.py
	$(<D)/bin/python -m pytest -n 2 -m "not long" tests/test_examples.py -k "trains_its_flows and prior"

# An sdist with what it needs, and a wheel made from it; what an index would say; and every extra in an environment of
# its own, which runs a little of it away from the checkout
EXTRAS = none pyro numpyro arviz ode all
release-check: .venvs/release/installed
	rm -rf dist out/release
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venvs/release/bin/python -m build --outdir dist
	.venvs/release/bin/python -m twine check --strict dist/*
	.venvs/release/bin/python tests/release_check.py $(EXTRAS)

.venvs/release/installed: constraints.txt
	$(PYTHON) -m venv .venvs/release
	.venvs/release/bin/pip install --quiet --disable-pip-version-check -c constraints.txt build twine
	touch $@

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

bench-exact: .venv/installed
	$(BIN)/python tests/benchmarks/exact/posteriors.py --language numpyro
	$(BIN)/python tests/benchmarks/exact/posteriors.py --language pyro
	$(BIN)/python tests/benchmarks/exact/modes.py --language numpyro
	$(BIN)/python tests/benchmarks/exact/modes.py --language pyro
	$(BIN)/python tests/benchmarks/exact/honest.py
	$(BIN)/python tests/benchmarks/exact/evidence.py

SBIBM = $(BIN)/python tests/benchmarks/sbibm.py
bench-sbibm: .venv/installed
	$(SBIBM) --language numpyro --simulations 1000,10000
	$(SBIBM) --language numpyro --simulations 100000 --tasks two_moons,gaussian_mixture,bernoulli_glm,slcp
	$(SBIBM) --language pyro --simulations 1000,10000 --tasks two_moons,slcp
	$(SBIBM) --language numpyro --simulations 10000 --tasks gaussian_mixture,gaussian_linear,gaussian_linear_uniform,bernoulli_glm --correct steps
	$(SBIBM) --language numpyro --simulations 10000 --tasks two_moons,slcp --correct exact

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
	rm -rf .venv .venvs dist out docs/_build docs/_runs docs/api
