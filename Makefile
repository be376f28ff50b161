# Everything below works from a fresh clone with Python 3.11 or newer and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Most modules of most libraries are never imported: what is, is compiled then.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
LOCUST := $(BIN)/locust -f loadtests/locustfile.py --headless --spawn-rate 20 --only-summary --loglevel WARNING
# A third of the tests' time is waiting, for processes and for real time to pass; each tester costs 2 s of CPU to start.
TESTERS := $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 1))')
PYTEST  := $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist worksteal --durations=5
SOURCES := $(wildcard podrace/*.py reference simulator loadtests reports tests)

# Hundreds of processes import the same modules: each is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test tests coverage test-slow soak nightly lint style types format bench load report pictures upgrade clean

demo: $(VENV)/.installed  ## the bug and its fix on real processes
	$(BIN)/podrace reproduce

test: style  ## all checks and tests, as CI runs them
	@$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --collect-only >/dev/null  # compiles all tests once, not once in each worker
	$(PYTEST) -m 'not slow and not nightly'

coverage: $(VENV)/.installed-dev  ## how much of the code the tests run: at least 90 %. It doubles their CPU time
	$(PYTEST) -m 'not slow and not wide and not nightly' --cov --cov-report=term

test-slow: $(VENV)/.installed-dev  ## absolute times: on a quiet machine
	$(BIN)/python -m pytest -m slow

soak: SOAK := runs/$(shell date +%Y%m%d-%H%M%S)-soak
soak: $(VENV)/.installed-dev  ## 20 seeds of 8 pods under all faults: durable may lose nothing
	for seed in $$(seq 1 20); do \
	  $(BIN)/podrace run --target durable --seed $$seed --run-dir $(SOAK)/$$seed || exit; \
	done

nightly: $(VENV)/.installed-dev  ## 5,000 random programs, all of `durable`, 700 endings at random moments
	PODRACE_ENDINGS=100 $(BIN)/python -m pytest tests/simulator/test_endings.py -k any_moment
	PODRACE_PROGRAMS=5000 PODRACE_SCHEDULES=600 $(BIN)/python -m pytest tests/cases/test_programs.py -m 'not slow'
	PODRACE_PREEMPTIONS=2 $(BIN)/python -m pytest tests/simulator/test_scenarios.py -k durable
	$(BIN)/python -m pytest -m nightly

lint: style types

style: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix --quiet $(SOURCES)
	$(BIN)/ruff format --quiet $(SOURCES)

bench: BENCH := runs/$(shell date +%Y%m%d-%H%M%S)-bench
bench: $(VENV)/.installed-peers  ## the figures, as ratios, beside those of the last release; ACCEPT=--accept makes them those
	mkdir -p $(BENCH)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only \
	  --benchmark-columns=median,iqr,rounds --benchmark-json=$(BENCH)/benchmark.json
	$(BIN)/podrace bench-compare tests/benchmarks/reference-ratios.json $(BENCH)/benchmark.json $(ACCEPT)

load: $(VENV)/.installed-load  ## 30 s of the mixed workload, with a summary and a run folder
	$(LOCUST) --users 20 --run-time 30s

report: REPORT := runs/$(shell date +%Y%m%d-%H%M%S)-report
report: $(VENV)/.installed-dev  ## a small run of everything, and its report in every form; what fails is in the report
	mkdir -p $(REPORT)/bench
	-$(BIN)/podrace reproduce --pods 4 --uploads 8 --run-dir $(REPORT)/reproduce
	-$(BIN)/podrace matrix --run-dir $(REPORT)/matrix
	-for users in 5 20; do $(LOCUST) --users $$users --run-time 6s --run-folder $(REPORT)/load-$$users; done
	-$(BIN)/python -m pytest tests/benchmarks -k "set or get or delete or cost or life" --benchmark-enable \
	  --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json=$(REPORT)/bench/benchmark.json
	for form in html:report.html markdown:report.md junit:report.xml svg:svg; do \
	  $(BIN)/podrace report $(addprefix $(REPORT)/,matrix reproduce load-5 load-20) \
	    tests/benchmarks/reference-ratios.json $(REPORT)/bench \
	    --format $${form%%:*} --out $(REPORT)/$${form#*:} || [ $$? = 3 ] || exit; \
	done

pictures: RUN := runs/$(shell date +%Y%m%d-%H%M%S)-pictures
pictures: $(VENV)/.installed  ## the README's pictures, made anew
	$(BIN)/podrace matrix --fleets --run-dir $(RUN)
	$(BIN)/podrace report $(RUN) --format svg --out $(RUN)/svg
	cp $(RUN)/svg/matrix.svg $(RUN)/svg/local-foreign-pod.svg reports/pictures/

upgrade:  ## renew the pinned versions
	$(PYTHON) -m venv $(VENV)-upgrade
	$(VENV)-upgrade/bin/python -m pip install --quiet --upgrade --editable '.[dev,peers]'
	{ head -1 constraints.txt; $(VENV)-upgrade/bin/python -m pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-upgrade

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "podrace needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-load: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[load]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-peers: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev,peers]'
	@touch $@ $(VENV)/.installed-dev $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
