# Everything here works from a fresh clone: Python 3.10 or newer with its venv module, and make.
#   make demo     install the device package (no torch) and show what it does: demo-out/report.html
#   make test     also install what the host needs (torch), and run the tests; make test-slow those
#                 that take minutes, make test-all this one and the next four
#   make test-faults   processes that are killed or refused an I/O call, spoilt files by the
#                 thousand, the examples as programs
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
#   CONSTRAINTS (file of the versions that were tested; empty: the newest), STOP (when tests stop:
#   -x, at the first that fails).

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

PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))

.PHONY: demo newest constraints test test-all test-faults test-host test-engines test-daemon \
  test-slow torture fuzz bundle lint bench clean device host

demo: device
	$(BIN)/edgeadapt demo --out demo-out

ENGINES := tests/host/compile tests/runtimes tests/placement tests/gpu_suite
# Each starts processes of its own, so it is slow for what it covers, and little that is edited
# breaks it.
FAULTS := tests/fuzz tests/test_fuzz.py tests/test_examples.py \
  tests/device/storage/test_io_faults.py tests/device/test_bad_input_children.py
# What a newer dependency breaks first: what is learned and kept, the bundle, torch's export, the
# command line.
CORE := tests/device/test_learner.py tests/device/commits/test_durability.py \
  tests/device/storage/test_journal.py tests/device/test_golden_lives.py \
  tests/device/numerics/test_linalg.py tests/bundle \
  tests/runtimes/test_onnxruntime.py tests/host/exporting/test_export.py tests/test_cli.py \
  tests/test_imports.py
# By file: most files of the host, the daemon and the faults make something long once for all their
# tests. Those of the device do not, so there a worker that is done takes tests from the other.
STOP := -x
TESTS := $(QUIET) $(BIN)/python -m pytest $(STOP) -n 2 --dist loadfile

test: host
	$(TESTS:loadfile=worksteal) $(ENGINES:%=--ignore %) $(FAULTS:%=--ignore %) \
	  --ignore tests/host --ignore tests/bench --ignore tests/daemon --ignore tests/deploy

test-all: test test-faults test-host test-engines test-daemon

test-faults: host
	$(TESTS) $(FAULTS)

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

# Its environment looks through to the first one and holds only what is newer. Where nothing is, the
# tests say nothing new; where something is, a part of them shows what `make constraints` may meet.
newest: host
	@rm -rf .venv-newest
	@$(BIN)/python -m venv .venv-newest && \
	$(BIN)/python -c '$(PACKAGES)' > "$$(.venv-newest/bin/python -c '$(PACKAGES)')/first.pth" && \
	.venv-newest/bin/python -m pip --disable-pip-version-check install -q --upgrade \
	  --upgrade-strategy eager $(PIP_FLAGS) -e '.[host,dev,images]' -e benchmarks && \
	.venv-newest/bin/python tools/constraints.py > .venv-newest/versions.txt && \
	if diff constraints.txt .venv-newest/versions.txt; then \
	  echo "newest: nothing is newer than constraints.txt"; \
	elif $(QUIET) .venv-newest/bin/python -m pytest -n 2 --dist worksteal $(CORE); then \
	  echo "newest: the releases above pass the core tests; make constraints takes them over"; \
	else \
	  echo "newest: WARNING: the core tests fail with the releases above (>);" \
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
	@echo "edgeadapt: installing the host extra; a CPU build of torch is enough," \
	  "docs/install.md says how to get one"
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
