# SPDX-License-Identifier: Apache-2.0
"""The selftests of the guest driver, as programs for guests of the kernel that they come with."""

from __future__ import annotations

from pathlib import Path

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.guest import cache, source
from pyvmm.guest.program import compiled

FOLDER = "tools/testing/selftests"
SUITE = f"{FOLDER}/symbiotic/swap_bypass.c"
#: The kernel's own, which the suite includes.
HARNESS = ("kselftest.h", "kselftest_harness.h")


def swap_bypass(linux: str) -> Path:
    """The tests of pages of the swap disk. The lab, which has no kernel sources, finds them made before."""
    folder = Path(cache_root()) / "selftests" / linux
    suite = folder / "symbiotic" / Path(SUITE).name
    suite.parent.mkdir(parents=True, exist_ok=True)
    if not all((folder / name).is_file() for name in HARNESS):
        tree = source.pristine(source.locate(cache.base_version(linux)))
        for name in HARNESS:
            tools.write_whole(folder / name, (tree / FOLDER / name).read_text())
    text = Path(cache.patch_tree(), cache.driver_file(SUITE)).read_text()
    if not suite.is_file() or suite.read_text() != text:
        tools.write_whole(suite, text)
    return compiled("swap_bypass", [suite, *(folder / name for name in HARNESS)])
