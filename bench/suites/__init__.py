# SPDX-License-Identifier: Apache-2.0
"""The suites: each file of this folder is one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from bench.suite import Suite


@cache
def every() -> dict[str, Suite]:
    """Import all, and return them by their names: those that any KVM can run come first."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = [(name, importlib.import_module(f"{__name__}.{name}").SUITE) for name in names]
    return dict(sorted(found, key=lambda item: (item[1].linux, item[0])))
