# Two commands: `make search` runs the main job, `make test` the tests; both set up what they need, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Trials are processes of one thread each; the tests compare bits.
export OMP_NUM_THREADS := 1

.PHONY: setup search test lint typecheck bench clean

setup: $(STAMP)

# The constraints pin the tested versions. auto_LiRPA comes without its dependencies: its only release in the registry
# pins torch < 1.13, though its code runs on current torch.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsevlr needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[mnist-5k,sensors,test,lint]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps auto_LiRPA==0.3
	touch $@

search: setup
	$(BIN)/sparsevlr search digits

# Two processes: tests of whole searches wait for Ray more than they compute.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# On the built package, not on the sources: a module that is missing from the wheel fails here.
typecheck: setup
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/typecheck .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/typecheck/site \
		build/typecheck/sparsevlr-*.whl
	MYPYPATH=build/typecheck/site $(BIN)/mypy --config-file pyproject.toml \
		-p sparsevlr.spaces -p sparsevlr.trainables -p sparsevlr.results -p sparsevlr.search

bench: setup
	@echo "one command per figure: see benchmarks/README.md"

clean:
	rm -rf build $(VENV)
