# SPDX-License-Identifier: Apache-2.0
"""The guest kernels of tests: 6.12, which every run of the tests has, and the others, whose tests are of the rest that
`python -m tests --rest` runs: to build three kernels takes longer than all tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm.guest import cache

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

DEFAULT = cache.DEFAULT_LINUX
OLD, DEBUG = "6.1", "6.12-debug"
OTHERS = (OLD, DEBUG)


def one(name: str, *values: object) -> ParameterSet:
    """A parameter of a test, a kernel's name and what goes with it, marked if the kernel is one of the others."""
    other = name.removeprefix(cache.STOCK).removesuffix(cache.SYMBIOTIC) in OTHERS
    return pytest.param(name, *values, marks=pytest.mark.rest if other else ())


BOTH = (one(DEFAULT), one(OLD))
ALL = (*BOTH, one(DEBUG))
