# SPDX-License-Identifier: Apache-2.0
"""What the targets of Python share: atheris, which lets libFuzzer see the ways through the code of pyvmm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

try:
    import atheris
except ImportError:
    sys.exit("fuzz: no atheris for this Python; `make setup` installs it for 3.11 to 3.14")

if TYPE_CHECKING:
    from collections.abc import Callable

#: Imports within see to it that their module's ways are counted.
instrumented = atheris.instrument_imports
Provider = atheris.FuzzedDataProvider

#: Numbers at which parsers go wrong.
EDGES = (
    *(0, 1, 4, 8, 16, 0x1000, 0x100000, 0x200000, 0x1000000, 0x3FFFFFF, 0x4000000),
    *(1 << 31, (1 << 31) - 1, 0xFFFFFFFF, 1 << 32, 1 << 52, (1 << 63) - 1, (1 << 64) - 1),
)


def number(provider: Any, bits: int) -> int:
    """An edge, something small, or anything."""
    kind = provider.ConsumeIntInRange(0, 3)
    if kind == 0:
        value = EDGES[provider.ConsumeIntInRange(0, len(EDGES) - 1)]
    elif kind == 1:
        value = provider.ConsumeIntInRange(0, 0xFFFF)
    else:
        value = provider.ConsumeIntInRange(0, (1 << bits) - 1)
    return int(value) & (1 << bits) - 1


def run(one: Callable[[bytes], None]) -> None:
    """Searches, as the command line says to libFuzzer. An exception that `one` lets through is a finding."""
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
