# Two commands: `make demo` does the main job, `make test` passes the tests. Each sets everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup test lint types

setup: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# PyPI's torchvision is built for CUDA. Beside a torch without it, it does not import, and breaks what tries it.
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || { \
		echo 'removing a torchvision that does not import beside this torch (LPIPS does not need it)'; \
		$(BIN)/pip uninstall --quiet --yes torchvision; }
	touch $@

lint: $(INSTALLED)
	ruff check .

types: $(INSTALLED)
	rm -rf build/typecheck
	pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && mypy --config-file ../../pyproject.toml -p smalti

test: lint types
	OMP_NUM_THREADS=1 pytest
