# SPDX-License-Identifier: Apache-2.0
# Two commands do everything: `make demo` and `make test`. Both set up what they need first.
SHELL := /bin/bash
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test unit check setup build format bench clean guest

.venv/ready: .ci/setup .ci/packages pyproject.toml
	sh .ci/setup

setup: .venv/ready

build: setup
	flock .venv $(PYTHON) setup.py -q build_ext --inplace

guest: build
	pyvmm guest build

demo: build
	pyvmm demo

test: build
	$(PYTHON) -m tests

unit: build
	$(PYTHON) -m pytest tests/unit

check: build
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror csrc/*.c csrc/*.h csrc/kvm/*.h
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
		--inline-suppr --suppress=missingIncludeSystem -D__x86_64__ csrc/*.c
	$(PYTHON) -m pytest -q tests/unit/test_imports.py

format:
	ruff format .
	ruff check --fix .
	clang-format -i csrc/*.c csrc/*.h csrc/kvm/*.h

bench: build
	$(PYTHON) -m bench

clean:
	rm -rf build dist *.egg-info pyvmm/*.so pyvmm/kvm/*.so pyvmm/_core.c pyvmm/kvm/_kvm.c
