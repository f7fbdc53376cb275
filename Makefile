# Two commands matter: `make demo` and `make test`. Both work on a machine with Python >= 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check suite coverage bench soak lock clean

demo: $(INSTALLED) ## an agent meets real trouble, and Counterfoil says what landed
	$(BIN)/python -m examples.shop

test: $(INSTALLED) check suite ## everything that CI runs

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The last line names the files: to collect all of them takes longer than most of those tests.
suite: $(INSTALLED)
	./ops/install-test-packages.sh
	$(BIN)/python -m pytest -n 4 --dist worksteal -m "not alone"
	$(BIN)/python -m pytest -m alone $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

coverage: $(INSTALLED) ## which lines the suite runs; it takes half as long again
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not alone" --cov --cov-report=term:skip-covered

bench: $(INSTALLED) ## what recording and storing cost, beside the peers, and what asking and reconciling cost
	$(BIN)/python -m bench.emit
	$(BIN)/python -m bench.ingest
	$(BIN)/python -m bench.reconcile
	$(BIN)/python -m bench.tenants
	$(BIN)/python -m bench.queries

soak: $(INSTALLED) ## the longer proofs: outages, damaged spools, 300 orders to 50 clients, 500 crashes of ingest, 10,000 writes with every fault
	COUNTERFOIL_TEST_OUTAGE_SECONDS=600 COUNTERFOIL_TEST_DAMAGES=10000 COUNTERFOIL_TEST_ORDERS=300 \
	  $(BIN)/python -m pytest -s --timeout 2400 \
	  tests/events/test_memory.py tests/events/test_spool.py tests/events/test_halt_reach.py
	COUNTERFOIL_TEST_OLDEST_POSTGRES=1 $(BIN)/python -m pytest -n 2 -m oldest_postgres_in_soak
	COUNTERFOIL_TEST_CRASHES=500 COUNTERFOIL_TEST_CRASH_EVENTS=1000000 COUNTERFOIL_TEST_CHURN_SECONDS=600 \
	  COUNTERFOIL_TEST_STORE_KILLS=50 COUNTERFOIL_TEST_BACKENDS_ENDED=500 \
	  COUNTERFOIL_TEST_BAD_AMONG=100000 \
	  $(BIN)/python -m pytest -s tests/consumers/test_exactly_once.py tests/consumers/test_bad_records.py
	COUNTERFOIL_TEST_HISTORIES=5000 $(BIN)/python -m pytest -n 2 --timeout 1800 tests/reconcilers/test_every_history.py
	COUNTERFOIL_TEST_FAULT_EFFECTS=10000 $(BIN)/python -m pytest -s tests/faults

# The lock names every version, with hashes (no resolver: pip before 24 takes a newer one for an extra); the second install adds this checkout without looking further.
$(INSTALLED): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: ## resolve the versions anew
	$(BIN)/python -m pip install --quiet uv
	for extras in "dev" "console targets"; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --no-header $$(printf -- '--extra %s ' $$extras) pyproject.toml \
	    requirements/build.in -o requirements/$${extras%% *}.lock || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
