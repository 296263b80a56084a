# SPDX-License-Identifier: Apache-2.0
"""Builds the two cffi extension modules; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

builders = ["csrc/build.py:builder_of_kvm"]
if any(Path(__file__).resolve().parent.glob("csrc/*.c")):
    builders.append("csrc/build.py:builder_of_core")
setup(cffi_modules=builders)
