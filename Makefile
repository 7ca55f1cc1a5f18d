# Every target does its own set-up, and nothing of it twice. As root, missing system packages are
# installed; anyone else is told their names.

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# release, or debug: bounds checks, line tracing, no optimization
MODE := $(or $(FIREZONE_BUILD),release)
SOURCES := setup.py $(wildcard ext/*.pyx ext/*.pxi ext/c/* firezone/_ext/*.pxd)
# Runs Python where it may make network namespaces.
IN_LAB := $(BIN)/python -m firezone.lab.userns --or-without $(BIN)/python
# Selects or adds to what `make test` runs, as in: make test TESTS='tests/unit -k ice'
TESTS ?= tests

.PHONY: help demo lab test check lint build bench bench-full profile nat-matrix roaming clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    show the whole system at work on this machine"
	@echo "make lab     open a private network to play with"
	@echo "make test    run all tests and checks"
	@echo "make lint    run the checks alone"
	@echo "make build   build the kernels; .venv/bin/firezone is the program"
	@echo "make bench   run the benchmarks, in less than ten minutes"
	@echo "make bench-full    run them longer, with plots, into benchmarks/results"
	@echo "make profile    show where the time goes: flame graph, hottest lines; docs/profiling.md"
	@echo "make nat-matrix    measure the paths through all pairs of NATs, for docs/nat-matrix.md"
	@echo "make roaming    measure the pauses of a download when things change, for docs/roaming.md"
	@echo "make clean   remove what was built"

demo: build
	@scripts/require lab
	@$(BIN)/firezone demo $(ARGS)

lab: build
	@scripts/require lab
	@$(BIN)/firezone lab $(ARGS)

test: build $(STAMPS)/dev
	@scripts/require lab test
	$(MAKE) --no-print-directory check
	$(BIN)/python -m firezone.lab.userns --or-without $(BIN)/python -m pytest $(TESTS)

lint: build $(STAMPS)/dev
	$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --concise --ignore-unused-allowlist \
		--allowlist scripts/stubtest.allow firezone._ext

build: $(STAMPS)/built-$(MODE)

bench: build $(STAMPS)/dev
	$(BIN)/python -m pytest benchmarks -q --benchmark-only --benchmark-disable-gc \
	    --benchmark-columns=min,median,iqr,rounds -o python_files='bench_*.py' $(ARGS)
	@scripts/require lab test
	$(BIN)/python -m benchmarks.bench_aead --repeats 5 --batch 1 --batch 16
	$(IN_LAB) -m benchmarks.start_up --rounds 3
	$(IN_LAB) -m benchmarks.end_to_end
	$(IN_LAB) -m benchmarks.tunnels --rounds 1 --seconds 2 --json build/bench/tunnels.json
	$(IN_LAB) -m benchmarks.relays --rounds 1 --seconds 0.2 --json build/bench/relays.json

bench-full: build $(STAMPS)/dev $(STAMPS)/plot
	@scripts/require lab test
	@mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks -q --benchmark-only --benchmark-disable-gc \
	    --benchmark-columns=min,median,iqr,rounds -o python_files='bench_*.py' $(ARGS)
	$(BIN)/python -m benchmarks.bench_aead --json benchmarks/results/aead.json
	$(BIN)/python -m benchmarks.aead_page
	$(IN_LAB) -m benchmarks.end_to_end --rounds 5 --json benchmarks/results/end_to_end.json
	$(IN_LAB) -m benchmarks.set_up --rounds 30 --json benchmarks/results/set_up.json
	$(IN_LAB) -m benchmarks.tunnels --rounds 5 --json benchmarks/results/tunnels.json
	$(IN_LAB) -m benchmarks.relays --rounds 5 --json benchmarks/results/relays.json
	$(IN_LAB) -m benchmarks.relay_scale --coturn --json benchmarks/results/relay_scale.json
	$(IN_LAB) -m benchmarks.roaming --rounds 3 --output benchmarks/results/roaming.md
	$(BIN)/python -m benchmarks.plots benchmarks/results/tunnels.json benchmarks/results/aead.json

profile: build
	@scripts/require lab test profile
	$(IN_LAB) -m benchmarks.profile_tunnel $(ARGS)

nat-matrix: build
	@scripts/require lab
	$(BIN)/python -m firezone.lab.userns $(BIN)/python -m benchmarks.nat_matrix \
		--output docs/nat-matrix.md $(ARGS)

roaming: build
	@scripts/require lab
	$(BIN)/python -m firezone.lab.userns $(BIN)/python -m benchmarks.roaming \
		--output docs/roaming.md $(ARGS)

clean:
	rm -rf build firezone/_ext/*.so firezone/_ext/*.c ext/*.c ext/*.html $(STAMPS)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# Kernels of the other mode have to go: nothing but their flags tells them apart.
$(STAMPS)/built-$(MODE): $(SOURCES) $(STAMPS)/installed
	@ls $(STAMPS)/built-* 2>/dev/null | grep -qv 'built-$(MODE)$$' && \
		rm -f ext/*.c $(STAMPS)/built-* || true
	@echo "building the kernels: about a minute of two cores, where all are new"
	@touch $(STAMPS)/begun  # what changes meanwhile is newer
	@$(BIN)/python setup.py -q build_ext --inplace -j "$$(nproc)" >/dev/null  # errors go to stderr
	@mv $(STAMPS)/begun $@

# The kernels are built in place and only where they changed, so pip is told to leave them out.
$(STAMPS)/installed: pyproject.toml $(STAMPS)/run
	@FIREZONE_BUILD=none $(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(STAMPS)/run: pyproject.toml $(STAMPS)/venv
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/python scripts/requirements.py run build | $(BIN)/pip install -q -r /dev/stdin
	@touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/run
	$(BIN)/python scripts/requirements.py dev | $(BIN)/pip install -q -r /dev/stdin
	@touch $@

$(STAMPS)/plot: pyproject.toml $(STAMPS)/run
	$(BIN)/python scripts/requirements.py plot | $(BIN)/pip install -q -r /dev/stdin
	@touch $@

$(STAMPS)/venv:
	@scripts/require build
	@test -x $(BIN)/python || "$$(scripts/find-python)" -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@
