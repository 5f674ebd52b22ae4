PYTHON ?= python3.11
BIN = .venv/bin

.PHONY: demo test test-slow fuzz lint bench bench-posteriors bench-verdict docs clean

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

bench-posteriors: .venv/installed
	$(BIN)/python tests/benchmarks/posteriors/run.py --language numpyro
	$(BIN)/python tests/benchmarks/posteriors/run.py --language pyro

bench-verdict: .venv/installed
	mkdir -p out
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --language numpyro > out/verdict_numpyro.jsonl
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --language pyro --seeds 1 > out/verdict_pyro.jsonl
	$(BIN)/python tests/benchmarks/posteriors/verdict.py --report out/verdict_numpyro.jsonl out/verdict_pyro.jsonl

docs: .venv/installed
	$(BIN)/python docs/make_layers.py
	$(BIN)/python docs/make_stubs.py
	$(BIN)/python docs/make_figures.py

clean:
	rm -rf .venv out
