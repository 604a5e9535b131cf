# Every verb of the repository. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up test lint types sure lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

up: $(VENV)/.installed ## install what is missing, start everything, print the address
	@exec $(BIN)/voiceai-pipeline up

test: $(VENV)/.installed-dev ## run every test on real parts
	$(BIN)/pytest

lint: $(VENV)/.installed-dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

sure: lint types test ## all that CI does

lock: ## write the lock files anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group build pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --group build --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## delete .venv (the data in .voiceai stays)
	rm -rf $(VENV)
