# Two commands are enough: `make run` and `make test`. Everything else is listed by `make help`.
# Needs make, git and Python >= 3.12 (with venv); everything Python needs is pinned by hash in requirements.lock.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := python3.13 python3.12 python3
PORT ?= 8080
METRICS_PORT ?= 9090
STATE ?= $(or $(EGRESS_STATE_DIR),state)
WORKERS ?= 0
PYTEST_ARGS ?=
BENCH_ARGS ?=
MINUTES ?= 10

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test fuzz lint format docs lock bench bench-proxy bench-detect soak attack-bench clean venv python

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(STAMP) ## start the proxy with embedded store, demo providers and example policy (PORT=8080 METRICS_PORT=9090 STATE=state)
	@exec $(BIN)/egress run --demo --state "$(STATE)" --workers $(WORKERS) --explicit 127.0.0.1:$(PORT) \
	  --transparent off --metrics 127.0.0.1:$(METRICS_PORT)

demo: $(STAMP) ## start only the look-alike providers
	@exec $(BIN)/egress demo --state "$(STATE)"

test: $(STAMP) ## run all tests (PYTEST_ARGS=... adds options)
	@$(BIN)/python -m pytest -n 2 --dist loadscope $(PYTEST_ARGS)

fuzz: $(STAMP) ## fuzz every parser for longer than `make test` does (FUZZ_SECONDS for each target, 60)
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -n 2 tests/fuzz $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict proxy addons
	@$(BIN)/mypy --strict -p docs.generator
	@$(BIN)/mypy --strict tests/attack

format: $(STAMP) ## rewrite the layout of all Python files
	@$(BIN)/ruff format .

docs: $(STAMP) ## write docs/reference from the code
	@$(BIN)/python -m docs.generator

lock: ## resolve the dependencies anew into requirements.lock (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/" >&2; exit 2; }
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --python-version 3.12 --generate-hashes \
	  --extra dev --override lock-overrides.txt --output-file requirements.lock pyproject.toml

bench: bench-proxy bench-detect ## every benchmark

# Peers get environments of their own under ~/.cache/egress-bench; Debian's (squid-openssl haproxy nginx-light) are
# used where they are installed, and what is absent is said to be absent.
bench-proxy: $(STAMP) ## the data plane against its peers, one JSON line at the end (QUICK=1: a few of them; BENCH_ARGS=...)
	@$(BIN)/python -m loadtests.dataplane $(BENCH_ARGS)

soak: $(STAMP) ## steady load with reloads, restarts and store outages (MINUTES=10)
	@$(BIN)/python -m loadtests.dataplane.soak --minutes $(MINUTES)

attack: $(STAMP) ## all attack cases in network namespaces, as root (ONLY=DST,TLS-01 CASES=FILE BASELINE=mitmdump VERBOSE=1)
	@$(BIN)/python -m tests.attack $(if $(ONLY),--only "$(ONLY)") $(if $(CASES),--cases $(CASES)) \
	  $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(VERBOSE),--verbose)

attack-bench: $(STAMP) ## cases of agent-egress-bench against the running product, one JSON line at the end (DATA=folder of cases)
	@$(BIN)/python -m tests.attack.egressbench $(if $(DATA),--data "$(DATA)") $(if $(VERBOSE),--verbose)

bench-detect: $(STAMP) ## detection beside plain Presidio, one JSON line at the end (DATA=folder like the development data)
	@$(BIN)/python -m loadtests.bench_detect $(if $(DATA),--data "$(DATA)")

clean: ## remove the environment and caches (never the state directory: it holds keys and audit)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(STAMP) ## create the environment and nothing else

python: ## print the Python that would be used
	@$(find_python); echo "$$found"

# pyenv's shims exist for versions that do not run, and Debian's python3 may lack ensurepip: only trying tells.
define find_python
found=; for candidate in $(PYTHONS); do \
  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; \
  then found=$$candidate; break; fi; done; \
if [ -z "$$found" ]; then \
  echo "error: no usable Python: none of $(PYTHONS) runs, is 3.12 or newer, and has venv" >&2; \
  echo "  at:  PATH" >&2; \
  echo "  fix: install Python 3.12 or newer (Debian and Ubuntu: apt install python3.12 python3.12-venv), then make again" >&2; \
  exit 2; fi
endef

# Only a new lock re-runs this. A broken environment (moved, other Python gone) is made anew.
$(STAMP): requirements.lock
	@$(find_python); \
	if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	  echo "creating $(VENV) with $$("$$found" --version)"; "$$found" -m venv --clear $(VENV) || exit 2; fi
	@echo "installing requirements.lock (hashes checked; the first time takes a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
