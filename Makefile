# SPDX-License-Identifier: Apache-2.0
# Two commands do everything: `make demo` and `make test`. Both set up what they need first.
SHELL := /bin/bash
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

C_FILES = $(wildcard csrc/*/*.[ch] pyvmm/lab/init/*.[ch] pyvmm/demo/*.c guest-linux-patch/init/*.[ch] \
	bench/loads/*.c tests/*/*.c tests/*/*/*.[ch])

# What cppcheck says since 2.17 that is no fault here: that it did not look at every branch, and memory that a test or a
# benchmark takes for granted. Older ones do not know these names, and let them be.
CPPCHECK_217 = --suppress=normalCheckLevelMaxBranches $(foreach folder,tests bench,--suppress='nullPointerOutOfMemory:$(folder)/*')

.PHONY: help demo test test-rest unit check python-check c-check setup build format bench clean guest

help:
	@echo 'make demo    boot a Linux guest, here or in the lab, and show what happened; ARGS="--linux 6.12": the patched one'
	@echo 'make test    the tests that each change must pass; builds a guest kernel the first time'
	@echo 'make test-rest  the rest: other guest kernels, which it builds the first time, other hosts, benchmarks'
	@echo
	@echo 'make setup   Debian packages, virtual environment, Python packages'
	@echo 'make build   the C extension modules'
	@echo 'make guest   the Linux guest kernel and its initramfs, into the cache'
	@echo 'make unit    the tests that need no KVM'
	@echo 'make check   ruff, mypy, clang-format, cppcheck, direction of the imports, documents'
	@echo 'make format  let ruff and clang-format rewrite the sources'
	@echo 'make bench   every benchmark, quickly, and one report of them; ARGS="swap --rounds 5": that one, so long'
	@echo 'make clean   remove what make build made'

.venv/ready: .ci/setup .ci/packages pyproject.toml
	sh .ci/setup

setup: .venv/ready

build: setup
	flock .venv $(PYTHON) setup.py -q build_ext --inplace

guest: build
	pyvmm guest build

demo: build
	pyvmm demo $(ARGS)

test: build
	$(PYTHON) -m tests

test-rest: build
	$(PYTHON) -m tests --rest

unit: build
	$(PYTHON) -m pytest tests/unit

check: python-check c-check
	$(PYTHON) -m pytest -q tests/unit/house/test_imports.py tests/unit/house/test_circles.py \
		tests/unit/house/test_includes.py tests/unit/house/test_docs.py

python-check: build
	ruff check .
	ruff format --check .
	mypy

c-check: setup
	clang-format --dry-run -Werror $(C_FILES)
	gcc -fsyntax-only -std=gnu11 -D_GNU_SOURCE -Wall -Werror -Icsrc -Iinclude -Itests/fuzz -Itests/support tests/fuzz/*.c
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
		--inline-suppr --suppress=missingIncludeSystem -D__x86_64__ -Icsrc -Iinclude $(CPPCHECK_217) $(filter %.c,$(C_FILES))

format: setup
	ruff format .
	ruff check --fix .
	clang-format -i $(C_FILES)

bench: build
	pyvmm bench $(or $(ARGS),all --quick)

clean:
	rm -rf build dist *.egg-info pyvmm/*.so pyvmm/kvm/*.so pyvmm/_core.c pyvmm/kvm/_kvm.c
