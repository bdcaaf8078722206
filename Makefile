# Five verbs and two benchmarks: setup, quickstart, test, check, docs, bench, bench-worker. Each works on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# a shim named uv can exist and still fail, so uv is asked and not only looked for
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)
NVIDIA := $(shell command -v nvidia-smi 2>/dev/null)
READY := $(VENV)/.installed
APT_PARTS := openssh-server openssh-client libopenblas0-pthread lsof strace systemd g++
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup quickstart test test-deps check docs bench bench-worker constraints clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mlxctl needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
ifdef UV
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
else
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
endif
ifdef NVIDIA
	@# the lock names the CPU backend; an NVIDIA machine takes CUDA's, at the same versions of everything else
	@sed -e 's/ \\$$//' -e '/--hash=/d' -e '/^mlx-cpu==/d' constraints.txt > $(VENV)/constraints.plain
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet) -c $(VENV)/constraints.plain -e '.[cuda,test]'
else
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet) --require-hashes -r constraints.txt
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet) --no-deps -e .
endif
	@touch $(READY)

quickstart: setup
	@$(BIN)/mlxctl quickstart

# what the end-to-end tests need of Debian; without it `make test` names what is absent
test-deps:
ifeq ($(shell uname -s),Linux)
	$(if $(filter 0,$(shell id -u)),,sudo )apt-get update -qq
	$(if $(filter 0,$(shell id -u)),,sudo )env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT_PARTS)
endif

test: check
	@$(BIN)/python -m tests.parts
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/cli_reference.py

bench: setup
	$(BIN)/python -m bench start load parallel

# the worker beside its peers, which are installed into environments of their own; half an hour
bench-worker: setup
	$(BIN)/python -m bench worker --install-peers
	$(BIN)/python -m bench worker

# the lock: every dependency with its hashes, for every platform
constraints:
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  --extra cpu --extra test pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) .venv-* dist build .test-cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
