# Everything here works from a fresh clone: Python 3.10 or newer with its venv module, and make.
#   make demo     install the device package (no torch) and show what it does: demo-out/report.html
#   make test     also install what the host needs (torch), and run the tests; make test-slow those
#                 that take minutes, make test-all this one and the next three
#   make test-host     the tests of training, exporting, methods and benches
#   make test-engines  the tests of the compiler, the runtimes and where graphs are placed; the GPU
#                      suite without a GPU
#   make test-daemon   the daemon's tests: brokers, cameras, browsers, alert rules; what is not
#                      installed is skipped and named
#   make torture  a million damaged files (make fuzz alone does only that), every I/O call fails, a
#                 thousand kills, hostile streams (an hour)
#   make bundle   train and export the bundle that ships with the demo
#                 [DATA=folder with the four Fashion-MNIST files]
#   make newest   try the newest release of every dependency in an environment of its own, and say
#                 what it gave; never fails
#   make lint     make bench [SUITE=overhead]     make constraints     make clean
# Variables: PYTHON (interpreter), VENV (folder), PIP_FLAGS (options of pip install),
#   CONSTRAINTS (file of the versions that were tested; empty: the newest).

VENV ?= .venv
PIP_FLAGS ?=
SUITE ?= overhead
DATA ?=
CONSTRAINTS ?= constraints.txt
PYTHON ?= $(shell for p in python3.11 python3 python3.13 python3.12 python3.10; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && \
  { echo $$p; break; }; done)

BIN := $(VENV)/bin
QUIET := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(CONSTRAINTS:%=-c %) $(PIP_FLAGS)

NEWEST := VENV=.venv-newest CONSTRAINTS=

.PHONY: demo newest constraints test test-all test-host test-engines test-daemon test-slow \
  torture fuzz bundle lint bench clean device host

demo: device
	$(BIN)/edgeadapt demo --out demo-out

ENGINES := tests/host/compile tests/runtimes tests/placement tests/gpu_suite
TESTS := $(QUIET) $(BIN)/python -m pytest -x -n 2 --dist loadfile

test: host
	$(TESTS) $(ENGINES:%=--ignore %) --ignore tests/host --ignore tests/bench \
	  --ignore tests/daemon --ignore tests/deploy

test-all: test test-host test-engines test-daemon

test-host: host
	$(TESTS) --ignore tests/host/compile tests/host tests/bench

test-engines: host
	$(TESTS) $(ENGINES)

test-daemon: host
	$(TESTS) -rs tests/daemon tests/deploy

torture: host fuzz
	$(QUIET) $(BIN)/python tests/torture

fuzz: host
	$(QUIET) $(BIN)/python tests/fuzz --executions 1000000

test-slow: host
	$(QUIET) $(BIN)/python -m pytest -m slow

bundle: host
	$(QUIET) $(BIN)/python tools/make_demo_bundle.py $(if $(DATA),--data "$(DATA)")

lint: host
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

bench: host
	$(QUIET) $(BIN)/edgeadapt bench $(SUITE) $(if $(DATA),--data "$(DATA)")

# Only where something newer than what was tested exists are the tests worth their time.
newest:
	@rm -rf .venv-newest
	@$(MAKE) -s host $(NEWEST) && \
	.venv-newest/bin/python tools/constraints.py > .venv-newest/versions.txt && \
	if diff constraints.txt .venv-newest/versions.txt; then \
	  echo "newest: nothing is newer than constraints.txt"; \
	elif $(MAKE) -s test $(NEWEST); then \
	  echo "newest: the releases above pass the tests; make constraints takes them over"; \
	else \
	  echo "newest: WARNING: the tests fail with the releases above (>);" \
	    "constraints.txt (<) keeps the tested ones"; \
	fi \
	|| echo "newest: WARNING: the newest releases could not be installed"

constraints: host
	$(BIN)/python tools/constraints.py > constraints.txt

clean:
	rm -rf $(VENV) .venv-newest demo-out build dist

device: $(VENV)/.device
host: $(VENV)/.host

$(VENV)/.device: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "edgeadapt: installing the device package (no torch)"
	$(PIP) -e .
	@touch $@

$(VENV)/.host: pyproject.toml benchmarks/pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "edgeadapt: installing the host extra; a CPU build of torch is enough, docs/install.md says how" \
	  "to get one"
	$(PIP) -e '.[host,dev,images]' -e benchmarks
	@touch $@ $(VENV)/.device

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "edgeadapt needs Python 3.10 or newer on the PATH, or make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "edgeadapt: creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
