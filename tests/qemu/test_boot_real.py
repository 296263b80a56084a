# SPDX-License-Identifier: Apache-2.0
"""Kernels of the cache loaded into memory; nothing runs."""

from __future__ import annotations

import pytest

from pyvmm.boot.load import load_kernel
from tests.support import images as support
from tests.support.images import MIB, FakeMemory

KERNELS = support.cached_kernels("vmlinu*") + support.cached_kernels("bzImage*")


@pytest.mark.parametrize("path", KERNELS or [None])
def test_real_kernels(path: str | None) -> None:
    if path is None:
        pytest.fail("no kernel in the cache: make guest")
    memory = FakeMemory(256 * MIB)
    state = load_kernel(path, memory, cmdline="console=ttyS0", initrd=[b"x"], rsdp=0xE0000)
    assert state.rip >= 16 * MIB
    assert any(memory.read(state.rip, 16))
