# SPDX-License-Identifier: Apache-2.0
"""Builds the two cffi extension modules; everything else about the package is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["csrc/build.py:kvm", "csrc/build.py:core"])
