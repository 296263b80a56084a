# SPDX-License-Identifier: Apache-2.0
"""Whose memory a process's mappings are counted as."""

from __future__ import annotations

import mmap
import os

import pytest

from pyvmm._core import ffi
from pyvmm.machine.footprint import footprint

SIZE = 4 << 20
#: A mapping may be larger than the memory in it.
MARGIN = 1 << 20


@pytest.fixture
def mapping() -> mmap.mmap:
    """A mapping of a file, which no other mapping joins; touched."""
    fd = os.memfd_create("footprint")
    os.ftruncate(fd, SIZE + MARGIN)
    made = mmap.mmap(fd, SIZE + MARGIN)
    os.close(fd)
    made.write(b"x" * (SIZE + MARGIN))
    return made


def test_each_mapping_is_counted_once(mapping: mmap.mmap) -> None:
    memory = int(ffi.cast("uintptr_t", ffi.from_buffer(mapping))) + MARGIN, SIZE
    nobody = footprint([])
    ram, window = footprint([memory]), footprint([], [memory])
    assert (nobody.guest_rss, nobody.swap_rss) == (0, 0)
    assert (ram.guest_rss, ram.swap_rss) == (SIZE + MARGIN, 0)
    assert (window.guest_rss, window.swap_rss) == (0, SIZE + MARGIN)
    assert 0 < ram.vmm_pss <= ram.vmm_rss < nobody.vmm_rss


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(OSError):
        footprint([], pid=1 << 30)
