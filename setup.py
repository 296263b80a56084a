# SPDX-License-Identifier: Apache-2.0
"""Builds the two cffi extension modules; everything else about the package is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["csrc/build.py:builder_of_kvm", "csrc/build.py:builder_of_core"])
