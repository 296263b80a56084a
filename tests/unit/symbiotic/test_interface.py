# SPDX-License-Identifier: Apache-2.0
"""include/symbiotic.h: whoever includes it can, and its page says the same numbers under the same names."""

from __future__ import annotations

import re
import subprocess

import pytest

from pyvmm._core import lib
from tests.support.tree import ROOT

HEADER = ROOT / "include" / "symbiotic.h"
PAGE = ROOT / "docs" / "symbiotic.md"
#: A table whose second column has names, all with the prefix that is its head.
TABLE = re.compile(
    r"^\| [\w ]+ \| `((?:MSR_)?SYM[A-Z_]+_)` \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", re.MULTILINE
)
ROW = re.compile(r"^\| (0x[\dA-Fa-f]+|\d+)[^|]* \| `(\w+)`", re.MULTILINE)


@pytest.mark.parametrize("language", ["c", "c++", "assembler-with-cpp"])
def test_every_language_can_include_it(language: str) -> None:
    strict = ["-Wall", "-Wextra", "-Werror"] if language != "assembler-with-cpp" else []
    command = ["gcc", *strict, "-c", "-x", language, str(HEADER), "-o", "/dev/null"]
    subprocess.run(command, check=True)


def test_the_page_has_the_numbers_of_the_header() -> None:
    said = {
        prefix + name: int(number, 0)
        for prefix, rows in TABLE.findall(PAGE.read_text())
        for number, name in ROW.findall(rows)
    }
    assert said == {name: getattr(lib, name) for name in said}
    assert {"MSR_SYMBIOTIC_RIP", "SYMCALL_SWAP_EVICT", "SYMBIOTIC_SWAP_BAD_RACE"} <= set(said)
    registers = {name for name in dir(lib) if name.startswith("MSR_SYMBIOTIC_")}
    assert registers <= set(said)
