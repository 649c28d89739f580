# Thirteen targets; CI runs the same ones. `make run` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8080
MODEL  ?=
OUTPUT ?= build/gpu-check
WHEELS ?=
PROFILE ?=

.PHONY: install run test lint types format generate integration bench bench-cpu bench-router gpu-check clean

# Exact versions come from constraints.txt. The text-generation client pins an old huggingface_hub, which it does
# not need: it is installed without its dependencies. The CPU operators are built ahead, so that the first start is
# fast; without a C++ compiler that says so, and the server works without them.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt text-generation
	$(BIN)/python -m text_generation_shard.ops.cpu.build
	touch $@

install: $(VENV)/.installed

run: install
	$(BIN)/text-generation-launcher --port $(PORT) $(if $(MODEL),--model-id $(MODEL))

test: install
	$(BIN)/python -m pytest tests integration-tests

integration: install
	$(BIN)/python -m pytest integration-tests

lint: install types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/python tools/generate_docs.py --check

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: install
	$(BIN)/python tools/generate_proto.py
	$(BIN)/python tools/generate_docs.py

bench: install
	$(BIN)/python -m benchmarks

# Peers (llama.cpp, OpenVINO) are installed into .venv-peers first; about half an hour in all on two cores.
bench-cpu: install
	$(BIN)/python -m benchmarks.peers

bench-router: install
	$(BIN)/python -m benchmarks.router

# On a bare machine without network too: without the environment of `make install` it runs in PYTHON's own, and WHEELS
# is a folder with the packages that are missing there.
gpu-check:
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m benchmarks.gpu_check --output $(OUTPUT) \
	    $(if $(WHEELS),--wheels $(WHEELS)) $(if $(PROFILE),--profile)

clean:
	rm -rf $(VENV) .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
