# SPDX-License-Identifier: Apache-2.0
"""The guest kernels of tests: 6.12, which every run of the tests has, and the others, whose tests are of the rest that
`python -m tests --rest` runs: to build three kernels takes longer than all tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm.guest import cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _pytest.mark import ParameterSet

DEFAULT = cache.DEFAULT_LINUX
OLD, DEBUG = "6.1", "6.12-debug"
OTHERS = (OLD, DEBUG)
#: Debian's own. With the module each is another guest.
CLOUD = "6.12-cloud"
DEBIAN = (DEFAULT, CLOUD, OLD, "6.1-cloud", "7.3", "7.3-cloud")


def one(name: str, *values: object, always: Sequence[str] = (DEFAULT,)) -> ParameterSet:
    """A parameter of a test, a kernel's name and what goes with it, marked if the kernel is one of the others."""
    linux = name.removeprefix(cache.STOCK).removesuffix(cache.SYMBIOTIC)
    return pytest.param(name, *values, marks=() if linux in always else pytest.mark.rest)


def of_debian(
    *values: object, symbiotic: bool = False, always: Sequence[str] = (DEFAULT,)
) -> list[ParameterSet]:
    """Parameters of a test, each of Debian's kernels as the name of a guest and what goes with it."""
    names = [cache.stock_name(linux, symbiotic) for linux in DEBIAN]
    return [one(name, *values, always=always) for name in names]


BOTH = (one(DEFAULT), one(OLD))
ALL = (*BOTH, one(DEBUG))
