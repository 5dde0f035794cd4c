# Everything runs in .venv, which the first target makes: Python >= 3.11, pip and make are all that is needed.
# One thread of linear algebra per process: the tests run in as many processes as asked for with JOBS.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
OUT ?= demo-output
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
SOURCES := src tests benchmarks scripts train_few.py train_zero.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider

.PHONY: help demo test test-slow check format bench bench-gpu bench-accuracy install clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wordsight needs Python 3.11 or newer; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## make .venv and install wordsight with all that its tests need

demo: $(STAMP)  ## synthetic images, few-shot training on the CPU, a report; results in demo-output/ (OUT=... elsewhere)
	$(BIN)/wordsight demo --out $(OUT)

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy --strict
	$(PYTEST) -q tests/unit/test_layers.py tests/unit/test_house.py

test: $(STAMP)  ## all tests but the slow ones; warnings are errors
	$(PYTEST) -q -m 'not slow' -n $(JOBS) --dist loadfile --durations 10

# Exit status 5 means that no test has the marker, which is no failure.
test-slow: $(STAMP)  ## full-size networks and whole tutorials; parity tests need the optional reference folder
	$(BIN)/python -m pytest -p no:cacheprovider -q -m slow --durations 10 || test $$? -eq 5

format: $(STAMP)  ## format and apply the safe fixes
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# Timings need a machine that does nothing else. benchmarks/full_size.py and benchmarks/real_data.py need much memory or
# data of your own: run them by hand.
bench: $(STAMP)  ## speed in full size against the published order, files, precision; tables in OUT; 25 minutes
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/phantoms.py
	$(BIN)/python benchmarks/carzero_speed.py --json $(OUT)/carzero_speed.json
	$(BIN)/python benchmarks/carzero_files.py --json $(OUT)/carzero_files.json
	$(BIN)/python benchmarks/precision.py --json $(OUT)/precision.json
	$(BIN)/python benchmarks/carzero_training.py --quick --json $(OUT)/carzero_training.json
	$(BIN)/python benchmarks/mla_speed.py --steps 5 --json $(OUT)/mla_speed.json

bench-gpu: $(STAMP)  ## the same on a CUDA device in bf16: rates, shares of the matmul peak, memory, training at full size
	$(BIN)/python benchmarks/throughput.py --device cuda --json $(OUT)/gpu_throughput.json
	$(BIN)/python benchmarks/carzero_training.py --device cuda --json $(OUT)/gpu_carzero_training.json
	$(BIN)/python benchmarks/precision.py --device cuda --json $(OUT)/gpu_precision.json
	$(BIN)/python benchmarks/carzero_speed.py --device cuda --json $(OUT)/gpu_carzero_speed.json
	$(BIN)/python benchmarks/mla_speed.py --device cuda --json $(OUT)/gpu_mla_speed.json

bench-accuracy: $(STAMP)  ## quick accuracy table of MLA-LP on phantoms
	$(BIN)/python benchmarks/phantoms_mla.py --quick --json $(OUT)/phantoms_mla.json

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
