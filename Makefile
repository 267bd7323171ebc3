# Needs make and CPython 3.11 or 3.12; everything else goes into .venv. PYTHON=... names the interpreter to build on.

SOURCES = event_streaming_bus flows registry api store tests deploy
PY = .venv/bin/python
READY = .venv/.installed

.DEFAULT_GOAL = help
.PHONY: help demo test check check-code check-tests bench faults soak histories overload fuzz audit serve constraints clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(READY)  ## real flights through the bus: publish, flows, answers, history (under two minutes)
	@$(PY) deploy/demo/run.py

test: $(READY)  ## every test that can run here
	@$(PY) -m pytest

check: check-code check-tests  ## what must hold before a change lands: lint, format, types, layers, tests

check-code: $(READY)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	.venv/bin/lint-imports
	$(PY) -m mypy

# Those of the browser run last, as they are sorted. What failed runs once more by itself: with brokers, kills and browsers on a busy
# machine a test may be overtaken. It is named in both runs.
check-tests: $(READY)
	$(PY) -m pytest -W error -n 3 --dist loadfile --no-loadscope-reorder || \
	  { [ $$? -eq 1 ] && echo "Once more, by themselves:" && $(PY) -m pytest -W error -v --last-failed --last-failed-no-failures none; }

bench: $(READY)  ## a quick report of the speed, in bench-report/ (under three minutes)
	@$(PY) tests/benchmarks/report.py

bench-full: $(READY)  ## every size, peer and scaling law; installs the peers; takes hours
	@$(PY) tests/benchmarks/report.py --full

faults: $(READY)  ## the crash matrix: ESB_FAULT_RUNS crashes (1000: ten minutes and more); SCENARIO=... and SEED=... run one case
	@$(PY) tests/faults/crash_matrix.py $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SEED),--seed $(SEED))

soak: $(READY)  ## ESB_SOAK_MINUTES (120) at half capacity while everything is killed and restarted; SEED=... as before
	@$(PY) tests/faults/soak.py $(if $(SEED),--seed $(SEED))

histories: $(READY)  ## ESB_HISTORY_SECONDS (60) of clients under kills, pauses and jumps of the clock, and a check; SEED=... BUS=kafka
	@$(PY) tests/faults/history_run.py $(if $(SEED),--seed $(SEED)) $(if $(BUS),--bus $(BUS))

overload: $(READY)  ## more than a server can do, of each kind, measured (half an hour); SCENARIO=... runs one
	@$(PY) tests/faults/overload.py $(if $(SCENARIO),--scenario $(SCENARIO))

fuzz: $(READY)  ## broken input for FUZZ_SECONDS (60) on each of TARGETS (all); guided by coverage if atheris is in .venv
	@$(PY) tests/fuzz/run.py $(TARGETS)

audit: $(READY)  ## look the dependencies up among known vulnerabilities
	@$(PY) deploy/audit.py

serve: $(READY)  ## the HTTP API on 127.0.0.1:8080, data in ./esb-data; prints the address that opens the page
	@.venv/bin/esb serve

constraints: $(READY)  ## resolve pyproject.toml again and rewrite constraints.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@printf 'hatchling\neditables\n' | $(PY) -m uv pip compile pyproject.toml - --extra dev --extra otel --universal --upgrade \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --quiet --output-file constraints.txt
	@echo "constraints.txt written; 'make check' tries it"

clean:  ## remove .venv, caches and what the demo made
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build demo-data bench-report
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Any Python from 3.6 on can run the script; the script finds the right one, or says what is missing.
$(READY): pyproject.toml constraints.txt deploy/setup_venv.py
	@for python in $(PYTHON) python3 python python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then \
	    PYTHON='$(PYTHON)' exec "$$python" deploy/setup_venv.py; \
	  fi; \
	done; \
	echo "No Python 3 found. Install CPython 3.11 or 3.12, then run make again." >&2; exit 1
