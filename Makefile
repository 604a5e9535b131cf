# The commands of the repository. `make` lists them.
PYTHON ?= python3
PORT   ?= 3000
VENV   := .venv
# What docs/installing.md promises.
PYTHONS   := 3.11 3.12 3.13 3.14
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up parquet test acceptance canary lint types sure soak distributed bench lock sbom dbt clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

up: $(VENV)/.installed ## install what is missing and start everything
	@exec $(BIN)/voiceai-pipeline up --port $(PORT)

parquet: $(VENV)/.installed ## install what `voiceai-pipeline export --format parquet` needs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-parquet.lock

# Hundreds of processes start: without bytecode each would compile the package again.
test acceptance canary soak: export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed-dev ## run the tests, against real services
	$(PYTEST) -m "not acceptance"

acceptance: $(VENV)/.installed-dev ## run the tests of the whole product: started, killed, clicked in a browser
	$(PYTEST) -m acceptance

canary: $(VENV)/.installed-dev ## send invented secrets through everything and look for them everywhere
	$(BIN)/pytest voiceai_pipeline_tests/canary

soak: $(VENV)/.installed-dev ## repeat random tests often, then simulate a day of faults with 200 users
	VOICEAI_THOROUGH=1 $(BIN)/pytest -m soak
	$(BIN)/python -m benchmarks.soak

distributed: $(VENV)/.installed-celery ## a day on real Celery workers, one of which is lost (ten minutes; needs redis-server)
	VOICEAI_DISTRIBUTED=1 $(BIN)/pytest voiceai_pipeline_tests/test_distributed.py

lint: $(VENV)/.installed-dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

sure: lint types test acceptance ## everything that CI runs

bench: $(VENV)/.installed-bench ## compare the speed with other tools (about an hour; ARGS="--scale 0.1" for less)
	$(BIN)/python -m benchmarks.speed $(ARGS)

lock: ## regenerate the lock files (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group build pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group build --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	sed -n 's/^parquet = \["\(.*\)"\]/\1/p' pyproject.toml | \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" -c requirements-dev.lock - -o requirements-parquet.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group build --group bench -c requirements-dev.lock pyproject.toml -o requirements-bench.lock
	@# Every package has a wheel for every platform; only watchdog may be compiled.
	@for python in $(PYTHONS); do for platform in $(PLATFORMS); do \
	  uv pip compile -q --only-binary :all: --no-binary watchdog --python-version $$python --python-platform $$platform \
	    -c requirements.lock pyproject.toml -o /dev/null >/dev/null || { echo "No wheels for $$platform, Python $$python" >&2; exit 1; }; \
	done; done
	for image in docker:docker kubernetes:k8s celery:celery; do \
	  sed -n "s/^$${image#*:} = \[\"\(.*\)\"\]/\1/p" pyproject.toml | \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	    --custom-compile-command "make lock" -c requirements.lock - -o deploy/requirements-$${image%:*}.lock || exit 1; done
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group sbom -o requirements-sbom.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group dbt -o requirements-dbt.lock

sbom: ## write dist/*.cdx.json: what each image consists of (CycloneDX)
	@$(PYTHON) -m venv $(VENV)-sbom
	@$(VENV)-sbom/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-sbom.lock
	@mkdir -p dist
	@for lock in requirements deploy/requirements-docker deploy/requirements-kubernetes deploy/requirements-celery; do \
	  $(VENV)-sbom/bin/cyclonedx-py requirements $$lock.lock --pyproject pyproject.toml --output-reproducible \
	    --of JSON -o dist/$$(basename $$lock).cdx.json || exit 1; done

# Its packages fight Dagster's, hence an environment of its own.
dbt: ## check docs/dbt with a real dbt
	@$(PYTHON) -m venv $(VENV)-dbt
	@$(VENV)-dbt/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dbt.lock
	@$(VENV)-dbt/bin/dbt --no-send-anonymous-usage-stats --warn-error parse --project-dir docs/dbt --profiles-dir docs/dbt \
	  --target-path $(abspath $(VENV)-dbt)/target --log-path $(abspath $(VENV)-dbt)/logs

clean: ## delete .venv (the data in .voiceai are kept)
	rm -rf $(VENV) $(VENV)-sbom $(VENV)-dbt

# Installing: from the lock files, hashes checked; repeated only when they change.
$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/pip
	@echo "Installing the locked packages into $(VENV) (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock || { \
	  echo "The packages could not be installed; pip says why above. Check the network and the disk, then repeat." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Once, and not by each of the processes that start side by side.
	@$(BIN)/python -m compileall -q voiceai_pipeline
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing the test dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.installed-celery: $(VENV)/.installed-dev deploy/requirements-celery.lock
	@echo "Installing the Celery engine"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-celery.lock
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed requirements-bench.lock
	@echo "Installing the tools of the benchmark"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

# pip is installed last into a virtual environment: without it, an earlier attempt was interrupted.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make up PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old. Install Python 3.11 or newer, or name one: make up PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
