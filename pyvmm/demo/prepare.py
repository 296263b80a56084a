# SPDX-License-Identifier: Apache-2.0
"""Preparations for a demonstration or a benchmark."""

from __future__ import annotations

import sys

from pyvmm.demo import swapload
from pyvmm.guest.cache import STOCK


def ensure_guest(linux: str) -> None:
    """Build the guest, and the program that runs in it, unless the cache has them.

    Of a guest with Debian's kernel nothing is compiled but the module.
    """
    from pyvmm.guest.cache import find
    from pyvmm.guest.named import find_guest

    if linux.startswith(STOCK):
        find_guest(linux)
    elif find(linux) is None:
        from pyvmm.guest.build import build

        print(f"demo: building the Linux {linux} guest, once; about 6 minutes", file=sys.stderr)
        build(linux)
    swapload.program()
